"""The sink for TensorBoard: event files in the run's folder.

tensorboardX builds the records, since Ray brings it anyway, where `torch.utils.tensorboard` needs the whole viewer. Its
`SummaryWriter` is left aside: it writes in a thread of its own, which dies by a traceback when the disk is full and
then lets the training wait for ever.
"""

from __future__ import annotations

import io
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboardX.record_writer import masked_crc32c

from focus_agents.runs.metrics import describe
from focus_env.types import ImageArray

FOLDER = "tensorboard"
"""In a run's folder."""


class TensorBoardSink:
    """Writes event files, which `focus tensorboard` and TensorBoard itself show.

    Where positions go back, since a run goes on from a checkpoint, TensorBoard forgets what it was shown beyond, so no
    curve runs back.

    Args:
        run: The run's folder.
        done: Iterations or steps that a run has behind it that is gone on with.
    """

    name = "TensorBoard"

    def __init__(self, run: Path, *, done: int | None = None) -> None:
        self._folder = run / FOLDER
        self._file: Any = None
        self._position = -1 if done is None else done

    def log(self, metrics: Mapping[str, float], position: int) -> None:
        """Add a point to the curve of each metric; `Sink.log`."""
        values = [
            Summary.Value(tag=name, simple_value=value, metadata=SummaryMetadata(summary_description=describe(name)))
            for name, value in metrics.items()
        ]
        if position <= self._position:
            self.close()
            self._position = position - 1
        self._write(Event(summary=Summary(value=values)), position)
        self._position = position

    def show(self, name: str, picture: ImageArray, position: int) -> None:
        """Add a picture; `Sink.show`."""
        png = io.BytesIO()
        Image.fromarray(picture).save(png, "PNG")
        height, width = picture.shape[:2]
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png.getvalue())
        self._write(Event(summary=Summary(value=[Summary.Value(tag=name, image=image)])), position)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, event: Event, position: int) -> None:
        """Append an event, after those that open a file and drop what other files hold of what is still to come."""
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            # The names are read in their order; a second file of one second must not stand in for the first.
            name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
            self._file = (self._folder / name).open("xb", buffering=0)
            self._append(Event(file_version="brain.Event:2"))
            self._append(Event(step=self._position + 1, session_log=SessionLog(status=SessionLog.START)))
        event.step = position
        self._append(event)

    def _append(self, event: Event) -> None:
        """Append one event whole, or leave the file as it is.

        Raises:
            OSError: If it cannot be written.
        """
        event.wall_time = time.time()
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        checks = (struct.pack("<I", masked_crc32c(part)) for part in (length, data))
        record = memoryview(length + next(checks) + data + next(checks))
        size = self._file.seek(0, os.SEEK_END)
        try:
            while record:
                record = record[self._file.write(record) :]
        except OSError:
            self._file.truncate(size)
            raise
