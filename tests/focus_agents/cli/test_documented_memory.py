"""Each documented command for a 7B model fits the GPUs that it names, by the count of what its processes hold.

A block of `sh` says of such a command, in the line above it, "# 8 GPUs of 80 GB".
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from focus_agents.cli import evaluate, grpo, sft
from focus_agents.grpo.budget import learner_memory, process_memory, sampler_memory
from focus_agents.grpo.settings import GRPOSettings
from focus_agents.models import budget
from focus_agents.models.budget import Memory, PromptSize
from focus_agents.models.shape import ModelShape
from focus_agents.settings import join
from focus_agents.sft.budget import worker_memory
from tests.focus_agents.models.hub_models import hub_prompt, qwen2_vl_7b
from tests.places import ROOT

OF_7B = ("--preset paper", "-7B", "/my-7b/")
COMMANDS = {"run_sft.py": sft, "run_grpo.py": grpo, "evaluate.py": evaluate}
GPUS = re.compile(r"# (\d+) GPUs? of (\d+) GB$")
WH = (1280, 720)
"""The pictures of GOT-10k and of TAO, mostly."""


class Documented(NamedTuple):
    """A command, and the GPUs that are said to be enough."""

    place: str
    script: str
    words: list[str]
    num_gpus: int
    gigabytes: int


def documented() -> list[Documented]:
    found = []
    for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("experiments/**/*.md"))):
        for block in re.findall(r"^```sh\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            above = ""
            for line in re.sub(r"\\\n\s*", "", block).splitlines():
                script = re.match(r"python experiments/(\S+)", line)
                if script and script[1] in COMMANDS and any(sign in line for sign in OF_7B):
                    gpus = GPUS.match(above)
                    assert gpus, f"{path}: expected '# 8 GPUs of 80 GB' above the command {line!r}"
                    words = shlex.split(line)[2:]
                    found.append(Documented(path.name, script[1], words, int(gpus[1]), int(gpus[2])))
                above = line
    return found


DOCUMENTED = documented()


@pytest.fixture(scope="module")
def shape() -> ModelShape:
    return qwen2_vl_7b()


def prompts(model: Any, shots: int = 4) -> tuple[PromptSize, PromptSize]:
    training = model.max_image_tokens
    validation = getattr(model, "validation_max_image_tokens", None) or training
    return hub_prompt(WH, shots, training), hub_prompt(WH, shots, validation)


def processes(script: str, words: list[str], shape: ModelShape) -> list[tuple[float, int, Mapping[str, Memory]]]:
    """(GPUs of each, how many there are, what each holds)."""
    if script == "run_sft.py":
        own = sft.parse_arguments(words)
        memory = worker_memory(
            shape,
            own.config,
            own.validation,
            prompts=prompts(own.model),
            num_workers=own.cluster.num_workers,
            shard_weights=own.cluster.shard_weights,
        )
        return [(float(own.cluster.use_gpu), own.cluster.num_workers, memory)]
    if script == "evaluate.py":
        asked: Any = evaluate.parse(evaluate.Args, "", words=words)
        prompt = hub_prompt(WH, max(asked.shots), asked.policies.max_image_tokens or 2938)
        precision = asked.policies.precision
        answered = budget.answering(
            shape, precision, prompt=prompt, num_prompts=asked.batch_size, answer_tokens=asked.max_completion_tokens
        )
        weights = {"weights": shape.parameters * budget.NUMBER_BYTES[precision]}
        return [(1.0, 1, {"answering": budget.add(weights, answered)})]
    args = grpo.parse_arguments(words)
    settings, cluster = join(GRPOSettings, args.sampling, args.loss, args.learning), args.cluster
    sizes = prompts(args.model)
    if cluster.num_env_runners == cluster.num_learners == 0:
        return [(cluster.num_gpus_per_learner, 1, process_memory(shape, args.finetuning, settings, prompts=sizes))]
    learner = learner_memory(shape, args.finetuning, settings, prompt=sizes[0], num_learners=cluster.num_learners)
    return [
        (
            cluster.num_gpus_per_env_runner,
            cluster.num_env_runners,
            sampler_memory(shape, args.finetuning, settings, prompts=sizes),
        ),
        (cluster.num_gpus_per_learner, cluster.num_learners, {"learning": learner}),
    ]


def gigabytes_of_a_gpu(script: str, words: list[str], shape: ModelShape) -> tuple[float, float]:
    """The most that a GPU has to hold, and how many GPUs there have to be."""
    found = processes(script, words, shape)
    most = [max(budget.total(memory) for memory in parts.values()) / budget.GB for _, _, parts in found]
    shares = [gpus for gpus, _, _ in found]
    together = sum(most) if all(0 < share < 1 for share in shares) else max(most)
    return together, sum(gpus * num for gpus, num, _ in found)


def test_there_are_such_commands() -> None:
    assert {found.script for found in DOCUMENTED} == set(COMMANDS)
    assert {"training.md", "scaling.md"} <= {found.place for found in DOCUMENTED}


@pytest.mark.parametrize("found", DOCUMENTED, ids=lambda found: f"{found.place}-{found.script}-{found.num_gpus}")
def test_it_fits(found: Documented, shape: ModelShape) -> None:
    needed, num_gpus = gigabytes_of_a_gpu(found.script, found.words, shape)
    assert num_gpus == found.num_gpus
    assert needed <= found.gigabytes * (1 - budget.RESERVE), f"{needed:.1f} GB"


LORA = ["--model", "Qwen/Qwen2-VL-7B-Instruct", "--template", "default", "--lora-rank", "8", "--precision", "bf16"]


@pytest.mark.parametrize(
    ("script", "words", "least"),
    [
        # As they stood in the documentation once, at the model's own limit: in a pass 4 groups, and all of them.
        ("run_grpo.py", ["--num-learners", "8", "--num-env-runners", "8", "--rollout-batch-groups", "4", *LORA], 170),
        ("run_grpo.py", ["--num-gpus-per-learner", "1", *LORA], 900),
        ("run_sft.py", ["--preset", "paper", "--micro-batch-size", "8"], 120),
        ("run_sft.py", ["--preset", "paper", "--precision", "fp32"], 50),
        ("evaluate.py", ["--policy", "vlm:runs/my-7b/checkpoints/final"], 50),
    ],
)
def test_the_count_sees_what_does_not_fit(script: str, words: list[str], least: float, shape: ModelShape) -> None:
    assert gigabytes_of_a_gpu(script, words, shape)[0] > least


def test_the_scripts_of_the_documentation_are_these(shape: ModelShape) -> None:
    assert all((Path(ROOT) / "experiments" / script).is_file() for script in COMMANDS)
