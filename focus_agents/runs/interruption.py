"""SIGTERM and Ctrl-C as a wish to stop at the next good moment."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


class StopRequest:
    """The request to stop the process, if there was one.

    Attributes:
        received: Which signal asked; None if none did.
    """

    received: signal.Signals | None = None


@contextlib.contextmanager
def stop_requests(announce: Callable[[str], None]) -> Iterator[StopRequest]:
    """While this is open, a first SIGTERM or SIGINT is noted; a second one does what it would have done without.

    Args:
        announce: Told the name of the signal when it comes.

    Yields:
        What to look at between two steps of the work. Outside the main thread, where Python admits no handlers, nothing
        changes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def note(number: int, frame: FrameType | None) -> None:
        request.received = signal.Signals(number)
        restore()
        announce(request.received.name)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield request
    finally:
        restore()
