"""Standard output and error that no full disk, closed pipe or old character set turns into the end of the work."""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import sys
from typing import Any, TextIO

READER_GONE = errno.EPIPE


class Sturdy:
    """A text stream that leaves out what it cannot write, and says so once on the standard error.

    Characters that the stream's encoding lacks become question marks. Everything else is that of the stream.

    Args:
        stream: Such as `sys.stdout`.

    Attributes:
        stream: The stream itself.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream, self._has_told = stream, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write a text, as far as that can be done; returns its length."""
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
        if self._has_told:
            return
        self._has_told = True
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        with contextlib.suppress(OSError, ValueError, AttributeError):  # nobody is left to be told
            sys.stderr.write(
                f"warning: the standard output cannot be written ({reason}); such lines are left out, work goes on\n"
            )
            sys.stderr.flush()


def guard_output() -> None:
    """Make the standard output and the standard error of this process sturdy, until it ends.

    The error's own failures have nowhere to be told.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or isinstance(stream, Sturdy):
            continue
        guarded = Sturdy(stream)
        setattr(sys, name, guarded)
        atexit.register(guarded.end)
