"""GRPO that goes on with an adapter: what is trained, and what the KL penalty holds it to."""

from __future__ import annotations

from pathlib import Path

import pytest

from focus_agents.models.loading import load_model, load_processor
from focus_agents.runs.checkpoint import save_policy
from tests.focus_agents.grpo.learners import build_learner, module_of, sample_groups, update
from tests.focus_agents.models.loading.adapters import write_adapter


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = save_policy(tmp_path_factory.mktemp("bases") / "base", load_model("tiny"), load_processor("tiny"))
    return write_adapter(base.parent / "adapter", load_model(str(base)), str(base))


def test_the_reference_is_the_adapter_that_the_training_started_from(adapter: Path) -> None:
    learner = build_learner(model_config={"model": str(adapter), "freeze_vision": True}, kl_coeff=0.1, lr=0.01)
    module = module_of(learner)
    started = {name: value.clone() for name, value in module.get_state().items()}
    assert started
    assert all(".lora_" in name and ".default." in name for name in started)
    groups = sample_groups(learner)
    first = update(learner, groups)["kl"]
    second = update(learner, groups)["kl"]
    assert first == pytest.approx(0, abs=1e-6)  # from the bare base, it would not be
    assert second > 1e-5
    assert set(learner.gradients[0]) <= {name.removeprefix("policy.") for name in started}
    now = module.get_state()
    assert all((now[name] != started[name]).any() for name in started if "lora_B" in name)
    frozen = {name: value for name, value in module.policy.named_parameters() if ".reference." in name}
    for name, value in frozen.items():
        assert (value == started[f"policy.{name}".replace(".reference.", ".default.")]).all()
    assert len(frozen) == len(started)


def test_new_adapters_are_held_to_the_policy_without_them(adapter: Path) -> None:
    learner = build_learner(model_config={"model": str(adapter), "lora_rank": 2}, kl_coeff=0.1, lr=0.01)
    groups = sample_groups(learner)
    assert update(learner, groups)["kl"] == pytest.approx(0, abs=1e-6)
    assert update(learner, groups)["kl"] > 1e-5
    assert not any(".reference." in name for name, _ in module_of(learner).policy.named_parameters())
