"""Which cluster of this machine a person means."""

from __future__ import annotations

import json
import re
from pathlib import Path

import psutil
import pytest

from focus_agents.cli import ray_sessions
from focus_agents.cli.ray_sessions import Session, find_session, running_sessions
from tests.kills import held_by_another


@pytest.fixture
def running(tmp_path: Path) -> list[Session]:
    """Two sessions; the name of the second begins that of the first."""
    folders = [tmp_path / f"session_2026-01-01_00-00-00_1_{number}" for number in (70, 7)]
    for folder in folders:
        folder.mkdir()
    (folders[1] / "metrics_export_port_ab12").write_text("4321")
    addresses = ("10.0.0.1:6379", "10.0.0.1:7000")
    return [Session(folder, address, started=1.0) for folder, address in zip(folders, addresses, strict=True)]


def a_run(folder: Path, session: str) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"starts": [{"ray_session": "session_old"}, {"ray_session": session}]})
    )
    return folder


def test_a_cluster_is_named_by_its_folder_its_address_or_a_run(running: list[Session], tmp_path: Path) -> None:
    first, second = running
    (tmp_path / "session_latest").symlink_to(second.folder)
    for named, expected in {
        "auto": second,
        str(first.folder): first,
        str(tmp_path / "session_latest"): second,
        "10.0.0.1:6379": first,
        "127.0.0.1:7000": second,
        "localhost:6379": first,
        str(a_run(tmp_path / "a", first.folder.name)): first,
        str(a_run(tmp_path / "b", second.folder.name)): second,
    }.items():
        assert find_session(named, running) == expected, named
    assert find_session(None, [first]) == first
    assert (first.endpoints, second.endpoints) == ([], ["10.0.0.1:4321"])


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (None, r"several run here; name one of .*_70 \(10\.0\.0\.1:6379\), .*_7 \(10\.0\.0\.1:7000\)$"),
        (
            "10.0.0.2:6379",
            r"expected the folder of a run, or a cluster .*_7 \(10\.0\.0\.1:7000\), got '10\.0\.0\.2:6379'",
        ),
        ("no/such/folder", "got 'no/such/folder'"),
        ("RUN", r"config\.json names none of the sessions of Ray that run on this machine"),
    ],
)
def test_what_cannot_be_told_is_an_error_that_says_what_there_is(
    running: list[Session], tmp_path: Path, named: str | None, message: str
) -> None:
    if named == "RUN":
        named = str(a_run(tmp_path / "run", "session_2026-01-01_00-00-00_1_9"))
    with pytest.raises(ValueError, match=message):
        find_session(named, running)
    with pytest.raises(ValueError, match="found none; start a run first"):
        find_session(named, [])


def test_heads_are_found_among_processes_and_other_machines_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    class Process:
        def __init__(self, name: str, *words: str, started: float) -> None:
            self.info = {"name": name, "cmdline": words or None, "create_time": started}

    flags = ("--session_dir=/tmp/ray/session_{}", "--gcs-address=10.0.0.1:{}", "--resources=a=b", "--head")
    heads = [Process("raylet", "raylet", *(flag.format(n) for flag in flags), started=9.0 - n) for n in (1, 2)]
    others = [
        Process("raylet", "raylet", "--session_dir=/tmp/ray/session_3", "--gcs-address=10.0.0.2:3", started=0.0),
        Process("python", "python", "--session_dir=/tmp/x", "--gcs-address=10.0.0.2:3", "--head", started=0.0),
        Process("raylet", started=0.0),  # one that ends just now
    ]
    monkeypatch.setattr(psutil, "process_iter", lambda attributes: [*heads, *others])
    assert ray_sessions.DAEMON == "raylet"
    assert running_sessions() == [
        Session(Path("/tmp/ray/session_2"), "10.0.0.1:2", 7.0),
        Session(Path("/tmp/ray/session_1"), "10.0.0.1:1", 8.0),
    ]


@pytest.mark.parametrize(
    ("starts", "message"),
    [
        (None, "it has not started Ray yet, try again in a moment"),
        (
            [{"ray_session": "session_old", "process": -1}],
            "it has not started Ray yet, try again in a moment",
        ),
        ([{"process": "HOLDER"}], "it does without Ray, so there is nothing to monitor"),
    ],
)
def test_a_run_that_has_not_started_ray_yet(
    starts: list[dict[str, object]] | None, message: str, running: list[Session], tmp_path: Path
) -> None:
    """Whether or not there are other clusters, and before its config.json is there."""
    run = tmp_path / "run"
    with held_by_another(run) as pid:
        if starts is not None:
            starts = [{**start, **({"process": pid} if start.get("process") == "HOLDER" else {})} for start in starts]
            (run / "config.json").write_text(json.dumps({"starts": starts}))
        for sessions in (running, []):
            with pytest.raises(ValueError, match=re.escape(f"run {run}: {message}")):
                find_session(str(run), sessions)


def test_a_run_that_has_ended_has_no_ray_either(running: list[Session], tmp_path: Path) -> None:
    run = tmp_path / "run"
    with held_by_another(run):
        (run / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="names none of the sessions of Ray"):
        find_session(str(run), running)


def test_whose_a_cluster_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    user = psutil.Process().username()
    monkeypatch.setenv("HOME", str(tmp_path))
    given = {
        ("", ""): None,
        (user, str(tmp_path)): None,
        ("eve", ""): "the user eve",
        (user, "/x"): "the home /x",
    }
    for (name, home), expected in given.items():
        assert Session(tmp_path, "10.0.0.1:1", 0.0, user=name, home=home).whose() == expected
