"""Draw items of a data set ahead, in other processes."""

from __future__ import annotations

import multiprocessing
import pickle
import warnings
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.reduction import ForkingPickler
from typing import Any, Generic, TypeVar

from torch.utils.data import DataLoader, Dataset, default_convert

T = TypeVar("T")


def drawn_ahead(
    dataset: Dataset[Any],
    *,
    num_processes: int,
    warn: Callable[[str], None] = warnings.warn,
    sampler: Iterable[Any] | None = None,
    batch_sampler: Iterable[list[Any]] | None = None,
    collate: Callable[[Any], T] = default_convert,
) -> Iterator[T]:
    """Draw from a data set in the order of a sampler, ahead where there are processes for it.

    Shared memory may be small, as the 64 MB of a container. Batches that do not fit come through a pipe.

    Args:
        dataset: What to draw from.
        num_processes: Processes that draw ahead; 0 draws in this one.
        warn: Told once where shared memory is full, or no process can be started, whose work this one does then.
        sampler: Items of the data set, each drawn alone.
        batch_sampler: Lists of items, each drawn together; this or `sampler`.
        collate: Makes of an item, or of a list of them, what is given.
    """
    options: dict[str, Any] = {"sampler": sampler, "batch_sampler": batch_sampler}
    if batch_sampler is None:
        options["batch_size"] = None
    if num_processes:
        try:
            _check_queues(num_processes + 1)
            loader = DataLoader(dataset, num_workers=num_processes, collate_fn=_Packing(collate), **options)
            packed = iter(loader)
        except OSError as error:
            warn(f"no process can be started that draws training data ahead ({error}), so that each step waits for it")
        else:
            yield from _unpacked(packed, warn)
            return
    yield from DataLoader(dataset, collate_fn=collate, **options)


class _Packing(Generic[T]):
    """Collates, and makes of the batch the bytes that a process hands over, with why they hold its tensors, if so.

    Tensors are put into shared memory here. A queue would do it in a thread of its own, and where that fails drop the
    batch, for which the training would wait for ever. What has failed once is not tried again, since torch leaves the
    name of a file behind each time.

    Args:
        collate: As in `drawn_ahead`.
    """

    def __init__(self, collate: Callable[[Any], T]) -> None:
        self._collate = collate
        self._refusal = ""

    def __call__(self, items: Any) -> tuple[bytes, str]:
        """Collate items of the data set."""
        batch = self._collate(items)
        if not self._refusal:
            try:
                return bytes(ForkingPickler.dumps(batch)), ""
            except (OSError, RuntimeError) as error:  # torch's own is a RuntimeError
                self._refusal = str(error)
        return pickle.dumps(batch, protocol=pickle.HIGHEST_PROTOCOL), self._refusal


def _unpacked(packed: Iterator[tuple[bytes, str]], warn: Callable[[str], None]) -> Iterator[Any]:
    """Yield the batches that processes hand over; where not by shared memory, the first time with a warning."""
    is_told = False
    for batch, refusal in packed:
        if refusal and not is_told:
            is_told = True
            warn(
                f"shared memory cannot be had for training data ({refusal}); it comes through a pipe, which is slower. "
                "Make room in /dev/shm, or start the container with more of it"
            )
        yield pickle.loads(batch)


def _check_queues(number: int) -> None:
    """Make queues, as a data loader does, whose locks need a little shared memory.

    Raises:
        OSError: If they cannot be had. A data loader that fails half made would print more than its error.
    """
    _ = [multiprocessing.Queue() for _ in range(number)], multiprocessing.Event()
