"""Measure what a group costs the driver on Ray, with its prompt by reference and with it inside, as pictures grow.

    python benchmarks/groups_by_reference.py [--picture-tokens 16 64 361] [--groups 16] [--group-size 8]
                                             [--learners 2] [--repetitions 5]

    reference  ours: the prompt stays in the object store where it was sampled, until a learner fetches it.
    whole      the peer: the group goes with its prompt to the driver, and from there to a learner.

Prompts have five pictures, as the features of a frozen tower 3,584 wide in bfloat16, and answers are noise; nothing is
computed. One process is the sampler, and others are the learners. Bytes are those of a group as it is sent: `in` to the
driver, `out` to a learner, `prompt` from store to store. Milliseconds are CPU time of the driver's process for a group,
all its threads, the median of the repetitions: `in` from the question to the groups, `out` from the advantages until
the learners have the groups. The two ways take turns.

Prints a JSON line for each size and way, then a table in Markdown.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import gymnasium
import numpy as np
import ray
import torch
import tyro

import focus_env
from benchmarks.growing.runs import NoisePolicy
from benchmarks.growing.stores import SmallEpisodes
from benchmarks.measuring import command, machine, print_line, run_quietly_on_one_thread
from benchmarks.scaling_model import markdown
from focus_agents.cli.command_line import quiet_libraries
from focus_agents.cli.errors import user_errors
from focus_agents.grpo.references import PromptSplitter
from focus_agents.grpo.requests import Job, as_task
from focus_agents.grpo.selection import training_data
from focus_agents.grpo.settings import GRPOSettings
from focus_agents.grpo.steps import GroupTrainingData
from focus_agents.models.inputs import EncodedPrompt
from focus_agents.rollout.collect import collect_groups
from focus_agents.rollout.records import RolloutGroup, Sampling

Way = Literal["reference", "whole"]
NUM_PICTURES, HIDDEN_SIZE, NUM_WORDS = 5, 3584, 243
"""Of a prompt; with 361 tokens for each picture it has 2,048."""


@dataclass(frozen=True, kw_only=True)
class Args:
    """Measure what a group costs the driver on Ray, with its prompt by reference and with it inside."""

    picture_tokens: tuple[int, ...] = (16, 64, 361)
    """Tokens of a picture."""
    groups: int = 16
    """Groups that are sampled, and learned from, together."""
    group_size: int = 8
    """Answers to each."""
    learners: int = 2
    """Processes that the groups are dealt to."""
    repetitions: int = 5
    """Turns of each way."""


def make_groups(args: Args, picture_tokens: int) -> list[RolloutGroup]:
    """Return groups whose prompts have pictures of so many tokens."""
    env = gymnasium.make(focus_env.ENV_ID, dataset=SmallEpisodes(args.groups))
    numbers = range(args.groups)
    groups = collect_groups(
        env, NoisePolicy(), numbers, group_size=args.group_size, sampling=Sampling(), seeds=numbers
    )  # fmt: skip

    def with_prompt(group: RolloutGroup) -> RolloutGroup:
        features = tuple(torch.zeros(picture_tokens, HIDDEN_SIZE, dtype=torch.bfloat16) for _ in range(NUM_PICTURES))
        ids = np.arange(NUM_WORDS + NUM_PICTURES * picture_tokens)
        prompt = EncodedPrompt(ids, np.ones((NUM_PICTURES, 2), np.int64), {}, features)
        return dataclasses.replace(group, generation=dataclasses.replace(group.generation, prompt=prompt))

    return [with_prompt(group) for group in groups]


class Sampler:
    """A process that has sampled its groups."""

    def __init__(self, args: Args, picture_tokens: int) -> None:
        self.groups = make_groups(args, picture_tokens)

    def apply(self, work: Any, jobs: Sequence[Job]) -> Any:
        """See RLlib's EnvRunner."""
        return work(self, jobs)


class Learner:
    """A process that fetches its groups, and learns nothing from them."""

    def update(self, training_data: GroupTrainingData) -> None:
        """See RLlib's Learner."""
        training_data.solve_refs()


def sample(sampler: Any, jobs: Sequence[Job]) -> tuple[dict[int, RolloutGroup], None]:
    """Answer nothing: the groups are there."""
    return {position: sampler.groups[position] for position, _ in jobs}, None


def take_turn(way: Way, args: Args, sampler: Any, learners: Sequence[Any]) -> dict[str, float]:
    """Take an iteration's way, and return CPU milliseconds and bytes of a group."""
    splitter = PromptSplitter() if way == "reference" else None
    jobs = [(position, position) for position in range(args.groups)]
    start = time.process_time()
    task, num_returns = as_task(sample, splitter), 1 + (args.groups if splitter else 0)
    answers = sampler.apply.options(num_returns=num_returns).remote(task, jobs)
    answer, contents = (answers[0], answers[1:]) if splitter else (answers, [])
    (results, _), _ = ray.get(answer)
    for result, content in zip(results.values(), contents, strict=splitter is not None):
        PromptSplitter.refer(result, content)
    taken = time.process_time()
    settings = GRPOSettings(group_size=args.group_size)
    data = training_data(list(results.values()), settings, num_learners=len(learners), seed=(0, 0))
    parcels = [parcel for parcel, _ in data.shard(len(learners))]
    ray.get([learner.update.remote(parcel) for learner, parcel in zip(learners, parcels, strict=True)])
    dealt = time.process_time()
    return {
        "in_ms": 1e3 * (taken - start) / args.groups,
        "out_ms": 1e3 * (dealt - taken) / args.groups,
        "in_bytes": len(ray.cloudpickle.dumps(results)) / args.groups,
        "out_bytes": sum(len(ray.cloudpickle.dumps(parcel)) for parcel in parcels) / args.groups,
    }


def measure(args: Args, picture_tokens: int) -> list[dict[str, Any]]:
    """Return a line for each way."""
    _, prompt = PromptSplitter.split(make_groups(args, picture_tokens)[0])
    sampler = ray.remote(Sampler).remote(args, picture_tokens)
    learners = [ray.remote(Learner).remote() for _ in range(args.learners)]
    turns: dict[Way, list[dict[str, float]]] = {way: [] for way in get_args(Way)}
    for _ in range(1 + args.repetitions):
        for way, taken in turns.items():
            taken.append(take_turn(way, args, sampler, learners))
    for process in (sampler, *learners):
        ray.kill(process)
    lines = []
    for way, taken in turns.items():
        figures = {name: round(statistics.median(turn[name] for turn in taken[1:]), 3) for name in taken[0]}
        size = {"way": way, "picture_tokens": picture_tokens, "prompt_bytes": len(pickle.dumps(prompt))}
        lines.append({**size, **figures, "groups_per_s": round(1e3 / (figures["in_ms"] + figures["out_ms"]), 1)})
    return lines


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Return the lines in Markdown."""
    header = [
        "tokens of a picture", "prompt kB", "way", "in kB", "out kB", "in ms", "out ms", "groups/s at most",
    ]  # fmt: skip
    rows = [
        [
            f"{line['picture_tokens']:,}",
            f"{line['prompt_bytes'] / 1e3:,.1f}",
            line["way"],
            f"{line['in_bytes'] / 1e3:,.1f}",
            f"{line['out_bytes'] / 1e3:,.1f}",
            f"{line['in_ms']:.2f}",
            f"{line['out_ms']:.2f}",
            f"{line['groups_per_s']:,.0f}",
        ]
        for line in lines
    ]
    return markdown(header, rows)


def main() -> None:
    quiet_libraries()
    with user_errors(Args):
        args = tyro.cli(Args)
    run_quietly_on_one_thread()
    os.environ["OMP_NUM_THREADS"] = "1"
    ray.init(
        address="local",
        num_cpus=1 + args.learners,
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
    )
    common = {"machine": machine("cpu", ("torch", "ray")), "command": command()}
    lines = []
    try:
        for picture_tokens in args.picture_tokens:
            for line in measure(args, picture_tokens):
                print_line({**line, **common, "load": os.getloadavg()[0]})
                lines.append(line)
    finally:
        ray.shutdown()
    print(f"\n{table(lines)}")


if __name__ == "__main__":
    main()
