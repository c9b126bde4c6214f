"""Join a Ray cluster or start Ray on this machine, and check that it has the resources of a run.

Ray itself waits silently for resources that no machine has, and for a cluster that does not answer.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from focus_agents.cli.addresses import AUTO, check_answer, host_and_port
from focus_agents.cli.command_line import own_command, quiet_libraries
from focus_agents.cli.dashboard import TOKEN_FILE, dashboard_line, place_token
from focus_agents.cli.ending import Terminated
from focus_agents.cli.errors import ending_at_once
from focus_agents.cli.ray_compat import own_node, raylets, session_of_ray, show_token
from focus_agents.errors import TrainingError
from focus_agents.processes.loopback import stay_on_loopback
from focus_agents.processes.threads import chosen_settings
from focus_agents.runs.folder import CONFIG_FILE
from focus_agents.runs.starts import note_start
from focus_agents.runs.terminal import waiting
from focus_agents.settings import Settings

if TYPE_CHECKING:
    from ray.job_config import JobConfig

START_SECONDS = 30
"""How long Ray itself waits for its processes on this machine."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run as Ray's dashboard shows it among its jobs.

    Attributes:
        folder: Folder of the run; its name is the name of the job.
        command: The command line.
        unit: The unit of coordinates of the run; None: the unit is not known.
        go_on: The command line that continues the run after a stop.
    """

    folder: Path
    command: str = field(default_factory=own_command)
    unit: str | None = None
    go_on: str | None = None

    def config(self) -> JobConfig:
        """Return what Ray is told."""
        from focus_agents.processes.names import job_config

        return job_config(self.folder.name, command=self.command, folder=str(self.folder.absolute()))

    def note_start(self) -> None:
        """Write into the run's config.json by which command it runs, and where; Ray has been started."""
        note_start(
            self.folder / CONFIG_FILE, command=self.command, unit=self.unit, ray=session_of_ray(), go_on=self.go_on
        )


@dataclass(frozen=True, kw_only=True)
class Need:
    """The resources that some of a run's processes ask Ray for, all at once.

    Attributes:
        setting: The setting that asks for these resources, for messages.
        num_processes: Number of processes.
        num_gpus: GPUs of each process, fractions allowed below 1.
        num_cpus: CPU cores of each process.
    """

    setting: str
    num_processes: int = 1
    num_gpus: float = 0
    num_cpus: float = 0


def check_needs(needs: Sequence[Need], nodes: Sequence[Mapping[str, float]], *, where: str) -> None:
    """See that a cluster has what a run asks for.

    Args:
        needs: What is asked for.
        nodes: For each machine the numbers of "CPU" and "GPU" that it has, busy or not.
        where: Names the cluster in messages.

    Raises:
        ValueError: If it has not.
    """
    for resource, unit in (("GPU", "GPUs"), ("CPU", "CPU cores")):
        asked = 0.0
        largest = max((node.get(resource, 0.0) for node in nodes), default=0.0)
        total = sum(node.get(resource, 0.0) for node in nodes)
        for need in needs:
            each = need.num_gpus if resource == "GPU" else need.num_cpus
            if resource == "GPU" and each > 1 and each != int(each):
                raise ValueError(f"{need.setting}: expected a whole number above 1, or a fraction below, got {each}")
            asked += each * need.num_processes
            if need.num_processes and each > largest:
                raise ValueError(
                    f"{need.setting}: expected at most {largest:g} {unit} for a process, as "
                    f"{'' if len(nodes) == 1 else 'the largest machine of '}{where} has, got {each:g}"
                )
            if asked > total:
                raise ValueError(
                    f"{need.setting}: expected at most {total:g} {unit} in all, as many as {where} has; this run asks "
                    f"for {asked:g}"
                )


@dataclass(frozen=True, kw_only=True)
class RayArguments(Settings):
    """The place where Ray runs."""

    ray_address: str | None = None
    """Ray cluster to join, auto or HOST:PORT; None: start Ray on this machine."""
    dashboard: bool = True
    """Serve the Ray dashboard, if this run starts Ray."""

    def check(self) -> None:
        """Check the form of the address too, before anything large is imported.

        Raises:
            ValueError: If a field is out of its range.
        """
        super().check()
        if self.ray_address not in (None, AUTO):
            host_and_port(self.ray_address)

    def listen_here(self) -> None:
        """Let a Ray that this run starts listen on the loopback; to be called before anything imports Ray."""
        if self.ray_address is None:
            stay_on_loopback()

    def import_ray(self) -> None:
        """Import Ray and the other large libraries quietly, for a run that listens on the loopback if it starts Ray."""
        self.listen_here()
        quiet_libraries()
        from focus_agents.processes.messages import quiet_ray

        quiet_ray()

    def connect(self, needs: Sequence[Need] = (), *, job: Job | None = None) -> None:
        """Join the cluster, if one is named, and see that it, or else this machine, has what a run asks for.

        Args:
            needs: What is asked for.
            job: What the cluster is told of the run.

        Raises:
            ValueError: If it has not, or no cluster answers at the address.
        """
        if self.ray_address is None:
            check_needs(needs, [_this_machine()], where="this machine")
            return
        join_cluster(self.ray_address, job)
        import ray  # here and below: a command line is read without it

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        check_needs(needs, nodes, where=f"the cluster at {self.ray_address}")

    def start_ray(
        self,
        *,
        num_processes: int,
        console: Console,
        advice: Callable[[], str] = lambda: "start again as before",
        job: Job | None = None,
    ) -> None:
        """Join the cluster, or start Ray with a CPU for each of the run's processes; on a small machine they share.

        Args:
            num_processes: How many there are beside this one.
            console: Where to print.
            advice: Called where Ray dies under this process, which ends it at once; says how to go on.
            job: What Ray is told of the run.
        """
        import ray

        if not ray.is_initialized():
            if self.ray_address is None:
                self._start_here(1 + num_processes, console, job)
            else:
                join_cluster(self.ray_address, job)
        if (line := dashboard_line()) is not None:
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        watch_raylet(console, advice)

    def _start_here(self, num_processes: int, console: Console, job: Job | None) -> None:
        """Start Ray on this machine.

        Raises:
            TrainingError: If it does not come up.
        """
        place_token(None if job is None else job.folder)
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # a process; no cloud takes this machine back
        with waiting(console, "starting Ray"), own_handlers():
            start_patiently(
                address="local",
                num_cpus=max(os.cpu_count() or 1, num_processes),
                include_dashboard=self.dashboard,
                logging_level="WARNING",
                log_to_driver=False,
                job_config=None if job is None else job.config(),
            )


def start_patiently(**arguments: Any) -> None:
    """Start Ray, a second time where it did not come up; on a busy machine its own 30 seconds may be too few.

    Args:
        arguments: Of `ray.init`.

    Raises:
        TrainingError: If it does not come up.
    """
    import ray

    for is_last in (False, True):
        try:
            ray.init(**arguments)
            return
        except Exception as error:  # Ray raises the plainest there is
            ray.shutdown()
            if is_last:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise TrainingError(
                    f"Ray: expected it to start on this machine within {START_SECONDS} seconds, got: {reason}; look "
                    "whether the machine is busy or out of memory, and start again"
                ) from error


def join_cluster(address: str, job: Job | None = None) -> None:
    """Join a cluster of Ray, soon or not at all.

    Args:
        address: `AUTO`, or "HOST:PORT".
        job: What it is told of the run.

    Raises:
        ValueError: If none answers there, or it does not let this process in.
    """
    import ray
    from ray.exceptions import RayError

    expected = f"ray_address: expected a cluster of Ray that answers at {address}"
    advice = "start one by `ray start --head`, whose output says the address, or leave it out"
    settings = {**chosen_settings()}  # Ray's processes there inherit nothing of this one
    if address != AUTO:
        check_answer(address, expected, advice)
        show_token()
    try:
        with own_handlers():
            ray.init(
                address=address,
                logging_level="WARNING",
                log_to_driver=False,
                job_config=None if job is None else job.config(),
                runtime_env={"env_vars": settings} if settings else None,
            )
    except (OSError, RuntimeError, ValueError, RayError, SystemExit) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        token = f"; if it wants a token, {TOKEN_FILE} here must hold that of its head" if address != AUTO else ""
        raise ValueError(f"{expected}, got: {lines[0]}{token}; {advice}") from error


def leave_ray(note: str = "", *, console: Console | None = None) -> None:
    """Leave Ray if it runs, which takes seconds; a signal meanwhile ends this process, and Ray's here with it.

    Otherwise a second Ctrl-C would leave Ray half shut down, and Python would end in its memory.

    Args:
        note: Said then, such as what is kept.
        console: Where to say that it takes its time.
    """
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return
    with ending_at_once(note), contextlib.nullcontext() if console is None else waiting(console, "ending Ray"):
        ray.shutdown()


def _this_machine() -> dict[str, float]:
    """Return the resources of this machine, as Ray counts them where it is started here."""
    import torch

    return {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}


@contextlib.contextmanager
def own_handlers() -> Iterator[None]:
    """Keep this process's handlers of signals, where Ray would set its own.

    Raises:
        Terminated: If SIGTERM comes meanwhile, at which Ray would exit without a word.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except SystemExit as stop:
        raise (Terminated() if stop.code == signal.SIGTERM else stop) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


DIED = 1
WATCH_SECONDS = 1.0


def watch_raylet(console: Console, advice: Callable[[], str]) -> None:
    """End this process with one line when Ray's daemon on this machine has died under it.

    Ray would do so too, some time later and after forty lines of its own state, without a word of how to go on.

    Args:
        console: Where to print.
        advice: Says how to go on, in the words of the command.
    """
    import ray

    node = own_node()
    processes = raylets(node)
    if not processes:
        return  # that of a cluster is not this process's child

    def watch() -> None:
        while ray.is_initialized() and own_node() is node:
            if any(process.poll() is not None for process in processes):
                time.sleep(WATCH_SECONDS / 2)  # a shutdown ends it too, and then says so
                if not ray.is_initialized() or own_node() is not node:
                    return
                console.print(f"error: Ray has died on this machine; {advice()}", style="red", soft_wrap=True)
                console.file.flush()
                os._exit(DIED)
            time.sleep(WATCH_SECONDS)

    threading.Thread(target=watch, daemon=True).start()
