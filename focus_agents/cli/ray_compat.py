"""Ray's private names that the commands depend on, each with the reason; none is used elsewhere in `cli`."""

from __future__ import annotations

from typing import Any


def show_token() -> None:
    """Show the token of this user's clusters, if there is one, to a cluster that is named by its address.

    Ray does so by itself for the address `auto` only, though any head that it starts beside such a token asks for it,
    and has no public call. A cluster that asks for none takes whoever shows one.
    """
    from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available

    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def own_node() -> Any:
    """Return the node of Ray that this process has started, or None; nothing public tells it from another."""
    import ray

    return ray._private.worker._global_node


def raylets(node: Any) -> list[Any]:
    """Return the processes of a node's daemon, as `subprocess.Popen`; none for a cluster that was joined."""
    return [info.process for info in getattr(node, "all_processes", {}).get("raylet", ())]
