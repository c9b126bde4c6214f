r"""Open a page on which you draw a box around an object in a few pictures, and see the object in all others or a video.

How to run; then open the printed address:
    focus app
    focus app --policy vlm:focus-small --port 8000 --keep runs/tried
    focus app --host 0.0.0.0

The page needs no network. Pictures stay in the memory of this program, and are gone when the page is closed or has been
silent for half an hour; --keep DIR keeps them, with the answers as COCO. The program listens on this machine alone;
with --host 0.0.0.0 a phone in the same network can open the page, unencrypted. Ctrl-C ends the program.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from annotated_types import Ge, Le

from focus_agents.cli.asked_policies import AskedPolicies
from focus_agents.cli.command_line import parse
from focus_agents.cli.common import PolicyArguments
from focus_agents.cli.data_checks import check_policy_flags
from focus_agents.cli.errors import make_console, user_errors, work_errors
from focus_agents.policies.registry import policies_help
from focus_agents.processes.loopback import is_loopback
from focus_agents.settings import Settings

if TYPE_CHECKING:
    from focus_agents.app.server import AppServer

POLICY_HELP = f"None: the best for the pictures that needs no download, which the page says. {policies_help()}"
EVERYWHERE = ("0.0.0.0", "::")


@dataclass(frozen=True, kw_only=True)
class Args(Settings):
    """Open a page: you draw boxes in some pictures, and see the answers in all others."""

    host: str = "127.0.0.1"
    """Address to listen on; only this machine can reach 127.0.0.1."""
    port: Annotated[int, Ge(0), Le(65535)] = 7860
    """Port; 0: any free port."""
    max_upload: Annotated[int, Ge(1), Le(512)] = 64
    """Most MB of a picture or a video."""
    keep: Path | None = None
    """Folder for pictures and answers, with a folder for each opened page; None: keep nothing."""
    calibration: Path | None = None
    """File `calibration/<cell>.json` of an evaluation of --policy, which turns scores of boxes into probabilities of
    being right; None: keep the policy's scores."""
    policy: Annotated[str | None, tyro.conf.arg(help=POLICY_HELP)] = None
    policies: PolicyArguments = PolicyArguments()

    def check_given(self, given: Collection[str]) -> None:
        """Refuse flags of a command line that have no effect; see `focus_agents.cli.data_checks`."""
        if self.policy is not None:
            check_policy_flags(given, [self.policy])


def main() -> None:
    console = make_console(arguments=Args)
    with user_errors(Args):
        args = parse(Args, __doc__)
        server = start(args, console.print)
    console.print(f"open {address(args.host, server)}  (Ctrl-C ends it)")
    advice = "nothing is kept" if args.keep is None else f"what was kept is in {args.keep}"
    with server, work_errors(Args, make_console(stderr=True), advice=lambda: advice):
        server.serve_forever()


def start(args: Args, say: Callable[[str], None]) -> AppServer:
    """Return a server that listens already.

    Args:
        args: Of the command.
        say: Called with lines for people.

    Raises:
        ValueError: If an argument is wrong.
        FocusError: If the policy cannot be made.
    """
    from focus_agents.app.server import AppServer
    from focus_agents.app.service import App

    args.policies.check_device()
    if args.keep is not None and args.keep.exists() and not args.keep.is_dir():
        raise ValueError(f"keep: expected a folder, got the file {args.keep}; choose another")
    policies = AskedPolicies(args.policy, args.policies, calibration=args.calibration, say=say)
    app = App(policies, most_upload=args.max_upload * 2**20, keep=args.keep, say=say)
    try:
        server = AppServer(app, host=args.host, port=args.port)
    except OSError as error:
        raise ValueError(f"port: cannot listen at {args.host}:{args.port}: {error}; choose another") from error
    if not is_loopback(args.host):
        say("note: whoever has the address can ask, and what is sent is not encrypted")
    return server


def address(host: str, server: AppServer) -> str:
    """Return the address of the page, as another machine has it if it may ask."""
    name = own_address() if host in EVERYWHERE else host
    return f"http://{f'[{name}]' if ':' in name else name}:{server.server_port}/#token={server.token}"


def own_address() -> str:
    """Return the address of this machine in its network, without a packet sent; its name where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # of no machine, RFC 5737
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()


if __name__ == "__main__":
    main()
