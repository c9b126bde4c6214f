"""Draws ahead whatever shared memory is like: full, or with room for none of the processes' queues."""

import contextlib
import resource
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from focus_agents.processes.loader import drawn_ahead

NUM_VALUES = 100_000
LONGEST_WAIT = 60
"""Seconds; a batch that is lost would else be waited for for ever."""


class Numbers(Dataset[torch.Tensor]):
    """Tensors of 400 kB, of which each holds its index; what a process writes may be limited."""

    def __init__(self, *, largest_file: int | None = None) -> None:
        self.largest_file = largest_file

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> torch.Tensor:
        if index < 0:
            raise ValueError(f"index {index} is below 0")
        if self.largest_file is not None and get_worker_info() is not None:
            limit_files(self.largest_file)
        return torch.full((NUM_VALUES,), float(index))


def limit_files(size: int) -> None:
    """Let no file of this process, nor shared memory, grow beyond a size, as where the place is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@contextlib.contextmanager
def limited_wait() -> Iterator[None]:
    def end(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("waited for a batch that does not come")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(LONGEST_WAIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def drawn(dataset: Dataset[Any], **options: Any) -> tuple[list[list[float]], list[str]]:
    """First and last value of what is drawn, and what is warned of."""
    told: list[str] = []
    options = {"sampler": range(6), "num_processes": 1} | options
    with limited_wait():
        batches = list(drawn_ahead(dataset, warn=told.append, **options))
    return [[float(batch.flatten()[0]), float(batch.flatten()[-1])] for batch in batches], told


ONE_BY_ONE = [[float(n), float(n)] for n in range(6)]


@pytest.mark.parametrize("num_processes", [0, 1, 2])
class TestOrder:
    def test_one_by_one(self, num_processes: int) -> None:
        assert drawn(Numbers(), num_processes=num_processes) == (ONE_BY_ONE, [])

    def test_in_batches(self, num_processes: int) -> None:
        options: dict[str, Any] = {"sampler": None, "batch_sampler": [[3, 1], [2], [5, 0]], "collate": torch.stack}
        expected = [[3.0, 1.0], [2.0, 2.0], [5.0, 0.0]]
        assert drawn(Numbers(), num_processes=num_processes, **options) == (expected, [])

    def test_an_error_of_the_data_set_is_the_caller_s(self, num_processes: int) -> None:
        with pytest.raises(ValueError, match="index -1 is below 0"):
            drawn(Numbers(), num_processes=num_processes, sampler=[0, -1])


class TestSharedMemory:
    def test_holds_the_tensors_where_there_is_room(self) -> None:
        with limited_wait():
            assert all(batch.is_shared() for batch in drawn_ahead(Numbers(), num_processes=1, sampler=range(6)))

    @pytest.mark.parametrize("num_processes", [1, 2])
    def test_that_is_full_gives_the_same_by_a_pipe_and_says_so_once(self, num_processes: int) -> None:
        found, told = drawn(Numbers(largest_file=NUM_VALUES), num_processes=num_processes)
        assert found == ONE_BY_ONE
        (warning,) = told
        assert warning.startswith("shared memory cannot be had for training data (")
        assert "it comes through a pipe" in warning
        assert warning.endswith("or start the container with more of it")

    def test_that_is_full_makes_a_plain_loader_wait(
        self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Why `drawn_ahead` packs by itself; when this fails, torch does without."""
        monkeypatch.setattr(f"{__name__}.LONGEST_WAIT", 5)
        loader = DataLoader(Numbers(largest_file=NUM_VALUES), batch_size=None, sampler=range(6), num_workers=1)
        with limited_wait(), pytest.raises(TimeoutError, match="does not come"):
            list(loader)
        assert "Traceback" in capfd.readouterr().err

    def test_without_room_for_queues_is_not_needed(self) -> None:
        told: list[str] = []
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        batches = drawn_ahead(Numbers(), num_processes=1, sampler=range(6), warn=told.append)
        limit_files(0)
        try:
            first = next(batches)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert [float(batch[0]) for batch in [first, *batches]] == [float(n) for n in range(6)]
        (warning,) = told
        assert warning.startswith("no process can be started that draws training data ahead (")
