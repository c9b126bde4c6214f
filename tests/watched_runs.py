"""Folders of runs with all that is watched in them, written by hand in no time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from focus_agents.rollout.records import Completion, Generation, RolloutGroup, ShownSupport
from focus_agents.runs.files import write_json_lines
from focus_agents.runs.folder import RunDirectory
from focus_agents.runs.samples import append_samples
from focus_agents.runs.validations import keep_validation
from focus_env.metrics import ScoredAnswer
from focus_env.prompts import get_template
from focus_env.rewards.scores import score_answers
from focus_env.rewards.weighted import WeightedReward
from tests.fakes import FakeDataset

HOSTILE = "</script><img src=x onerror=console.error('run')> [bold]*a* `b` \x00\ud800 $1$ ]]> <!--"
TEXTS = (
    "<answer>[250, 167, 750, 667]</answer>", "<answer>[0, 0, 1000, 1000]</answer>", HOSTILE, "",
    "<answer>[100, 188, 500, 688]</answer>", "<answer>[250, 167, 650, 500]</answer>",
)  # fmt: skip
REWARD = WeightedReward.from_spec("iou:1,format:0.5")
EPISODES = FakeDataset(40)


def sampled_group(index: int, texts: tuple[str, ...] = TEXTS) -> tuple[RolloutGroup, np.ndarray]:
    """A group and its advantages."""
    episode = EPISODES[index]
    scores = score_answers(episode, texts, template=get_template("default"), reward=REWARD)
    completions = tuple(
        Completion(text, np.zeros(4, np.int64), np.zeros(4, np.float32), is_finished=bool(text)) for text in texts
    )
    terms = tuple({name: float(values[n]) for name, values in scores.terms.items()} for n in range(len(texts)))
    shown = tuple(ShownSupport(one.box, one.frame.image_wh) for one in episode.support)
    group = RolloutGroup(index, Generation(completions), scores.rewards, terms, scores.answers, supports=shown)
    return group, scores.rewards - scores.rewards.mean()


def validation(shift: int) -> list[ScoredAnswer]:
    """Answers to all episodes, others for each shift."""
    answers: list[ScoredAnswer] = []
    for index in range(len(EPISODES)):
        text = TEXTS[(index + shift) % len(TEXTS)]
        scores = score_answers(EPISODES[index], [text], template=get_template("default"), reward=REWARD)
        answers += scores.answers
    return answers


def write_run(
    path: Path, *, num_iterations: int = 40, interval: int = 20, num_groups: int = 4, is_finished: bool = False
) -> RunDirectory:
    """A run of stage 2."""
    arguments = {"command": "grpo", "num_iterations": 100, "lr": 3e-4, "label": HOSTILE, "name": path.name}
    run = RunDirectory.create(path, arguments)
    run.write_answers("before", validation(0))
    run.log({"iteration": 0, "validation_miou": 0.25})
    for iteration in range(1, num_iterations + 1):
        metrics = {"iteration": iteration, "reward": 0.5 + 0.3 * np.sin(iteration / 9), "loss": float("nan"), "kl": 0.0}
        if iteration % interval == 0:
            keep_validation(path, "iteration", iteration, validation(iteration // interval))
            metrics["validation_miou"] = 0.25 + iteration / 1000
        run.log(metrics)
        chosen = [sampled_group((iteration + n) % len(EPISODES)) for n in range(num_groups)]
        append_samples(
            path / "samples", iteration, [group for group, _ in chosen], np.stack([row for _, row in chosen])
        )
    warning = {"iteration": 7, "kind": "silent groups", "message": f"above half; try {HOSTILE}"}
    write_json_lines(path / "warnings.jsonl", [warning])
    if is_finished:
        run.finish(EPISODES, range(len(EPISODES)), validation(0), validation(2), num_iterations=num_iterations)
    return run
