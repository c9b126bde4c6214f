"""Adapters by the shortest way: what PEFT computes, and left alone where they are more than plain."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from focus_agents.models import lean_adapters as module
from focus_agents.models.adapters import add_adapters
from focus_agents.models.attention import set_focus_attention
from focus_agents.models.devices import Device
from focus_agents.models.lean_adapters import lean_adapters
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.settings import Precision
from focus_agents.policies import vlm
from focus_agents.policies.vlm import VLMPolicy
from focus_agents.rollout.records import Completion, Sampling
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


def logits(model: Any, inputs: dict[str, Any], precision: Precision) -> torch.Tensor:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        found: torch.Tensor = model(**inputs).logits
    return found


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_without_copies_the_numbers_are_pefts(processor: VLMProcessor, family: str, precision: Precision) -> None:
    model, inputs = adapted(family, processor, precision), model_inputs(make_batch(processor))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        expected = model(**inputs).logits
        with lean_adapters(model, copies=False):
            assert sum("forward" in vars(module) for module in model.modules()) == 7 * 3
            ours = model(**inputs).logits
        with model.disable_adapter(), lean_adapters(model, copies=False):
            base = model(**inputs).logits
        after = model(**inputs).logits
    assert torch.equal(ours, expected)
    assert torch.equal(after, expected)
    assert not torch.equal(base, expected)
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_with_copies_the_numbers_are_pefts_but_for_rounding(processor: VLMProcessor, family: str) -> None:
    model, inputs = adapted(family, processor, "fp32"), model_inputs(make_batch(processor))
    weights = {name: parameter.clone() for name, parameter in model.named_parameters()}
    expected = logits(model, inputs, "fp32")
    with lean_adapters(model, copies=True):
        ours = logits(model, inputs, "fp32")
    with model.disable_adapter(), lean_adapters(model, copies=True):
        base = logits(model, inputs, "fp32")
    size = expected.abs().max()
    assert not torch.equal(ours, expected)  # so copies are what computed
    assert (ours - expected).abs().max() < 1e-5 * size
    assert (base - expected).abs().max() > 1e-2 * size
    assert torch.equal(logits(model, inputs, "fp32"), expected)
    assert all(torch.equal(parameter, weights[name]) for name, parameter in model.named_parameters())


def test_copies_in_bfloat16_are_as_near_to_single_precision_as_adapters_apart(processor: VLMProcessor) -> None:
    narrow, inputs = adapted("qwen2_vl", processor, "bf16"), model_inputs(make_batch(processor))
    truth = logits(narrow.float(), inputs, "fp32").log_softmax(-1)
    narrow = adapted("qwen2_vl", processor, "bf16")
    gaps = []
    for copies in (True, False):
        with lean_adapters(narrow, copies=copies):
            gaps.append(float((logits(narrow, inputs, "bf16").float().log_softmax(-1) - truth).abs().mean()))
    assert 0 < gaps[0] < 1.5 * gaps[1]


@pytest.mark.parametrize(("precision", "width"), [("fp32", 4), ("bf16", 2)])
def test_copies_are_made_where_there_is_memory(
    processor: VLMProcessor, precision: Precision, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted("qwen2_vl", processor, precision)
    adapted_weights = sum(m.base_layer.weight.numel() for m in model.modules() if hasattr(m, "lora_A"))
    for total, are_made in ((4 * width * adapted_weights, True), (4 * width * adapted_weights - 4, False)):
        device = Device("a card", total, None, is_gpu=True)
        monkeypatch.setattr(module, "device_of", lambda name, is_own, device=device: device)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"), lean_adapters(model):
            ways = {m.forward.func for m in model.modules() if "forward" in vars(m)}
        assert ways == {torch.nn.functional.linear if are_made else module._adapted}


@pytest.mark.parametrize(("precision", "copies"), [("fp32", True), ("fp32", False), ("bf16", False)])
def test_sampled_log_probabilities_are_those_of_the_adapters(
    processor: VLMProcessor, precision: Precision, copies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy decodes by it; what it samples is what it would sample through PEFT."""
    question = get_template("compact").render(observe(make_episode(0, shots=2)))
    policy = VLMPolicy(adapted("qwen2_vl", processor, precision), processor, precision=precision)

    def sample(adapters: Any) -> tuple[Completion, ...]:
        monkeypatch.setattr(vlm, "lean_adapters", adapters)
        return policy.generate([question], num_completions=3, sampling=Sampling(1.0, 6), seeds=[5])[0].completions

    ours, expected = sample(lambda m: lean_adapters(m, copies=copies)), sample(lambda m: contextlib.nullcontext())
    assert [c.token_ids.tolist() for c in ours] == [c.token_ids.tolist() for c in expected]
    tolerance = 1e-5 if copies else 0.0
    for own, other in zip(ours, expected, strict=True):
        assert own.logprobs.tolist() == pytest.approx(other.logprobs.tolist(), abs=tolerance, rel=0)


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
