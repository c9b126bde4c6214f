"""Measure the cost of Ray and RLlib for GRPO on one machine, and the gain of more processes and of sampling ahead.

    python benchmarks/grpo_on_ray.py [--cases overhead async workers] [--groups 2] [--group-size 8]
                                     [--answer-tokens 32] [--shots 4] [--image-size 224]
                                     [--repetitions 5] [--block 4]

    overhead    ours: `GRPO.train` with runner and learner in this process. Peer: a bare loop, without RLlib, that does
                the same work. CPU time of this process; `ratio` is ours / peer, so 1.05 is an overhead of 5%.
    async       ours: one EnvRunner and one Learner, sampling one update ahead (`async_steps=1`, with "token_tis").
                Peer: the same two, on-policy.
    workers     ours: two EnvRunners and two Learners; then two EnvRunners and a learner in this process. Peer: one.

In `async` and `workers` time is that of the wall clock, and `ratio` is peer / ours: above 1, ours is so many times
faster. The sides take turns within a run; a turn is one iteration (overhead) or a block of them, and `ratio` is the
median over the rounds. A block ends when the runners have nothing left to do, so each block samples, within its time,
as many groups as it learns from; without this, a side that samples ahead would do so in the other side's turn. All
processes have one thread each, and share the cores with this one, the driver: on a machine with fewer cores than busy
processes, more workers cannot be faster, and these figures say nothing about a machine that has the cores.

Both sides of `overhead` run the very same iterations: the same episodes, seeds and answers in each round, and at the
end the same weights, to a part in 100,000 of what training has changed of them. In one process the learner takes over
the sampler's forward pass over the prompts, on both sides. RLlib's own share of an iteration holds, besides RLlib's
bookkeeping, our metrics of rollouts and learner, which the bare loop has not. In `async` and `workers` the answers of
the first iteration must be the same on both sides.

The model is the built-in one with random weights, which write noise and rarely end an answer early; so that noise earns
different rewards, any text is read as a box whose size is a function of it. A prompt's length follows from `--shots`
and `--image-size`, a token for 16 x 16 pixels; the lines say what it is.

Prints one JSON line for each comparison, with the milliseconds of each part of ours and of the peer, as RLlib's metrics
have them; then tables. `load` is the machine's load average over the last minute: well above the number of busy
processes, something else was running, and wall-clock figures are worth little.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator

import ray
import tyro
from rich.console import Console

from benchmarks.measuring import command, machine, print_line, run_quietly_on_one_thread
from benchmarks.on_ray.report import Line, build_tables, compare
from benchmarks.on_ray.setup import CONTESTS, Args
from benchmarks.on_ray.turns import measure
from focus_agents.cli.command_line import quiet_libraries
from focus_agents.cli.errors import user_errors

NUM_CPUS = 8
"""Of Ray: one for each process that two algorithms can have, whatever the machine has."""


@contextlib.contextmanager
def started_ray() -> Iterator[None]:
    """Ray on this machine, its processes with one thread each."""
    os.environ["OMP_NUM_THREADS"] = "1"
    ray.init(
        address="local", num_cpus=NUM_CPUS, include_dashboard=False, logging_level="ERROR", log_to_driver=False
    )  # fmt: skip
    try:
        yield
    finally:
        ray.shutdown()


def main() -> None:
    quiet_libraries()
    with user_errors(Args):
        args = tyro.cli(Args)
    run_quietly_on_one_thread()
    common = {
        **{field.name: getattr(args, field.name) for field in dataclasses.fields(args) if field.name != "cases"},
        "machine": machine("cpu", ("torch", "transformers", "ray")),
        "command": command(),
    }
    lines: list[Line] = []
    with started_ray():
        for case in args.cases:
            for contest in CONTESTS[case]:
                line = {**compare(case, contest, measure(args, contest)), **common, "load": os.getloadavg()[0]}
                print_line(line)
                lines.append(line)
    console = Console()
    for table in build_tables(lines):
        console.print(table)


if __name__ == "__main__":
    main()
