"""What a run asks Ray for, and the address of its cluster: checked before anything waits."""

from __future__ import annotations

import importlib
import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from rich.console import Console

from focus_agents.cli import addresses, cluster, sft
from focus_agents.cli.cluster import Need, RayArguments, check_needs, join_cluster, watch_raylet
from focus_agents.cli.command_line import flat, parse
from focus_agents.cli.errors import user_errors
from focus_agents.errors import TrainingError

CPU_NODE, GPU_NODE = {"CPU": 4.0}, {"CPU": 16.0, "GPU": 2.0}


@pytest.mark.parametrize(
    ("need", "message"),
    [
        (
            Need(setting="a", num_gpus=3),
            "a: expected at most 2 GPUs for a process, as the largest machine of here has, got 3",
        ),
        (Need(setting="a", num_gpus=1.5), "a: expected a whole number above 1, or a fraction below, got 1.5"),
        (
            Need(setting="a", num_processes=5, num_gpus=1),
            "a: expected at most 4 GPUs in all, as many as here has; .* 5",
        ),
        (Need(setting="a", num_processes=9, num_gpus=0.5), "a: expected at most 4 GPUs in all.* asks for 4.5"),
        (Need(setting="a", num_cpus=100), "a: expected at most 16 CPU cores for a process.* got 100"),
        (Need(setting="a", num_processes=37, num_cpus=1), "a: expected at most 36 CPU cores in all.* asks for 37"),
    ],
)
def test_what_a_cluster_has_not_is_named(need: Need, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_needs([Need(setting="b"), need], [CPU_NODE, GPU_NODE, GPU_NODE], where="here")


@pytest.mark.parametrize(
    "needs",
    [
        [],
        [Need(setting="a", num_processes=0, num_gpus=8)],
        [Need(setting="a", num_processes=2, num_gpus=2)],
        [Need(setting="a", num_processes=8, num_gpus=0.5)],
        [Need(setting="a", num_processes=2, num_gpus=1), Need(setting="b", num_processes=2, num_gpus=1, num_cpus=16)],
    ],
)
def test_what_a_cluster_has_may_be_asked_for(needs: list[Need]) -> None:
    check_needs(needs, [CPU_NODE, GPU_NODE, GPU_NODE], where="here")


def test_processes_of_two_kinds_are_added_up() -> None:
    needs = [Need(setting="a", num_processes=3, num_gpus=1), Need(setting="b", num_processes=2, num_gpus=1)]
    with pytest.raises(ValueError, match="b: expected at most 4 GPUs in all"):
        check_needs(needs, [GPU_NODE, GPU_NODE], where="here")


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        (
            "grpo",
            ["--num-learners", "1", "--num-gpus-per-learner", "1"],
            "--num-gpus-per-learner: expected at most 0 GPUs",
        ),
        ("grpo", ["--num-gpus-per-learner", "1"], "--num-gpus-per-learner: expected at most 0 GPUs"),
        (
            "grpo",
            ["--num-env-runners", "2", "--num-gpus-per-env-runner", "0.5"],
            "--num-gpus-per-env-runner: expected at most 0 GPUs for a process, as this machine has",
        ),
        ("rewards", ["--cpus-per-run", "4000"], "--cpus-per-run: expected at most"),
        ("rewards", ["--gpus-per-run", "1"], "--gpus-per-run: expected at most 0 GPUs"),
        (
            "grpo",
            ["--ray-address", "127.0.0.1:1"],
            "--ray-address: expected a cluster of Ray that answers at 127.0.0.1:1",
        ),
        ("rewards", ["--ray-address", "127.0.0.1:1"], "--ray-address: expected a cluster of Ray that answers at"),
        ("sft", ["--ray-address", "127.0.0.1:1"], "--ray-address: expected a cluster of Ray that answers at"),
        ("sft", ["--ray-address", "http://127.0.0.1:1"], "--ray-address: expected auto or HOST:PORT, got"),
        ("sft", ["--ray-address", ""], "--ray-address: expected a value, got an empty one"),
        ("sft", ["--ray-address", "here:99999"], "--ray-address: expected auto or HOST:PORT, got"),
        ("sft", ["--ray-address", "ray://127.0.0.1:10001"], "Ray's client, by which a run has neither"),
        ("grpo", ["--ray-address", "RAY://head:10001"], "or send it there: ray job submit -- focus ... --ray-address"),
        ("rewards", ["--ray-address", "ray://"], "--ray-address: expected auto or HOST:PORT, got 'ray://', the"),
        ("sft", ["--ray-address", "127.0.0.1:6379/x"], "--ray-address: expected auto or HOST:PORT, got"),
        ("sft", ["--ray-address", "Auto"], "--ray-address: expected auto or HOST:PORT, got 'Auto'"),
        ("sft", ["--ray-address", "me@127.0.0.1:6379"], "--ray-address: expected auto or HOST:PORT, got"),
        ("sft", ["--ray-address", "127.0.0.1"], "--ray-address: expected auto or HOST:PORT, got"),
    ],
)
def test_commands_name_it_before_anything_is_made(
    command: str,
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(sys, "argv", [f"focus {command}", *words, "--output-dir", str(tmp_path / "runs")])
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module(f"focus_agents.cli.{command}").main()
    error = capsys.readouterr().err
    assert message in error, error
    assert not (tmp_path / "runs").exists()
    assert not ray.is_initialized()


@pytest.fixture
def listener() -> Iterator[str]:
    """The address of something that takes connections and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_something_else_that_listens_is_given_up_soon(listener: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "ANSWER_SECONDS", 0.2)
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"ray_address: .*something else listens there; start one"):
        join_cluster(listener)
    assert time.monotonic() - started < 5


def test_a_cluster_that_lets_nobody_in_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: Any) -> None:
        raise ConnectionError("InvalidAuthToken\n" + "at 0x0\n" * 40)

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(cluster, "check_answer", lambda *arguments: None)
    monkeypatch.setattr(cluster, "show_token", lambda: None)
    with pytest.raises(
        ValueError, match=r"got: InvalidAuthToken; if it wants a token, ~/\.ray/auth_token here must"
    ) as caught:
        RayArguments(ray_address="head:6379").connect()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("chosen", [{}, {"OMP_WAIT_POLICY": "PASSIVE"}])
def test_a_cluster_that_is_joined_is_told_how_threads_wait(
    chosen: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its processes inherit nothing of this one. What a user has set here is for this machine."""
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(cluster, "chosen_settings", lambda: chosen)
    monkeypatch.setattr(cluster, "check_answer", lambda *arguments: None)
    monkeypatch.setattr(cluster, "show_token", lambda: None)
    monkeypatch.setattr(ray, "init", lambda **options: told.append(options))
    join_cluster("head:6379")
    assert [options["runtime_env"] for options in told] == [{"env_vars": chosen} if chosen else None]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("grpo", ["--num-env-runners", "1", "--name", "mine"]),
        ("sft", ["--name", "mine"]),
        ("evaluate", ["--policy", "copy_support", "--num-workers", "1"]),
        ("rewards", []),
    ],
)
def test_a_cluster_that_is_joined_is_told_of_the_run(
    command: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else its dashboard shows a job without a name."""
    told: list[cluster.Job | None] = []

    def join(address: str, job: cluster.Job | None = None) -> None:
        told.append(job)
        raise ValueError("enough")

    folder = tmp_path / "mine"
    place = tmp_path if "--name" in words else folder
    words = [*words, "--output-dir", str(place), "--ray-address", "127.0.0.1:6379"]
    monkeypatch.setattr(cluster, "join_cluster", join)
    monkeypatch.setattr(sys, "argv", [f"focus {command}", *words])
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module(f"focus_agents.cli.{command}").main()
    assert capsys.readouterr().err == "error: enough\n"
    (job,) = told
    assert job is not None
    assert (job.folder, job.config().metadata["job_name"]) == (folder, "mine")


@pytest.mark.parametrize(("address", "num_calls"), [(None, 1), ("auto", 0), ("head:6379", 0)])
def test_only_a_run_that_starts_ray_stays_on_the_loopback(
    address: str | None, num_calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machines of a cluster have to reach each other."""
    calls: list[str] = []
    monkeypatch.setattr(cluster, "stay_on_loopback", lambda: calls.append("told"))
    monkeypatch.setattr(cluster, "quiet_libraries", lambda: None)
    RayArguments(ray_address=address).import_ray()
    assert len(calls) == num_calls


@pytest.mark.parametrize("words", [[], ["--ray-address", "head:6379"]])
def test_sigterm_while_ray_starts_or_is_joined_ends_with_a_sentence(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ray's own handler exits with the signal's number, which is no error of the address."""

    def init(**options: Any) -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster, "check_answer", lambda *arguments: None)
    monkeypatch.setattr(cluster, "show_token", lambda: None)
    before = signal.getsignal(signal.SIGTERM)
    arguments = parse(RayArguments, None, words=words)
    with pytest.raises(SystemExit, match="143"), user_errors(RayArguments):
        arguments.start_ray(num_processes=0, console=Console(file=io.StringIO()), job=cluster.Job(folder=tmp_path))
    assert signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().err.strip() == "stopped by SIGTERM; nothing was started yet"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_ray_is_left_ends_at_once(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray that is half shut down would be shut down again when Python ends, with a traceback at the next signal."""
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setattr(ray, "shutdown", lambda: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit, match=str(128 + number)):
        cluster.leave_ray("go on by --resume")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert capsys.readouterr().err == f"stopped by {number.name}; go on by --resume\n"


def test_a_checkpoint_that_workers_end_with_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever stops a run while one is written is told of what is there in the end."""

    def stop(work: Any) -> None:
        raise KeyboardInterrupt

    args = parse(sft.Args, None, words=["--output-dir", str(tmp_path), "--name", "run", "--log-to"])
    run = args.run.open(tmp_path / "run", flat(args), command="sft")
    monkeypatch.setattr(RayArguments, "start_ray", lambda *arguments, **options: None)
    monkeypatch.setattr(cluster.Job, "note_start", lambda job: None)
    monkeypatch.setattr(sft, "in_a_thread", stop)
    monkeypatch.setattr(sft, "leave_ray", lambda note="": (run.checkpoints / "step_000003").mkdir(exist_ok=True))
    plan = SimpleNamespace(template=SimpleNamespace(frame="norm_100"))
    with pytest.raises(SystemExit, match="130"):
        sft.train(args, plan, SimpleNamespace(num_workers=1), run)  # type: ignore[arg-type]
    assert capsys.readouterr().out.splitlines() == [
        "ending the workers; a signal meanwhile ends all at once",
        f"stopped by SIGINT; go on from its last checkpoint by --resume {run.path}",
    ]


@pytest.mark.parametrize(("mode", "expected"), [(None, "token"), ("disabled", "disabled")])
def test_a_token_that_is_here_is_shown(mode: str | None, expected: str, tmp_path: Path) -> None:
    """In a process of its own, since Ray reads the token once."""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("0" * 64)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
    environment |= {"HOME": str(tmp_path)} | ({} if mode is None else {"RAY_AUTH_MODE": mode})
    code = (
        "import os; from focus_agents.cli.ray_compat import show_token; show_token(); "
        "print(os.environ['RAY_AUTH_MODE'])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )  # fmt: skip
    assert result.stdout.strip() == expected


def test_the_death_of_ray_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the last line, before Ray prints its own state."""
    dead = SimpleNamespace(process=SimpleNamespace(poll=lambda: -9))
    codes: list[int] = []
    monkeypatch.setattr(ray._private.worker, "_global_node", SimpleNamespace(all_processes={"raylet": [dead]}))
    monkeypatch.setattr(ray, "is_initialized", lambda: not codes)
    monkeypatch.setattr(cluster, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(os, "_exit", codes.append)
    console = Console(file=io.StringIO(), width=10)
    watch_raylet(console, lambda: "go on by --resume runs/a")
    deadline = time.monotonic() + 10
    while not codes and time.monotonic() < deadline:
        time.sleep(0.01)
    assert codes == [1]
    assert console.file.getvalue().splitlines()[-1] == "error: Ray has died on this machine; go on by --resume runs/a"


@pytest.mark.parametrize("num_failures", [0, 1, 2])
def test_ray_that_does_not_come_up_is_started_once_more(num_failures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray raises a plain `Exception`, on several lines."""
    calls: list[str] = []

    def init(**arguments: Any) -> None:
        calls.append("init")
        if calls.count("init") <= num_failures:
            raise Exception("The current node timed out during startup.\nmore")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("shutdown"))
    if num_failures == 2:
        with pytest.raises(TrainingError, match=r"within 30 seconds, got: The current node timed out.*; look whether"):
            cluster.start_patiently(num_cpus=2)
    else:
        cluster.start_patiently(num_cpus=2)
    assert calls == ["init", "shutdown"] * num_failures + ["init"] * (num_failures < 2)
