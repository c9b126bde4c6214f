r"""Propose boxes in Label Studio for all pictures of a project, from the pictures that are labelled so far.

How to run, beside a Label Studio on this machine; then connect http://localhost:9090 in the project's settings, Model:
    focus labelstudio
    focus labelstudio --policy vlm:focus-small --url https://labels.example.org --data-root /data/pictures

With a token of Label Studio's API in LABEL_STUDIO_API_KEY, the backend can read pictures that were uploaded there,
and the boxes that were labelled before the connection. The backend listens on this machine alone; --host 0.0.0.0 opens
it to others, without a password. Ctrl-C ends the program.
"""

from __future__ import annotations

import os
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
from focus_agents.finding import DEFAULT_BATCH_SIZE
from focus_agents.finding.wanted import DEFAULT_SHOTS
from focus_agents.policies.registry import policies_help
from focus_agents.processes.loopback import is_loopback
from focus_agents.settings import Settings

if TYPE_CHECKING:
    from http.server import ThreadingHTTPServer

TOKEN = "LABEL_STUDIO_API_KEY"
"""The variable of the environment that Label Studio's own client reads its token from."""
POLICY_HELP = f"None: the best for these pictures that needs no download, which is said. {policies_help()}"


@dataclass(frozen=True, kw_only=True)
class Args(Settings):
    """Propose boxes in Label Studio, from those that are labelled so far."""

    url: str = "http://localhost:8080"
    """Address of Label Studio, the only address from which pictures are fetched."""
    data_root: Path | None = None
    """Folder of Label Studio's local files, its LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT; None: fetch local files from
    --url, too."""
    host: str = "127.0.0.1"
    """Address to listen on; only this machine can reach 127.0.0.1."""
    port: Annotated[int, Ge(0), Le(65535)] = 9090
    """Port; 0: any free port."""
    shots: Annotated[int, Ge(1)] = DEFAULT_SHOTS
    """Most labelled boxes of a label to show to a model, spread evenly."""
    min_score: Annotated[float, Ge(0), Le(1)] | None = None
    """Boxes of a lower score are not proposed; see docs/finding.md. None: propose all boxes."""
    batch_size: Annotated[int, Ge(1)] = DEFAULT_BATCH_SIZE
    """Pictures that the policy answers together."""
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
    address = f"http://{args.host}:{server.server_port}"
    console.print(f"listening at {address}; connect it in the settings of a project of {args.url}  (Ctrl-C ends it)")
    advice = "boxes labelled so far are in Label Studio"
    with server, work_errors(Args, make_console(stderr=True), advice=lambda: advice):
        server.serve_forever()


def start(args: Args, say: Callable[[str], None]) -> ThreadingHTTPServer:
    """Return a server that listens already.

    Args:
        args: Of the command.
        say: Called with lines for people.

    Raises:
        ValueError: If an argument is wrong.
        FocusError: If the policy cannot be made.
        OSError: If it cannot listen there.
    """
    from focus_agents.integrations.label_studio.backend import Backend
    from focus_agents.integrations.label_studio.host import Host
    from focus_agents.integrations.label_studio.server import make_server

    args.policies.check_device()
    host = Host(args.url, token=os.environ.get(TOKEN, ""), data_root=args.data_root)
    policies = AskedPolicies(args.policy, args.policies, calibration=args.calibration, say=say)
    backend = Backend(
        host,
        policies.looker,
        name=args.policy or "focus",
        shots=args.shots,
        min_score=args.min_score,
        batch_size=args.batch_size,
        say=say,
    )
    try:
        server = make_server(backend, host=args.host, port=args.port)
    except OSError as error:
        raise ValueError(f"port: cannot listen at {args.host}:{args.port}: {error}; choose another") from error
    if not is_loopback(args.host):
        say("note: whoever reaches this address can ask, without a password")
    return server
