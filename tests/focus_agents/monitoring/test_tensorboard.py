"""Event files, read back record by record; and by TensorBoard itself where it is installed."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from focus_agents.monitoring.recorder import Recorder
from focus_agents.monitoring.tensorboard import TensorBoardSink
from focus_agents.runs.folder import RunDirectory


def events(run: Path) -> list[Any]:
    """All events, in the order in which TensorBoard reads the files; the check sums must fit."""
    found = []
    for file in sorted((run / "tensorboard").iterdir()):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack("<Q", data[at : at + 8])
            body = data[at + 12 : at + 12 + size]
            assert struct.unpack("<I", data[at + 8 : at + 12]) == (masked_crc32c(data[at : at + 8]),)
            assert struct.unpack("<I", data[at + 12 + size : at + 16 + size]) == (masked_crc32c(body),)
            found.append(Event.FromString(body))
            at += 16 + size
    return found


def curve(run: Path, name: str) -> list[tuple[int, float]]:
    """What TensorBoard shows of a name: a START drops what other files hold from its step on."""
    points: list[tuple[int, float]] = []
    for event in events(run):
        if event.HasField("session_log") and event.session_log.status == SessionLog.START:
            points = [point for point in points if point[0] < event.step]
        points += [(event.step, value.simple_value) for value in event.summary.value if value.tag == name]
    return points


def test_curves_have_the_names_of_the_metrics_and_their_meaning(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path)
    sink.log({"validation_miou": 0.5}, 0)
    sink.log({"reward": 0.25, "reward/iou_at(0.5)": 1.0, "support_mass/-1": 0.125}, 1)
    sink.close()
    assert curve(tmp_path, "validation_miou") == [(0, 0.5)]
    assert curve(tmp_path, "reward/iou_at(0.5)") == [(1, 1.0)]
    assert curve(tmp_path, "support_mass/-1") == [(1, 0.125)]
    (value,) = (value for event in events(tmp_path) for value in event.summary.value if value.tag == "reward")
    assert value.metadata.summary_description.startswith("mean reward of the sampled answers")
    assert value.metadata.summary_description.endswith("(reward); healthy: rises")


def test_a_run_that_is_gone_on_with_drops_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    first = TensorBoardSink(tmp_path)
    for position in range(6):
        first.log({"reward": position / 8}, position)
    second = TensorBoardSink(tmp_path, done=3)  # the first was killed; what it wrote is on the disk without a close
    second.show("validation", np.zeros((2, 2, 3), dtype=np.uint8), 3)  # drops nothing of what is done
    for position in (4, 5, 6):
        second.log({"reward": -1.0}, position)
    assert curve(tmp_path, "reward") == [*((n, n / 8) for n in range(4)), (4, -1.0), (5, -1.0), (6, -1.0)]


def test_a_damaged_checkpoint_means_an_older_one(tmp_path: Path) -> None:
    first = TensorBoardSink(tmp_path)
    for position in range(6):
        first.log({"reward": position / 8}, position)
    TensorBoardSink(tmp_path, done=4).log({"reward": -1.0}, 3)
    assert curve(tmp_path, "reward") == [*((n, n / 8) for n in range(3)), (3, -1.0)]


def test_positions_that_go_back_in_one_process_start_a_new_file(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path)
    for position in (1, 2, 3, 2, 3, 4):
        sink.log({"reward": position / 8}, position)
    assert curve(tmp_path, "reward") == [(n, n / 8) for n in (1, 2, 3, 4)]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2


def test_pictures_come_back_as_they_were(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    sink = TensorBoardSink(tmp_path)
    sink.show("validation", picture, 3)
    (value,) = (value for event in events(tmp_path) for value in event.summary.value)
    assert (value.tag, value.image.width, value.image.height) == ("validation", 7, 5)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string))), picture)


def test_a_full_disk_leaves_whole_events_and_is_said_once(tmp_path: Path) -> None:
    """Half of a record goes to the disk before it is full."""
    run = RunDirectory.create(tmp_path / "run", {"name": "run"})
    sink, output = TensorBoardSink(run.path), io.StringIO()
    recorder = Recorder(run, Console(file=output, width=20), [sink])
    recorder.log({"iteration": 1, "reward": 0.5})
    real = sink._file

    class Full:
        def __init__(self) -> None:
            self.seek, self.truncate, self.close = real.seek, real.truncate, real.close

        def write(self, data: memoryview) -> int:
            if len(data) < 40:
                raise OSError(28, "No space left on device")
            return int(real.write(data[: len(data) - 20]))

    sink._file = Full()
    for iteration in (2, 3):
        recorder.log({"iteration": iteration, "reward": 0.5})
    assert curve(run.path, "reward") == [(1, 0.5)]
    (line,) = output.getvalue().splitlines()
    assert line.startswith("warning: TensorBoard cannot be written (OSError: [Errno 28] No space left on dev")
    assert [line["iteration"] for line in run.read_metrics()] == [1, 2, 3]


def test_tensorboard_itself_reads_them(tmp_path: Path) -> None:
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for positions, value, done in ((range(6), 0.5, None), (range(4, 8), 0.25, 3)):
        sink = TensorBoardSink(tmp_path, done=done)
        for position in positions:
            sink.log({"reward": value}, position)
            sink.show("validation", np.zeros((2, 2, 3), dtype=np.uint8), position)
    found = reading.EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0})  # 0: all
    found.Reload()
    assert [(point.step, point.value) for point in found.Scalars("reward")] == [
        *((n, 0.5) for n in range(4)), *((n, 0.25) for n in range(4, 8)),
    ]  # fmt: skip
    assert [picture.step for picture in found.Images("validation")] == list(range(8))
