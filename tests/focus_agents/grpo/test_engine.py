"""A sampler whose answers come from vLLM, here its stand-in: the learner's weights, and log-probabilities that fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from focus_agents.grpo.batch import GroupBatch, collate_groups
from focus_agents.grpo.engine_module import EngineModule
from focus_agents.grpo.env_runner import GRPOEnvRunner
from focus_agents.grpo.module import VLMModule
from focus_agents.grpo.rllib_checks import check_processes
from focus_agents.grpo.settings import GRPOSettings
from focus_agents.grpo.steps import TrainingGroup
from focus_agents.models.adapters import add_adapters
from focus_agents.models.loading import load_model
from focus_agents.models.processing import VLMProcessor
from focus_agents.rollout.records import RolloutGroup
from focus_agents.runs.checkpoint import save_policy
from focus_env.errors import MissingDependencyError
from tests.focus_agents.grpo.runs import make_config
from tests.focus_agents.policies.vllm import stub

TINY = Path("tiny")
VLLM: dict[str, Any] = {"engine": "vllm", "rollout_correction": "token_tis", "temperature": 0.8}


def make_runner(worker_index: int = 1, model: Path = TINY, **settings: Any) -> GRPOEnvRunner:
    return GRPOEnvRunner(config=make_config(model, num_env_runners=1, **VLLM, **settings), worker_index=worker_index)


def make_learner_module(runner: GRPOEnvRunner) -> Any:
    spec = runner.config.get_rl_module_spec(env=runner.env, spaces=runner.get_spaces(), inference_only=False)
    return spec.build()


def learned(groups: list[RolloutGroup], module: VLMModule) -> GroupBatch:
    """The groups as the learner has them."""
    training = [
        TrainingGroup(
            prompt=group.generation.prompt,
            token_ids=tuple(completion.token_ids for completion in group.generation.completions),
            sampler_logprobs=tuple(completion.logprobs for completion in group.generation.completions),
            advantages=np.zeros(len(group.rewards), dtype=np.float32),
            counts=np.ones(len(group.rewards), dtype=bool),
        )
        for group in groups
    ]
    return collate_groups(training, module.processor, device=torch.device("cpu"))


@pytest.fixture
def saved_adapter(tmp_path: Path, processor: VLMProcessor) -> Path:
    model = load_model(TINY)
    save_policy(tmp_path / "base", model, processor)
    adapted = add_adapters(model, rank=2)
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    return save_policy(tmp_path / "adapter", adapted, processor, form="adapter")


@pytest.mark.parametrize(("lora_rank", "is_saved"), [(None, False), (4, False), (None, True), (4, True)])
def test_samples_are_those_of_the_learners_weights_version_after_version(
    lora_rank: int | None, is_saved: bool, monkeypatch: pytest.MonkeyPatch, saved_adapter: Path
) -> None:
    """All weights of a model, new adapters on it, an adapter that was saved, and new ones on that."""
    stub.install(monkeypatch)
    runner = make_runner(model=saved_adapter if is_saved else TINY, lora_rank=lora_rank, max_completion_tokens=4)
    assert isinstance(runner.module, EngineModule)
    module = make_learner_module(runner)
    generator = torch.Generator().manual_seed(0)
    for version in (1, 2):
        with torch.no_grad():
            for parameter in module.policy.parameters():
                if parameter.requires_grad:
                    parameter += torch.randn(parameter.shape, generator=generator) * 0.1
        runner.set_state({"rl_module": module.get_state(), "weights_seq_no": version})
        groups = list(runner.sample(jobs=[(0, 3), (1, 4)], weights_seq_no=version).values())
        batch = learned(groups, module)
        logprobs = module.eval().policy_logprobs(batch)
        mask = batch.loss_mask.bool()
        np.testing.assert_allclose(logprobs[mask].numpy(), batch.sampler_logprobs[mask].numpy(), atol=2e-4)
    folders = [path.name for path in runner.module._folder.iterdir() if path.name.startswith("version")]
    assert folders == ([] if lora_rank is None and not is_saved else ["version-2"])
    assert runner.get_state()["rl_module"].keys() == module.get_state().keys()
    assert len(runner.evaluate(episode_indices=[0, 1])) == 2


def test_a_runner_of_the_driver_has_a_model_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    stub.install(monkeypatch)
    assert isinstance(make_runner(worker_index=0).module, VLMModule)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rollout_correction": "none"}, "rollout_correction: expected token_tis or seq_mask with engine='vllm'"),
        ({"constrained": True}, "constrained: expected False with engine='vllm'"),
        ({"temperature": 3.0}, r"temperature: expected 0\.01 to 2\.0 with engine='vllm', .* got 3\.0"),
    ],
)
def test_what_vllm_samples_otherwise_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GRPOSettings(**(VLLM | settings))


def test_vllm_wants_processes_of_its_own_and_to_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"engine: expected transformers .* set num_env_runners and num_gpus_per_env"):
        check_processes(make_config(TINY), GRPOSettings(**VLLM))
    quantized = make_config(TINY, num_env_runners=1, lora_rank=4)
    quantized.rl_module(model_config={"model": "tiny", "lora_rank": 4, "quantization": "4bit"})
    with pytest.raises(ValueError, match="engine: expected transformers with quantization '4bit', got 'vllm'"):
        check_processes(quantized, GRPOSettings(**VLLM))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="the engine vllm needs the package vllm"):
        check_processes(make_config(TINY, num_env_runners=1), GRPOSettings(**VLLM))


def test_training_and_validation_may_show_pictures_in_other_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    stub.install(monkeypatch)
    config = make_config(TINY, num_env_runners=1, max_completion_tokens=2, **VLLM)
    config.rl_module(model_config={"model": "tiny", "max_image_tokens": 9, "validation_max_image_tokens": 4})
    runner = GRPOEnvRunner(config=config, worker_index=1)
    (group,) = runner.sample(jobs=[(0, 3)]).values()
    assert group.generation.prompt is not None
    assert (group.generation.prompt.grids.prod(1) == 9).all()
    assert runner.validation_policy.processor.image_processor.size != runner.policy.processor.image_processor.size
    assert len(runner.validate(episode_indices=[0])) == 1  # its prompts are compared, too
