"""A worker that dies is named once, with what was lost and what goes on."""

from __future__ import annotations

from pathlib import Path

from focus_agents.sft.restarts import NoteRestarts, describe_restarts, num_restarts


def test_restarts_are_told(tmp_path: Path) -> None:
    assert (num_restarts(tmp_path), describe_restarts(tmp_path)) == (0, [])
    note = NoteRestarts(tmp_path)
    note({1: ConnectionError("closed")})
    note({})
    first, second = describe_restarts(tmp_path)
    assert first == (
        "worker 1 has died (ConnectionError); what came after the last checkpoint is lost: all workers start again "
        "from there"
    )
    assert second.startswith("worker unknown has died (unknown)")
    assert num_restarts(tmp_path) == 2
