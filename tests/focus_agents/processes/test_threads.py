"""Threads sleep while they wait for each other, unless a user says how they wait."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from focus_agents.processes import threads
from focus_agents.processes.threads import PASSIVE, SETTINGS, chosen_settings, wait_passively


@pytest.fixture(autouse=True)
def _nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.setenv(name, "")  # so that whatever a test sets is taken back
        monkeypatch.delenv(name)
    monkeypatch.setattr(threads, "_chosen", {})


def set_settings() -> dict[str, str]:
    return {name: os.environ[name] for name in SETTINGS if name in os.environ}


def test_where_nothing_is_said() -> None:
    assert chosen_settings() == {}
    for _ in range(2):  # a second call finds what the first has set, which stays ours
        wait_passively()
        assert set_settings() == chosen_settings() == PASSIVE


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OMP_WAIT_POLICY", "ACTIVE"),
        ("OMP_WAIT_POLICY", "passive"),
        ("OMP_WAIT_POLICY", ""),
        ("GOMP_SPINCOUNT", "infinite"),
        ("KMP_BLOCKTIME", "200"),
        ("KMP_LIBRARY", "turnaround"),
    ],
)
def test_a_users_setting_stays_the_only_one(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    wait_passively()
    assert set_settings() == {name: value}
    assert chosen_settings() == {}


@pytest.mark.parametrize("user", [{}, {"GOMP_SPINCOUNT": "77"}])
def test_torchs_threads_read_it(user: dict[str, str]) -> None:
    """As OpenMP shows what it has read, when torch loads it."""
    code = "from focus_agents.processes.threads import wait_passively; wait_passively(); import torch"
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, **user, "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
    )
    if "GOMP_SPINCOUNT" not in result.stderr:
        pytest.skip("torch's OpenMP is not GNU's")
    assert f"GOMP_SPINCOUNT = '{user.get('GOMP_SPINCOUNT', 0)}'" in result.stderr, result.stderr
