"""Standard output and error that no full disk, closed pipe or old character set turns into the end of the work."""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import sys
from typing import Any, TextIO

READER_GONE = errno.EPIPE


def is_live(stream: Any) -> bool:
    """Return whether a stream is a terminal that can take back what it shows."""
    return stream is not None and stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


class Sign:
    """A sign of life on a terminal, before the first line of a command, which takes its place.

    Args:
        text: Such as "focus grpo ..."; empty: there is none.
    """

    def __init__(self, text: str = "") -> None:
        self._is_there = bool(text) and is_live(sys.stderr)
        if self._is_there:
            sys.stderr.write(f"\r{text}")
            sys.stderr.flush()

    def remove(self) -> None:
        """Clear the line."""
        if self._is_there:
            self._is_there = False  # first, since what follows is written by one that removes it
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


class Sturdy:
    """A text stream that leaves out what it cannot write, and says so once on the standard error.

    Characters that the stream's encoding lacks become question marks. Everything else is that of the stream.

    Args:
        stream: Such as `sys.stdout`.

    Attributes:
        stream: The stream itself.
        tells_of_reader: Whether a reader that is gone is worth a word: where work goes on without.
        sign: What stands on the terminal until something is printed.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream, self._has_told = stream, False
        self.tells_of_reader, self.sign = True, Sign()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write a text, as far as that can be done; returns its length."""
        self.sign.remove()
        try:
            self.stream.write(text)
        except UnicodeEncodeError:
            encoding = self.stream.encoding or "ascii"
            self.write(text.encode(encoding, errors="replace").decode(encoding))
        except (OSError, ValueError) as error:  # ValueError: somebody has closed it
            self._tell(error)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Hand on what was written, as far as that can be done."""
        try:
            self.stream.flush()
        except (OSError, ValueError) as error:
            self._tell(error)

    def end(self) -> None:
        """Flush for the last time; what is left then goes nowhere, so that Python does not end with an error.

        Nothing is said of a reader that has seen enough, as `head` has.
        """
        self.sign.remove()
        try:
            self.stream.flush()
        except OSError as error:
            if error.errno != READER_GONE:
                self._tell(error)
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self.stream.fileno())
                os.close(nowhere)
        except ValueError:
            pass

    def _tell(self, error: Exception) -> None:
        is_reader_gone = isinstance(error, OSError) and error.errno == READER_GONE
        if self._has_told or (is_reader_gone and not self.tells_of_reader):
            return
        self._has_told = True
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        with contextlib.suppress(OSError, ValueError, AttributeError):  # nobody is left to be told
            sys.stderr.write(
                f"warning: the standard output cannot be written ({reason}); such lines are left out, work goes on\n"
            )
            sys.stderr.flush()


def guard_output(*, tells_of_reader: bool = True, sign: str | None = None) -> None:
    """Make the standard output and the standard error of this process sturdy, until it ends.

    The error's own failures have nowhere to be told.

    Args:
        tells_of_reader: Say so where the reader has gone. A help that `head` cuts is as it should be.
        sign: Shown on a terminal until the first line is printed, since imports take their time on a busy machine.
    """
    shown = Sign(sign or "")
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            continue
        if not isinstance(stream, Sturdy):
            stream = Sturdy(stream)
            setattr(sys, name, stream)
            atexit.register(stream.end)
        if sign:
            stream.sign = shown
        if not tells_of_reader:
            stream.tells_of_reader = False
