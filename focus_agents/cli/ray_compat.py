"""Ray's private names that the commands depend on, each with the reason; none is used elsewhere in `cli`."""

from __future__ import annotations

import atexit
from types import ModuleType
from typing import Any


def show_token() -> None:
    """Show the token of this user's clusters, if there is one, to a cluster that is named by its address.

    Ray does so by itself for the address `auto` only, though any head that it starts beside such a token asks for it,
    and has no public call. A cluster that asks for none takes whoever shows one.
    """
    from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available

    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def new_token() -> str:
    """Return a token as Ray makes one, for a place of our own; its command writes to the user's home alone."""
    from ray._private.authentication.authentication_token_generator import generate_new_authentication_token

    return str(generate_new_authentication_token())


def own_node() -> Any:
    """Return the node of Ray that this process has started, or None; nothing public tells it from another."""
    import ray

    return ray._private.worker._global_node


def session_of_ray() -> dict[str, str] | None:
    """Return name, folder of logs and address of the session that this process takes part in; None: there is none.

    Of a cluster that is joined by `ray://` nothing is known here.
    """
    node = own_node()
    if node is None:
        return None
    return {
        "ray_session": str(node.session_name),
        "ray_logs": str(node.get_logs_dir_path()),
        "ray_address": str(node.gcs_address),
    }


def raylets(node: Any) -> list[Any]:
    """Return the processes of a node's daemon, as `subprocess.Popen`; none for a cluster that was joined."""
    return [info.process for info in getattr(node, "all_processes", {}).get("raylet", ())]


def forget_shutdown(worker: ModuleType) -> None:
    """Let Ray not shut itself down when Python ends, if it does not run; it registers that when it is imported.

    Args:
        worker: `ray._private.worker`, perhaps half imported.
    """
    state, shutdown = getattr(worker, "global_worker", None), getattr(worker, "shutdown", None)
    if shutdown is not None and not getattr(state, "connected", False):
        atexit.unregister(shutdown)
