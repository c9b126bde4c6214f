"""How large stage 2 sees pictures in sampling and in validation, and what its processes hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from focus_agents.grpo.budget import (
    LEARNING,
    SAMPLING,
    VALIDATION,
    groups_per_pass,
    learner_memory,
    process_memory,
    sampler_memory,
)
from focus_agents.grpo.settings import GRPOSettings
from focus_agents.models import budget
from focus_agents.models.loading import load_model, load_processor
from focus_agents.models.pictures import PictureBudget
from focus_agents.models.settings import FinetuningSettings
from focus_agents.runs.checkpoint import save_policy
from tests.focus_agents.grpo.learners import build_learner, module_of
from tests.focus_agents.models.hub_models import hub_prompt, qwen2_vl_7b

LORA = FinetuningSettings(lora_rank=8, precision="bf16")
WH = (1280, 720)


def most_tokens(policy: Any) -> int:
    return int(policy.processor.image_processor.size["longest_edge"]) // 256


@pytest.mark.parametrize(
    ("asked", "sampled", "validated"),
    [
        ({}, 9, 16),
        ({"max_image_tokens": 25}, 25, 16),
        ({"validation_max_image_tokens": 25}, 9, 25),
        ({"max_image_tokens": 4, "validation_max_image_tokens": 4}, 4, 4),
    ],
)
def test_a_policy_is_gone_on_with_as_it_was_trained_and_validated(
    tmp_path: Path, asked: dict[str, int], sampled: int, validated: int
) -> None:
    folder = save_policy(tmp_path / "policy", load_model("tiny"), load_processor("tiny"), pictures=PictureBudget(9, 16))
    module = module_of(build_learner(model_config={"model": str(folder), **asked}))
    assert (most_tokens(module.as_policy()), most_tokens(module.as_policy(validates=True))) == (sampled, validated)
    assert module.pictures == PictureBudget(sampled, validated)


def test_one_processor_serves_both_where_they_are_the_same() -> None:
    module = module_of(build_learner())
    assert module.as_policy().processor is module.as_policy(validates=True).processor


def test_validation_has_its_own_batch_size() -> None:
    assert GRPOSettings(rollout_batch_groups=4).num_validated_together == 8
    assert GRPOSettings(rollout_batch_groups=4, validation_batch_size=3).num_validated_together == 3


class TestCount:
    """A 7B model."""

    @pytest.mark.parametrize(
        ("settings", "num_learners", "groups"),
        [
            ({}, 0, 32),
            ({}, 8, 4),
            ({"groups_per_step": 8}, 2, 4),
            ({"micro_batch_groups": 1}, 8, 1),
            ({"micro_batch_groups": 9, "groups_per_iteration": 4}, 0, 4),
        ],
    )
    def test_groups_in_a_pass(self, settings: dict[str, Any], num_learners: int, groups: int) -> None:
        assert groups_per_pass(GRPOSettings(**settings), num_learners) == groups

    def test_the_readme_of_an_earlier_release(self) -> None:
        """Eight learners, no limit of pictures, four groups in a pass: 173 GB of activations."""
        prompt, settings = hub_prompt(WH, 4, None), GRPOSettings(max_completion_tokens=26)
        memory = learner_memory(qwen2_vl_7b(), LORA, settings, prompt=prompt, num_learners=8)
        assert memory["activations"] / budget.GB == pytest.approx(173, rel=0.05)

    def test_what_lowers_it(self) -> None:
        shape, prompt = qwen2_vl_7b(), hub_prompt(WH, 4, 352)
        one = GRPOSettings(micro_batch_groups=1, max_completion_tokens=26)
        kept = learner_memory(shape, LORA, one, prompt=prompt)
        assert budget.total(kept) / budget.GB == pytest.approx(14.9 + 17.0 + 0.5, rel=0.06)
        checkpointing = FinetuningSettings(lora_rank=8, precision="bf16", gradient_checkpointing=True)
        between = learner_memory(shape, checkpointing, one, prompt=prompt)
        assert between["activations"] < kept["activations"] / 3
        unchecked = GRPOSettings(micro_batch_groups=1, max_completion_tokens=26, shared_prefix="on")
        assert learner_memory(shape, checkpointing, unchecked, prompt=prompt)["activations"] < between["activations"]

    def test_a_reference_of_its_own(self) -> None:
        shape, prompt = qwen2_vl_7b(), hub_prompt(WH, 4, 352)
        settings = GRPOSettings(kl_coeff=0.1, micro_batch_groups=1)
        assert "reference" not in learner_memory(shape, LORA, settings, prompt=prompt)
        whole = learner_memory(shape, FinetuningSettings(), settings, prompt=prompt)
        assert whole["reference"] == 4 * shape.parameters

    def test_of_vllm_the_weights_alone_are_counted(self) -> None:
        prompts = hub_prompt(WH, 4, 352), hub_prompt(WH, 4, 2938)
        settings = GRPOSettings(engine="vllm", rollout_correction="token_tis")
        shape = qwen2_vl_7b()
        assert sampler_memory(shape, LORA, settings, prompts=prompts) == {
            SAMPLING: {"weights": 2 * (8_291_375_616 + 20_185_088)}
        }
        whole = sampler_memory(shape, FinetuningSettings(), settings, prompts=prompts)
        assert whole == {SAMPLING: {"weights": 4 * 8_291_375_616}}

    def test_a_process_that_does_both(self) -> None:
        prompts = hub_prompt(WH, 4, 352), hub_prompt(WH, 4, 2938)
        settings = GRPOSettings(micro_batch_groups=1)
        both = process_memory(qwen2_vl_7b(), LORA, settings, prompts=prompts)
        apart = sampler_memory(qwen2_vl_7b(), LORA, settings, prompts=prompts)
        assert set(both) == {SAMPLING, VALIDATION, LEARNING}
        for part in (SAMPLING, VALIDATION):
            assert budget.total(apart[part]) < budget.total(both[part]) < budget.total(apart[part]) + 1e9
