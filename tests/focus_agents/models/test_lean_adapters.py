"""Adapters by the shortest way: to the bit what PEFT computes, and left alone where they are more than plain."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from focus_agents.models.adapters import add_adapters
from focus_agents.models.attention import set_focus_attention
from focus_agents.models.lean_adapters import lean_adapters
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.settings import Precision
from focus_agents.policies import vlm
from focus_agents.policies.vlm import VLMPolicy
from focus_agents.rollout.records import Sampling
from focus_env.env import observe
from focus_env.prompts import get_template
from tests.fakes import make_episode
from tests.focus_agents.models.families import FAMILIES, make_batch, make_model, model_inputs


def adapted(family: str, processor: VLMProcessor, precision: Precision) -> Any:
    """A model whose adapters change what it says; the base is as a training run holds it."""
    model = make_model(family, processor).to(torch.bfloat16 if precision == "bf16" else torch.float32)
    set_focus_attention(model)
    model = add_adapters(model, rank=4)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.1)
    return model.eval()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_numbers_are_pefts(processor: VLMProcessor, family: str, precision: Precision) -> None:
    model, inputs = adapted(family, processor, precision), model_inputs(make_batch(processor))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        expected = model(**inputs).logits
        with lean_adapters(model):
            assert sum("forward" in vars(module) for module in model.modules()) == 7 * 3
            ours = model(**inputs).logits
        with model.disable_adapter(), lean_adapters(model):
            base = model(**inputs).logits
        after = model(**inputs).logits
    assert torch.equal(ours, expected)
    assert torch.equal(after, expected)
    assert not torch.equal(base, expected)
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_sampled_log_probabilities_are_those_of_the_adapters(
    processor: VLMProcessor, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy decodes by it; what it samples is what it would sample through PEFT."""
    question = get_template("compact").render(observe(make_episode(0, shots=2)))
    ask: dict[str, Any] = {"num_completions": 3, "sampling": Sampling(1.0, 6), "seeds": [5]}
    policy = VLMPolicy(adapted("qwen2_vl", processor, precision), processor, precision=precision)
    ours = policy.generate([question], **ask)[0].completions
    monkeypatch.setattr(vlm, "lean_adapters", lambda model: contextlib.nullcontext())
    expected = policy.generate([question], **ask)[0].completions
    assert [c.token_ids.tolist() for c in ours] == [c.token_ids.tolist() for c in expected]
    assert [c.logprobs.tolist() for c in ours] == [c.logprobs.tolist() for c in expected]


@pytest.mark.parametrize(
    "options", [{"use_dora": True}, {"lora_dropout": 0.5}, {"lora_bias": True}], ids=lambda options: next(iter(options))
)
def test_other_adapters_are_left_alone(processor: VLMProcessor, options: dict[str, Any]) -> None:
    lora = LoraConfig(r=2, target_modules=["q_proj"], **options)
    model = get_peft_model(make_model("qwen2_vl", processor), lora).eval()
    with lean_adapters(model):
        assert not any("forward" in vars(module) for module in model.modules())


def test_the_state_is_restored_after_an_error(processor: VLMProcessor) -> None:
    model = adapted("qwen2_vl", processor, "fp32")
    with pytest.raises(KeyError), lean_adapters(model):
        raise KeyError
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_model_without_adapters(processor: VLMProcessor) -> None:
    model = make_model("qwen2_vl", processor)
    with lean_adapters(model):
        assert not any("forward" in vars(module) for module in model.modules())
