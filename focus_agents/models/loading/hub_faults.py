"""Explain faults between this machine and the hub, each kind in a line of its own: what happened, and what to do.

Kinds are told by status codes, and by the names of the exceptions' classes, since the hub's library has changed its
HTTP client before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from errno import EDQUOT, ENOSPC
from typing import TypeVar

from huggingface_hub import constants

T = TypeVar("T")

WAITS_S = (1.0, 4.0)
"""Seconds before a second and a third try, where a fault may pass by itself."""
LONGEST_WAIT_S = 60.0
"""Where the hub asks for a longer wait, there is no further try, and the message tells the wait."""
MAX_QUOTED = 200
"""Characters of what the hub says that a message repeats."""

_LOG_IN = "its token may not write there: log in by `hf auth login` with one that may, or set HF_TOKEN"
_ADVICE: Mapping[int, str] = {
    400: "correct what it names",
    401: _LOG_IN,
    402: "the account has no room or no plan for this: see its settings on the hub",
    403: _LOG_IN,
    404: "it has no such place: correct the owner, the name or the branch",
    409: "somebody else writes there now, or the name is taken by something else: look at its page, then try again",
    413: "it takes no file as large: write smaller ones, or ask the hub for room",
    422: "correct what it names",
    451: "it has closed this place: ask its owner",
}
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class HubFault:
    """A fault between this machine and the hub.

    Attributes:
        what: What the hub did, behind "the hub", in one line.
        advice: What to do.
        may_pass: Whether the same question may be answered a little later.
        wait_s: Seconds that the hub asks to wait; None: it names none.
    """

    what: str
    advice: str
    may_pass: bool = False
    wait_s: float | None = None


def hub_fault(error: BaseException) -> HubFault:
    """Say what an exception of the hub's library means.

    Args:
        error: Of the library, or of its HTTP client. One that stands for its cause, as where one of several uploads
            failed, is told by that cause.
    """
    while type(error) is RuntimeError and error.__cause__ is not None:
        error = error.__cause__
    response = getattr(error, "response", None)
    code = getattr(response, "status_code", None)
    if code is not None:
        return _answered(error, code, getattr(response, "headers", {}))
    kinds = {kind.__name__ for kind in type(error).__mro__}
    place = f"{constants.ENDPOINT} (HF_ENDPOINT)"
    reason = f"{type(error).__name__}: {one_line(error)}"
    if "TooManyRedirects" in kinds:
        return HubFault("sends from one address to the next without an end", f"see that {place} is the hub's address")
    if kinds & {"TimeoutException", "Timeout", "TimeoutError"}:
        return HubFault(f"does not answer in time ({reason})", "try again later, or see to the network", may_pass=True)
    if kinds & {"RemoteProtocolError", "ChunkedEncodingError", "IncompleteRead"}:
        return HubFault(f"broke off its answer ({reason})", "try again, or see to the network", may_pass=True)
    if kinds & {"UnsupportedProtocol", "InvalidURL", "MissingSchema", "InvalidSchema", "LocalProtocolError"}:
        return HubFault(f"has no address that can be asked ({reason})", f"correct {place}")
    if isinstance(error, ValueError) and "README.md" in str(error):
        return HubFault(f"refuses the card ({one_line(error)})", "correct the header of README.md")
    if "DecodingError" in kinds or isinstance(error, ValueError | LookupError | TypeError | AttributeError):
        return HubFault(
            f"gives an answer that is none of the hub's ({reason})",
            f"see that {place} is its address, and that no proxy or login page stands between",
        )
    return HubFault(f"cannot be reached ({reason})", "see to the network")


def _answered(error: BaseException, code: int, headers: Mapping[str, str]) -> HubFault:
    """Return the fault that a status code means."""
    told = one_line(getattr(error, "server_message", None) or headers.get("X-Error-Message") or "")
    said = f"{code}: {told}" if told else f"{code}"
    wait = headers.get("Retry-After", "")
    wait_s = float(wait) if wait.isdecimal() else None
    if code == 429:
        later = "a while" if wait_s is None else f"{wait_s:.0f} seconds"
        return HubFault(f"is asked too often ({said})", f"wait {later}, then try again", may_pass=True, wait_s=wait_s)
    if code >= 500 or code in _PASSING:
        return HubFault(
            f"has a fault of its own ({said})", "try again later; https://status.huggingface.co tells of known faults",
            may_pass=code in _PASSING, wait_s=wait_s,
        )  # fmt: skip
    return HubFault(f"refuses ({said})", _ADVICE.get(code, "see what its page says, then try again"))


def one_line(text: object) -> str:
    """Return what somebody else says as one line of at most `MAX_QUOTED` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= MAX_QUOTED else f"{line[: MAX_QUOTED - 3]}..."


def is_of_disk(error: BaseException) -> bool:
    """Tell whether an exception is about this machine's files and not about the hub."""
    return isinstance(error, OSError) and (error.filename is not None or error.errno in (ENOSPC, EDQUOT))


def patiently(ask: Callable[[], T]) -> T:
    """Ask the hub, and again after each of `WAITS_S` where the fault may pass by itself.

    Args:
        ask: Asks; called once more for each try, so it may be repeated without harm.

    Raises:
        Exception: The last one of `ask`.
    """
    for wait_s in WAITS_S:
        try:
            return ask()
        except Exception as error:  # of the library, of its HTTP client
            fault = hub_fault(error)
            if not fault.may_pass or (fault.wait_s or 0) > LONGEST_WAIT_S:
                raise
            time.sleep(max(wait_s, fault.wait_s or 0))
    return ask()
