"""Support masses, the attention loss and its gradients, against the full attention maps of three model families.

The reference writes both losses out over transformers' own eager maps, in which every row of every layer stands.

Axis letters: B examples, N tokens, P prompt tokens, Q query-image tokens, K tokens up to the last row, M support
tokens, A heads, H key-value heads, D head size, L layers.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from focus_agents.models import attention
from focus_agents.models.adapters import add_adapters, base_model
from focus_agents.models.attention import (
    FOCUS_ATTENTION,
    HIDDEN,
    MOST_WRITTEN_OUT,
    focus_attention_forward,
    select_layers,
    set_focus_attention,
    written_out_attention,
)
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.support_mass import ROWS_PER_BLOCK, SupportProbe, attention_maps, support_mass
from focus_agents.sft.data import AttentionTarget, SFTBatch
from focus_agents.sft.settings import Labels, MarginUnit, SFTConfig
from focus_agents.sft.step import accumulate_gradients, measure_losses
from tests.focus_agents.models.families import (
    ALL_LAYERS,
    EXACT_EAGER,
    FAMILIES,
    NUM_LAYERS,
    Gradients,
    assert_same_gradients,
    enable_checkpointing,
    exact_eager_forward,
    make_batch,
    make_model,
    model_inputs,
)


class Measurement(NamedTuple):
    """What a layer gave `support_mass`, and got."""

    query: torch.Tensor
    key: torch.Tensor
    probe: SupportProbe
    scaling: float
    mass: torch.Tensor


def full_maps(
    model: Any, inputs: Mapping[str, Any], implementation: str = "eager"
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """L maps [B, A, N, N], and logits [B, N, V]."""
    base_model(model).set_attn_implementation({"text_config": implementation})
    outputs = model(**inputs, output_attentions=True)
    return list(outputs.attentions), outputs.logits


def reference_losses(
    model: Any, batch: SFTBatch, config: SFTConfig, layers: Sequence[int], implementation: str = "eager"
) -> tuple[torch.Tensor, torch.Tensor]:
    """(LM loss, attention loss), means over the batch's labels and examples, straight from their definitions."""
    inputs = model_inputs(batch)
    maps, logits = full_maps(model, inputs, implementation)
    mean_map = torch.stack([maps[layer] for layer in layers]).mean((0, 2))
    num_prompt = batch.prompts.input_ids.shape[1]
    token_losses, example_losses = [], []
    for example, ids in enumerate(inputs["input_ids"]):
        tokens = inputs["attention_mask"][example].nonzero()[:, 0]
        learned = tokens[1:] if config.labels == "full" else tokens[tokens >= num_prompt]
        logprobs = logits[example].log_softmax(-1)
        token_losses.append(-logprobs[learned - 1, ids[learned]])
        query = batch.query_mask[example].nonzero()[:, 0]
        support = batch.support_mask[example].nonzero()[:, 0]
        others = tokens[~torch.isin(tokens, support)]
        rows = mean_map[example, query]
        delta = rows[:, support].mean(1) - rows[:, others].mean(1)
        unit = 1 / len(support) if config.margin_unit == "reachable" else 1.0
        example_losses.append((config.margin - delta / unit).clamp(min=0).square().mean())
    return torch.cat(token_losses).mean(), torch.stack(example_losses).mean()


def gradients(model: Any, loss: torch.Tensor) -> Gradients:
    """By name, of the parameters that are trained; None where the loss does not depend on one."""
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return dict(zip(named, found, strict=True))


def attention_loss_and_gradients(
    model: Any, batch: SFTBatch, config: SFTConfig, layers: frozenset[int]
) -> tuple[float, Gradients]:
    """Ours, without the LM loss, whose gradient is many times as large and would hide a wrong one."""
    set_focus_attention(model)
    loss = measure_losses(model, batch, config, layers).attention / len(batch.answer_ids)
    return loss.item(), gradients(model, loss)


def step(
    model: Any, micro_batches: Sequence[SFTBatch], config: SFTConfig, layers: frozenset[int]
) -> tuple[dict[str, float], Gradients]:
    """Metrics and gradients of one optimizer step; the model is left without any."""
    metrics = accumulate_gradients(model, micro_batches, config, layers)
    found = {name: parameter.grad for name, parameter in base_model(model).named_parameters()}
    model.zero_grad(set_to_none=True)
    return metrics, found


def padding_of(probe: SupportProbe) -> torch.Tensor:
    """[B, K] bool, also where nothing is padded."""
    return torch.zeros_like(probe.support) if probe.padding is None else probe.padding


def plain_mass(query: torch.Tensor, key: torch.Tensor, probe: SupportProbe, scaling: float) -> torch.Tensor:
    """[B, Q] the same from whole rows, in the precision of the arguments."""
    return (plain_maps(query, key, probe, scaling) * probe.support[:, None]).sum(-1)


def plain_maps(query: torch.Tensor, key: torch.Tensor, probe: SupportProbe, scaling: float) -> torch.Tensor:
    """[B, Q, K] attention averaged over heads, from whole rows."""
    num_keys = probe.support.shape[1]
    scores = scaling * query @ key[:, :, :num_keys].repeat_interleave(query.shape[1] // key.shape[1], 1).mT
    seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril() & ~padding_of(probe)[:, None, None]
    # A padded row before the first token sees nothing, and is not asked for.
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1).mean(1)
    return weights[torch.arange(len(query))[:, None], probe.rows]


def random_case(
    num_tokens: int = 70, num_rows: int = 20, *, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor, SupportProbe]:
    """Queries [2, 6, N, 8] and keys [2, 3, N, 8] with gradient, and a probe with padding and unequal rows."""
    generator = torch.Generator().manual_seed(num_tokens)
    query = torch.randn(2, 6, num_tokens, 8, generator=generator, dtype=dtype)
    key = torch.randn(2, 3, num_tokens, 8, generator=generator, dtype=dtype)
    visible = torch.ones(2, num_tokens, dtype=torch.bool)
    visible[1, :5] = False
    rows = torch.zeros_like(visible)
    rows[0, -num_rows - 3 : -3] = True
    rows[1, -num_rows - 1 : -6] = True
    support = (torch.rand(2, num_tokens, generator=generator) < 0.3) & visible & ~rows
    probe = SupportProbe.build(rows, support, visible.long(), frozenset({0}))
    return query.requires_grad_(), key.requires_grad_(), probe


@pytest.fixture
def layer_calls(monkeypatch: pytest.MonkeyPatch) -> list[Measurement]:
    """The measurements of all layers, in the order in which they are made."""
    calls: list[Measurement] = []

    def recorded(query: torch.Tensor, key: torch.Tensor, probe: SupportProbe, *, scaling: float) -> torch.Tensor:
        mass = support_mass(query, key, probe, scaling=scaling)
        calls.append(Measurement(query, key, probe, scaling, mass))
        return mass

    monkeypatch.setattr(attention, "support_mass", recorded)
    return calls


class TestAgainstFullMaps:
    """Masses, attention loss and gradients are those of the eager maps, averaged over heads and layers."""

    @pytest.mark.parametrize("side", ["left", "right"])
    @pytest.mark.parametrize("family", FAMILIES)
    def test_masses(self, processor: VLMProcessor, family: str, side: str) -> None:
        model, batch = make_model(family, processor), make_batch(processor)
        inputs = model_inputs(batch)
        num_answer = batch.answer_ids.shape[1]
        masks = {
            "query": torch.nn.functional.pad(batch.query_mask, (0, num_answer)),
            "support": torch.nn.functional.pad(batch.support_mask, (0, num_answer)),
        }
        if side == "right":
            order = torch.argsort(1 - inputs["attention_mask"], dim=1, stable=True)
            for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
                inputs[name] = inputs[name].gather(1, order)
            masks = {name: mask.gather(1, order) for name, mask in masks.items()}
        assert (inputs["attention_mask"][:, 0] == 0).any() == (side == "left")
        for mask in (inputs["attention_mask"], batch.answer_mask, *masks.values()):
            assert len(set(mask.sum(1).tolist())) == 3, "a ragged batch"
        set_focus_attention(model)
        probe = SupportProbe.build(masks["query"], masks["support"], inputs["attention_mask"], ALL_LAYERS)
        with torch.no_grad():
            logits = model(**inputs, support_probe=probe).logits
            maps, expected_logits = full_maps(model, inputs)
        seen = inputs["attention_mask"].bool()
        torch.testing.assert_close(logits[seen], expected_logits[seen], rtol=0, atol=1e-4)
        assert sorted(probe.masses) == [0, 1, 2]
        for layer, mass in probe.masses.items():
            for example in range(3):
                rows = maps[layer][example].mean(0)[masks["query"][example]]
                expected = rows[:, masks["support"][example]].sum(1)
                ours = mass[example][probe.row_mask[example]]
                torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)
                assert expected.std() > 0.01, "where all rows look alike, a mix-up of rows would not show"
        torch.testing.assert_close(probe.mean_mass(), torch.stack(list(probe.masses.values())).mean(0))

    @pytest.mark.parametrize("family", FAMILIES)
    def test_maps(self, processor: VLMProcessor, family: str) -> None:
        model, batch = make_model(family, processor), make_batch(processor)
        inputs = model_inputs(batch)
        set_focus_attention(model)
        probe = SupportProbe.build(
            batch.query_mask, batch.support_mask, batch.prompts.attention_mask, frozenset({0, 2})
        )
        probe.keeps_maps = True
        model(**inputs, support_probe=probe)
        with torch.no_grad():
            expected, _ = full_maps(model, inputs)
        num_keys = probe.support.shape[1]
        assert num_keys < inputs["input_ids"].shape[1], "the answers come after the last row"
        assert sorted(probe.maps) == sorted(probe.masses) == [0, 2]
        sequences = torch.arange(3)[:, None]
        for layer, maps in probe.maps.items():
            assert maps.dtype == torch.float32
            assert not maps.requires_grad
            assert probe.masses[layer].requires_grad
            rows = expected[layer].mean(1)[sequences, probe.rows]
            torch.testing.assert_close(maps, rows[..., :num_keys], rtol=0, atol=1e-6)
            torch.testing.assert_close(maps.sum(-1), torch.ones(probe.rows.shape), rtol=0, atol=1e-5)
            masses = (maps * probe.support[:, None]).sum(-1)
            torch.testing.assert_close(masses, probe.masses[layer], rtol=0, atol=1e-5)
            assert maps.std(1).max() > 0.01, "where all rows look alike, a mix-up of rows would not show"

    @pytest.mark.parametrize("target", ["coords", "span", "region", "both"])
    @pytest.mark.parametrize("family", FAMILIES)
    def test_attention_loss_alone(self, processor: VLMProcessor, family: str, target: AttentionTarget) -> None:
        model, batch = make_model(family, processor), make_batch(processor, target=target)
        config = SFTConfig(attention_target=target)
        loss, ours = attention_loss_and_gradients(model, batch, config, ALL_LAYERS)
        _, expected = reference_losses(model, batch, config, [0, 1, 2])
        assert loss == pytest.approx(expected.item(), rel=1e-5)
        assert_same_gradients(ours, gradients(model, expected), 1e-5)
        # Through the last layer's scores, the layers below and the pictures; not through what comes after the scores.
        reached = {name for name, gradient in ours.items() if gradient is not None and gradient.any()}
        assert {f"model.language_model.layers.{n}.self_attn.{p}_proj.weight" for n in range(3) for p in "qk"} <= reached
        assert any(name.startswith("model.visual.blocks.0") for name in reached)
        assert "model.language_model.layers.2.self_attn.v_proj.weight" not in reached
        assert "model.language_model.norm.weight" not in reached

    @pytest.mark.parametrize(
        ("spec", "layers", "unit", "margin"),
        [
            ("all", [0, 1, 2], "reachable", 0.2),
            ("first:2", [0, 1], "absolute", 0.01),
            ("2", [2], "reachable", 1.0),
            ("0,2", [0, 2], "absolute", 0.002),
        ],
    )
    def test_layers_and_margins(
        self, processor: VLMProcessor, spec: str, layers: list[int], unit: MarginUnit, margin: float
    ) -> None:
        model, batch = make_model("qwen2_5_vl", processor), make_batch(processor)
        config = SFTConfig(margin=margin, margin_unit=unit)
        loss, ours = attention_loss_and_gradients(model, batch, config, select_layers(spec, NUM_LAYERS))
        _, expected = reference_losses(model, batch, config, layers)
        assert loss == pytest.approx(expected.item(), rel=1e-5)
        assert_same_gradients(ours, gradients(model, expected), 1e-5)

    @pytest.mark.parametrize("unit", ["reachable", "absolute"])
    @pytest.mark.parametrize("family", FAMILIES)
    def test_float64(self, processor: VLMProcessor, family: str, unit: MarginUnit) -> None:
        model, batch = make_model(family, processor).double(), make_batch(processor)
        config = SFTConfig(margin=0.5 if unit == "reachable" else 0.02, margin_unit=unit)
        loss, ours = attention_loss_and_gradients(model, batch, config, ALL_LAYERS)
        _, expected = reference_losses(model, batch, config, [0, 1, 2], EXACT_EAGER)
        assert expected.dtype == torch.float64
        assert loss == pytest.approx(expected.item(), rel=1e-12)
        assert_same_gradients(ours, gradients(model, expected), 1e-12)

    @pytest.mark.parametrize("labels", ["answer", "full"])
    @pytest.mark.parametrize("family", FAMILIES)
    def test_both_losses(self, processor: VLMProcessor, family: str, labels: Labels) -> None:
        model, batch = make_model(family, processor), make_batch(processor)
        config = SFTConfig(labels=labels, beta=30.0)
        set_focus_attention(model)
        metrics, ours = step(model, [batch], config, ALL_LAYERS)
        lm, attention_part = reference_losses(model, batch, config, [0, 1, 2])
        expected = gradients(model, lm + 30.0 * attention_part)
        assert metrics["lm_loss"] == pytest.approx(lm.item(), rel=1e-5)
        assert metrics["attention_loss"] == pytest.approx(attention_part.item(), rel=1e-5)
        assert metrics["loss"] == pytest.approx((lm + 30.0 * attention_part).item(), rel=1e-5)
        assert_same_gradients(ours, expected, 1e-5)

    def test_metrics_by_layer(self, processor: VLMProcessor) -> None:
        model, batch = make_model("qwen2_vl", processor), make_batch(processor)
        config = SFTConfig(margin=0.1)
        set_focus_attention(model)
        metrics = accumulate_gradients(model, [batch], config, frozenset({0, 2}))
        inputs = model_inputs(batch)
        with torch.no_grad():
            maps, _ = full_maps(model, inputs)
        expected: dict[str, list[float]] = {"support_mass": [], "support_delta": [], "past_margin": []}
        for layer in (0, 2):
            by_example = []
            for example in range(3):
                support = batch.support_mask[example].nonzero()[:, 0]
                visible = inputs["attention_mask"][example].bool()
                visible[support] = False
                rows = maps[layer][example].mean(0)[batch.query_mask[example].nonzero()[:, 0]]
                delta = rows[:, support].mean(1) - rows[:, visible].mean(1)
                past = (delta >= 0.1 / len(support)).float()
                by_example.append([rows[:, support].sum(1).mean(), delta.mean(), past.mean()])
            for name, value in zip(expected, torch.tensor(by_example).mean(0), strict=True):
                expected[name].append(value.item())
        for name, values in expected.items():
            assert [metrics[f"{name}/0"], metrics[f"{name}/2"]] == pytest.approx(values, rel=1e-4), name
            assert metrics[name] == pytest.approx(sum(values) / 2, rel=1e-4)
        assert 0 < metrics["past_margin"] < 1
        assert not any(name.endswith("/1") for name in metrics)

    def test_without_beta_nothing_is_measured(self, processor: VLMProcessor, layer_calls: list[Measurement]) -> None:
        model, batch = make_model("qwen2_vl", processor), make_batch(processor)
        set_focus_attention(model)
        metrics, ours = step(model, [batch], SFTConfig(beta=0.0), ALL_LAYERS)
        lm, _ = reference_losses(model, batch, SFTConfig(beta=0.0), [0])
        assert metrics == {"loss": metrics["lm_loss"], "lm_loss": pytest.approx(lm.item(), rel=1e-5)}
        assert layer_calls == []
        assert_same_gradients(ours, gradients(model, lm), 1e-5)


class TestTrainingModes:
    """What a training run may wrap around the model changes neither loss nor gradient."""

    @pytest.mark.parametrize("family", FAMILIES)
    def test_gradient_checkpointing(self, processor: VLMProcessor, layer_calls: list[Measurement], family: str) -> None:
        model, batch = make_model(family, processor), make_batch(processor)
        config = SFTConfig()
        _, expected = reference_losses(model, batch, config, [0, 1])
        expected_gradients = gradients(model, expected)
        enable_checkpointing(model)
        loss, ours = attention_loss_and_gradients(model, batch, config, frozenset({0, 1}))
        assert len(layer_calls) == 4, "each measured layer is computed again in the backward pass"
        assert loss == pytest.approx(expected.item(), rel=1e-5)
        assert_same_gradients(ours, expected_gradients, 1e-5)

    @pytest.mark.parametrize(
        ("family", "is_checkpointed"),
        [("qwen2_vl", False), ("qwen2_vl", True), ("qwen2_5_vl", True), ("qwen3_vl", False)],
    )
    def test_adapters(
        self, processor: VLMProcessor, layer_calls: list[Measurement], family: str, is_checkpointed: bool
    ) -> None:
        model, batch = make_model(family, processor), make_batch(processor)
        if is_checkpointed:
            enable_checkpointing(model)
        model = add_adapters(model, rank=2)
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0, 0.2, generator=generator)
        config = SFTConfig()
        loss, ours = attention_loss_and_gradients(model, batch, config, ALL_LAYERS)
        assert len(layer_calls) == (6 if is_checkpointed else 3)
        model.eval()
        _, expected = reference_losses(model, batch, config, [0, 1, 2])
        assert loss == pytest.approx(expected.item(), rel=1e-5)
        assert_same_gradients(ours, gradients(model, expected), 1e-5)
        assert all("lora" in name for name in ours), "the rest is frozen"
        reached = {name for name, gradient in ours.items() if gradient is not None and gradient.any()}
        assert any("layers.0.self_attn.q_proj.lora_A" in name for name in reached)

    def test_compiled(self, processor: VLMProcessor) -> None:
        """Layer by layer: the measurement is within the graph and breaks none, and one graph serves all shapes."""
        from torch._dynamo.backends.debugging import aot_eager

        plain, model = (make_model("qwen2_vl", processor, num_hidden_layers=1) for _ in range(2))
        config, layers = SFTConfig(beta=30.0), frozenset({0})
        graphs = []

        def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
            graphs.append(str(graph.code))
            return aot_eager(graph, inputs)

        set_focus_attention(plain)
        set_focus_attention(model)
        torch._dynamo.reset()
        try:
            model.model.language_model.layers[0].compile(backend=backend, dynamic=True)
            counts = []
            for which in ([0, 1], [1, 2], [0, 2]):
                batch = make_batch(processor, which)
                expected, expected_gradients = step(plain, [batch], config, layers)
                metrics, ours = step(model, [batch], config, layers)
                assert metrics == pytest.approx(expected, rel=1e-6)
                assert_same_gradients(ours, expected_gradients, 1e-5)
                counts.append(len(graphs))
        finally:
            torch._dynamo.reset()
        assert counts[0] == counts[1] == counts[2] > 0
        assert all("autograd_function_apply" in code for code in graphs)


class TestPrecision:
    """In bfloat16 models too, scores, softmax and masses are float32."""

    def test_autocast(self, processor: VLMProcessor, layer_calls: list[Measurement]) -> None:
        """Masses are what float32 makes of the layer's own queries and keys; only these are rounded."""
        model, batch = make_model("qwen2_vl", processor), make_batch(processor)
        set_focus_attention(model)
        wide = measure_losses(model, batch, SFTConfig(), ALL_LAYERS)
        layer_calls.clear()
        narrow = measure_losses(model, batch, SFTConfig(precision="bf16"), ALL_LAYERS)
        assert len(layer_calls) == 3
        for query, key, probe, scaling, mass in layer_calls:
            assert mass.dtype == torch.float32
            expected = plain_mass(query.double(), key.double(), probe, scaling)
            torch.testing.assert_close(mass.double(), expected, rtol=0, atol=1e-6)
        # Measured: 0.0025 of the mean mass, 0.0043 of the loss.
        difference = (wide.support_mass - narrow.support_mass).abs() / wide.support_mass
        assert 0 < difference.max() < 0.01
        assert narrow.attention.item() == pytest.approx(wide.attention.item(), rel=0.01)
        assert narrow.attention.dtype == torch.float32

    def test_narrow_weights(self, processor: VLMProcessor, layer_calls: list[Measurement]) -> None:
        model, batch = make_model("qwen2_vl", processor).bfloat16(), make_batch(processor)
        set_focus_attention(model)
        sums = measure_losses(model, batch, SFTConfig(precision="bf16"), ALL_LAYERS)
        for query, key, probe, scaling, mass in layer_calls:
            assert query.dtype == key.dtype == torch.bfloat16
            assert mass.dtype == torch.float32
            expected = plain_mass(query.double(), key.double(), probe, scaling)
            torch.testing.assert_close(mass.double(), expected, rtol=0, atol=1e-6)
        assert sums.attention.dtype == torch.float32
        assert any(gradient is not None and gradient.any() for gradient in gradients(model, sums.attention).values())

    @pytest.mark.parametrize("is_autocast", [False, True])
    def test_narrow_queries_and_keys(self, is_autocast: bool) -> None:
        """Gradients come back in bfloat16, rounded once from float32."""
        query, key, probe = random_case()
        query, key = (tensor.detach().bfloat16().requires_grad_() for tensor in (query, key))
        weights = torch.randn(probe.rows.shape, generator=torch.Generator().manual_seed(9)) * probe.row_mask
        with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
            mass = support_mass(query, key, probe, scaling=0.4)
            loss = (mass * weights).sum()
        ours = torch.autograd.grad(loss, [query, key])
        wide = [tensor.detach().double().requires_grad_() for tensor in (query, key)]
        expected_mass = plain_mass(*wide, probe, 0.4)
        expected = torch.autograd.grad((expected_mass * weights).sum(), wide)
        assert mass.dtype == torch.float32
        torch.testing.assert_close(mass.double(), expected_mass, rtol=0, atol=1e-6)
        for gradient, right in zip(ours, expected, strict=True):
            assert gradient.dtype == torch.bfloat16
            assert (gradient.double() - right).abs().max() <= 2**-8 * right.abs().max()

    def test_float64_stays_float64(self) -> None:
        query, key, probe = random_case()
        mass = support_mass(query.double(), key.double(), probe, scaling=0.4)
        assert mass.dtype == torch.float64
        expected = plain_mass(query.double(), key.double(), probe, 0.4)
        torch.testing.assert_close(mass, expected, rtol=0, atol=1e-14)


class TestSupportMass:
    """The function alone, on random queries and keys."""

    @pytest.mark.parametrize("num_rows", [6, 100, ROWS_PER_BLOCK, ROWS_PER_BLOCK + 1, 3 * ROWS_PER_BLOCK])
    def test_blocks_of_rows(self, num_rows: int) -> None:
        query, key, probe = random_case(num_rows + 40, num_rows, dtype=torch.float64)
        weights = torch.randn(probe.rows.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        ours = support_mass(query, key, probe, scaling=0.7)
        expected = plain_mass(query, key, probe, 0.7)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-13)
        for gradient, right in zip(
            torch.autograd.grad((ours * weights).sum(), [query, key]),
            torch.autograd.grad((expected * weights).sum(), [query, key]),
            strict=True,
        ):
            torch.testing.assert_close(gradient, right, rtol=0, atol=1e-13)

    def test_gradients_against_differences(self) -> None:
        query, key, probe = random_case(16, 7, dtype=torch.float64)
        assert torch.autograd.gradcheck(lambda q, k: support_mass(q, k, probe, scaling=0.7), (query, key))

    def test_a_frozen_side_needs_no_gradient(self) -> None:
        query, key, probe = random_case()
        (both, _) = torch.autograd.grad(support_mass(query, key, probe, scaling=0.7).sum(), [query, key])
        (alone,) = torch.autograd.grad(support_mass(query, key.detach(), probe, scaling=0.7).sum(), [query])
        assert torch.equal(both, alone)

    def test_extremes(self) -> None:
        """Scores of hundreds neither overflow nor leave the range of a share."""
        query, key, probe = random_case()
        mass = support_mass(100 * query, 100 * key, probe, scaling=0.7)
        assert ((mass >= 0) & (mass <= 1)).all()
        assert all(g.isfinite().all() for g in torch.autograd.grad(mass.sum(), [query, key]))
        everything = dataclasses.replace(probe, support=~padding_of(probe))
        torch.testing.assert_close(support_mass(query, key, everything, scaling=0.7), torch.ones_like(mass))
        nothing = dataclasses.replace(probe, support=torch.zeros_like(probe.support))
        assert (support_mass(query, key, nothing, scaling=0.7) == 0).all()

    def test_padding_is_not_looked_at(self) -> None:
        query, key, probe = random_case()
        with torch.no_grad():
            other_key, other_query = key.clone(), query.clone()
            other_key[1, :, :5], other_query[1, :, :5] = 1e4, -1e4  # left padding
            other_key[:, :, -3:], other_query[:, :, -3:] = 1e4, -1e4  # after the last row
            first, second = (
                support_mass(q, k, probe, scaling=0.7) for q, k in ((query, key), (other_query, other_key))
            )
        assert torch.equal(first, second)
        (gradient,) = torch.autograd.grad(support_mass(query, key, probe, scaling=0.7).sum(), key)
        assert (gradient[1, :, :5] == 0).all()
        assert (gradient[:, :, -3:] == 0).all()
        assert gradient[1, :, 5:40].any()

    def test_no_map_is_kept_for_the_backward_pass(self) -> None:
        """Nothing larger than the keys, which SDPA keeps as well; in all, linear in the tokens."""
        totals = []
        for num_rows in (2 * ROWS_PER_BLOCK, 4 * ROWS_PER_BLOCK):
            query, key, probe = random_case(2 * num_rows, num_rows)
            kept: list[torch.Tensor] = []

            def keep(tensor: torch.Tensor, kept: list[torch.Tensor] = kept) -> torch.Tensor:
                kept.append(tensor)
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                support_mass(query, key, probe, scaling=0.7).sum().backward()
            assert kept
            assert max(tensor.numel() for tensor in kept) == key.numel() == query.numel() // 2
            totals.append(sum(tensor.numel() for tensor in kept))
        assert totals[1] / totals[0] < 2.05

    def test_no_map_is_larger_than_a_block_of_rows(self) -> None:
        query, key, probe = random_case(6 * ROWS_PER_BLOCK, 4 * ROWS_PER_BLOCK)

        class Largest(TorchDispatchMode):
            numel = 0

            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                result = func(*args, **(kwargs or {}))
                for tensor in result if isinstance(result, (tuple, list)) else [result]:
                    if isinstance(tensor, torch.Tensor):
                        self.numel = max(self.numel, tensor.numel())
                return result

        with Largest() as largest:
            support_mass(query, key, probe, scaling=0.7).sum().backward()
        assert largest.numel == 2 * 6 * ROWS_PER_BLOCK * probe.support.shape[1]


class TestMaps:
    """The attention of each row, on random queries and keys."""

    @pytest.mark.parametrize("num_rows", [6, ROWS_PER_BLOCK, 3 * ROWS_PER_BLOCK + 1])
    def test_blocks_of_rows(self, num_rows: int) -> None:
        query, key, probe = random_case(num_rows + 40, num_rows, dtype=torch.float64)
        maps = attention_maps(query, key, probe, scaling=0.7)
        assert maps.dtype == torch.float64
        assert not maps.requires_grad
        torch.testing.assert_close(maps, plain_maps(query, key, probe, 0.7), rtol=0, atol=1e-13)
        masses = support_mass(query, key, probe, scaling=0.7)
        torch.testing.assert_close((maps * probe.support[:, None]).sum(-1), masses, rtol=0, atol=1e-13)
        torch.testing.assert_close(maps.sum(-1), torch.ones_like(masses), rtol=0, atol=1e-13)

    def test_in_float32_where_queries_are_not(self) -> None:
        query, key, probe = random_case()
        narrow = [part.detach().bfloat16() for part in (query, key)]
        with torch.autocast("cpu", torch.bfloat16):
            maps = attention_maps(*narrow, probe, scaling=0.4)
        assert maps.dtype == torch.float32
        expected = plain_maps(*(part.double() for part in narrow), probe, 0.4)
        torch.testing.assert_close(maps.double(), expected, rtol=0, atol=1e-6)


def attention_case(
    num_queries: int = 50, num_keys: int = 50, heads: tuple[int, int] = (6, 3), *, scale: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query [2, A, N, 16], key and value [2, H, K, 16]; float32, of numbers that bfloat16 has, too."""
    generator = torch.Generator().manual_seed(num_keys)
    query, key, value = (
        scale * torch.randn(2, *shape, 16, generator=generator)
        for shape in ((heads[0], num_queries), (heads[1], num_keys), (heads[1], num_keys))
    )
    return query.bfloat16().float(), key.bfloat16().float(), value.bfloat16().float()


def causal_mask(num_tokens: int, padding: int) -> torch.Tensor:
    """[2, 1, N, N] bool, true where seen; the second sequence is padded on the left, and its padding sees nothing."""
    seen = torch.ones(2, 1, num_tokens, num_tokens, dtype=torch.bool).tril()
    seen[1, :, :, :padding] = False
    return seen


def relative_error(ours: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over that of what is expected."""
    return float((ours.detach().double() - expected.detach().double()).norm() / expected.detach().double().norm())


class TestWrittenOut:
    """Attention in bfloat16 on a CPU, against SDPA in float32."""

    @pytest.mark.parametrize("scaling", [None, 0.6])
    @pytest.mark.parametrize("heads", [(6, 3), (4, 4), (8, 1)])
    @pytest.mark.parametrize("kind", ["causal", "bool", "float"])
    def test_against_sdpa(self, kind: str, heads: tuple[int, int], scaling: float | None) -> None:
        query, key, value = (part.requires_grad_() for part in attention_case(heads=heads))
        seen = causal_mask(50, 7 if kind == "bool" else 0)
        mask: torch.Tensor | None = None
        if kind == "bool":
            mask = seen
        elif kind == "float":
            bias = 2 * torch.randn(2, heads[0], 50, 50, generator=torch.Generator().manual_seed(3))
            mask = bias.bfloat16().float().masked_fill(~seen, torch.finfo(torch.float32).min)
        expected = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=True
        ).transpose(1, 2)
        ours = written_out_attention(query, key, value, mask, scaling=scaling)
        assert ours.dtype == torch.bfloat16
        assert ours.shape == expected.shape
        asked = seen.any(-1)[:, 0, :, None, None].expand(expected.shape)
        weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(4)) * asked
        found, right = (
            torch.autograd.grad((output * weights).sum(), [query, key, value]) for output in (ours, expected)
        )
        pairs = [(ours[asked], expected[asked]), *zip(found, right, strict=True)]
        errors = [relative_error(one, other) for one, other in pairs]
        # Measured: at most 0.009, of a rounding to 1 in 256.
        assert max(errors) < 0.012

    @pytest.mark.parametrize("hidden", [None, HIDDEN, torch.finfo(torch.bfloat16).min])
    def test_rows_that_see_nothing_are_finite(self, hidden: float | None) -> None:
        """Also where scores are in the hundreds; and what is hidden is not seen, however high its score."""
        query, key, value = (part.requires_grad_() for part in attention_case(scale=8.0))
        seen = causal_mask(50, 7)
        assert not seen[1, 0, 6].any()
        mask = seen if hidden is None else torch.zeros(seen.shape).masked_fill(~seen, hidden)
        output = written_out_attention(query, key, value, mask, scaling=None)
        assert output.isfinite().all()
        found = torch.autograd.grad(output.sum(), [query, key, value], retain_graph=True)
        assert all(gradient.isfinite().all() for gradient in found)
        with torch.no_grad():
            other_key, other_value = key.clone(), value.clone()
            other_key[1, :, :7] *= -4
            other_value[1, :, :7] *= -4
            again = written_out_attention(query, other_key, other_value, mask, scaling=None)
        assert torch.equal(output[1, 7:], again[1, 7:])
        assert torch.equal(output[0], again[0])
        (gradient,) = torch.autograd.grad(output[1, 7:].float().sum(), value)
        assert (gradient[1, :, :7] == 0).all()

    @pytest.mark.parametrize(
        ("num_queries", "num_keys", "is_masked", "is_autocast", "is_taken"),
        [
            pytest.param(50, 50, False, True, True, id="causal"),
            pytest.param(50, 50, True, True, True, id="masked"),
            pytest.param(1, 50, True, True, True, id="a token after others, masked"),
            pytest.param(1, 50, False, True, False, id="a token after others, which sees all"),
            pytest.param(50, 50, False, False, False, id="float32, causal"),
            pytest.param(50, 50, True, False, False, id="float32, masked"),
            pytest.param(1, MOST_WRITTEN_OUT, True, True, True, id="as many keys as may be"),
            pytest.param(1, MOST_WRITTEN_OUT + 1, True, True, False, id="a key more"),
        ],
    )
    def test_when_it_is_taken(
        self,
        monkeypatch: pytest.MonkeyPatch,
        num_queries: int,
        num_keys: int,
        is_masked: bool,
        is_autocast: bool,
        is_taken: bool,
    ) -> None:
        calls = []

        def spy(*arguments: Any, **options: Any) -> torch.Tensor:
            calls.append(options)
            return written_out_attention(*arguments, **options)

        monkeypatch.setattr(attention, "written_out_attention", spy)
        query, key, value = attention_case(num_queries, num_keys)
        module = torch.nn.Module()
        module.layer_idx, module.num_key_value_groups, module.is_causal = 0, 2, True
        mask = causal_mask(num_keys, 7)[:, :, -num_queries:]
        if is_masked and num_queries > 1:
            mask[1, :, :7] = True  # no row without a key, which SDPA makes NaN or nothing
        with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
            given = focus_attention_forward(module, query, key, value, mask if is_masked else None, scaling=0.4)
            dtype = (query @ query.mT).dtype
        assert calls == [{"scaling": 0.4}] * is_taken
        output, weights = given
        assert weights is None
        assert output.dtype == dtype
        expected = torch.nn.functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask if is_masked else None,
            is_causal=not is_masked and num_queries > 1,
            scale=0.4,
            enable_gqa=True,
        )
        assert relative_error(output, expected.transpose(1, 2)) < (0.02 if is_autocast else 1e-6)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_a_model(self, processor: VLMProcessor, monkeypatch: pytest.MonkeyPatch, family: str) -> None:
        """Losses and gradients under autocast are as near to those in float32 as SDPA's are."""
        model, batch = make_model(family, processor), make_batch(processor)
        set_focus_attention(model)
        expected, expected_gradients = step(model, [batch], SFTConfig(beta=30.0), ALL_LAYERS)
        errors, losses = [], []
        for most in (MOST_WRITTEN_OUT, 0):
            monkeypatch.setattr(attention, "MOST_WRITTEN_OUT", most)
            metrics, found = step(model, [batch], SFTConfig(beta=30.0, precision="bf16"), ALL_LAYERS)
            losses.append(abs(metrics["loss"] / expected["loss"] - 1))
            both = [(found[n], right) for n, right in expected_gradients.items() if right is not None]
            flat = [
                torch.cat([part.flatten() for part in side if part is not None]) for side in zip(*both, strict=True)
            ]
            errors.append(relative_error(*flat))
        assert errors[0] < 1.5 * errors[1]
        assert max(losses) < 0.01


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_on_a_gpu_is_that_on_the_cpu(processor: VLMProcessor, precision: Any) -> None:
    config, batch = SFTConfig(beta=30.0, precision=precision), make_batch(processor)
    results = []
    for device in ("cpu", "cuda"):
        model = make_model("qwen2_vl", processor).to(device)
        set_focus_attention(model)
        results.append(step(model, [batch.to(device)], config, ALL_LAYERS)[0])
    assert results[1] == pytest.approx(results[0], rel=1e-3 if precision == "fp32" else 0.05)


class TestProbe:
    """Which rows look, and at what."""

    def test_rows_are_filled_up_by_one_of_their_own(self) -> None:
        query = torch.tensor([[0, 0, 0, 1, 1, 1, 0], [0, 0, 1, 0, 0, 1, 0], [0, 1, 0, 0, 0, 0, 0]]).bool()
        support = torch.tensor([[0, 1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]]).bool()
        padding = torch.tensor([[0, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0]])
        probe = SupportProbe.build(query, support, padding, frozenset({4}))
        assert probe.rows.tolist() == [[3, 4, 5], [2, 5, 5], [1, 1, 1]]
        assert probe.row_mask.tolist() == [[True, True, True], [True, True, False], [True, False, False]]
        assert probe.support.int().tolist() == [[0, 1, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]]
        assert padding_of(probe).int().tolist() == [[1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1]]
        assert probe.layers == {4}
        assert probe.masses == probe.maps == {}

    def test_a_second_pass_does_not_replace_what_was_measured(self, processor: VLMProcessor) -> None:
        model, batch = make_model("qwen2_vl", processor), make_batch(processor)
        set_focus_attention(model)
        probe = SupportProbe.build(batch.query_mask, batch.support_mask, batch.prompts.attention_mask, frozenset({1}))
        model(**model_inputs(batch), support_probe=probe)
        first = probe.masses[1]
        model(**model_inputs(batch), support_probe=probe)
        assert probe.masses == {1: first}
        assert probe.maps == {}, "none was asked for"

    @pytest.mark.parametrize(("scaling", "factor"), [(0.9, 0.9), (None, 8**-0.5)])
    def test_a_layers_own_scaling_is_for_output_and_masses(self, scaling: float | None, factor: float) -> None:
        query, key, probe = random_case(dtype=torch.float64)
        module = torch.nn.Module()
        module.layer_idx, module.num_key_value_groups, module.is_causal = 0, 2, True
        output, weights = focus_attention_forward(module, query, key, key, None, support_probe=probe, scaling=scaling)
        expected, _ = exact_eager_forward(
            module, query, key, key, torch.full((70, 70), -torch.inf).triu(1), scaling=factor
        )
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(probe.masses[0], plain_mass(query, key, probe, factor), rtol=0, atol=1e-12)
        assert weights is None

    def test_a_sliding_window_is_refused(self, processor: VLMProcessor) -> None:
        model = make_model("qwen2_vl", processor, use_sliding_window=True, sliding_window=8, max_window_layers=2)
        batch = make_batch(processor)
        set_focus_attention(model)
        config = SFTConfig()
        measure_losses(model, batch, config, frozenset({0, 1}))
        with pytest.raises(NotImplementedError, match="support attention: layer 2 has a sliding window"):
            measure_losses(model, batch, config, ALL_LAYERS)


class TestTheModelItself:
    """The measurement stands beside the model: what it computes is as before, bit by bit."""

    @pytest.mark.parametrize("tower", ["sdpa", "eager"])
    @pytest.mark.parametrize("family", FAMILIES)
    def test_logits_are_untouched(self, processor: VLMProcessor, family: str, tower: str) -> None:
        model, batch = make_model(family, processor), make_batch(processor)
        model.set_attn_implementation({"vision_config": tower})
        assert model.config.text_config._attn_implementation == "sdpa"
        with torch.no_grad():
            before = model(**model_inputs(batch)).logits
            set_focus_attention(model)
            without = model(**model_inputs(batch)).logits
            probe = SupportProbe.build(batch.query_mask, batch.support_mask, batch.prompts.attention_mask, ALL_LAYERS)
            measured = model(**model_inputs(batch), support_probe=probe).logits
        assert model.config.text_config._attn_implementation == FOCUS_ATTENTION
        assert model.config.vision_config._attn_implementation == tower
        assert torch.equal(before, without)
        assert torch.equal(before, measured)

    def test_the_vision_tower_is_not_measured(self, processor: VLMProcessor, layer_calls: list[Measurement]) -> None:
        model, batch = make_model("qwen3_vl", processor), make_batch(processor)
        set_focus_attention(model)
        measure_losses(model, batch, SFTConfig(), frozenset({1}))
        ((query, key, *_),) = layer_calls
        num_tokens = model_inputs(batch)["input_ids"].shape[1]
        assert (query.shape, key.shape) == ((3, 4, num_tokens, 16), (3, 2, num_tokens, 16))


class TestPadding:
    """What stands under padding, left of the prompts and right of the answers, changes nothing."""

    @pytest.mark.parametrize("labels", ["answer", "full"])
    @pytest.mark.parametrize("family", FAMILIES)
    def test_garbage(
        self,
        processor: VLMProcessor,
        family: str,
        labels: Labels,
    ) -> None:
        model, batch = make_model(family, processor), make_batch(processor)
        config = SFTConfig(labels=labels, beta=30.0)
        set_focus_attention(model)
        expected, expected_gradients = step(model, [batch], config, ALL_LAYERS)
        prompts = batch.prompts
        garbage = torch.randint(300, prompts.input_ids.shape, generator=torch.Generator().manual_seed(2))
        ids = torch.where(prompts.attention_mask.bool(), prompts.input_ids, garbage)
        answers = torch.where(batch.answer_mask, batch.answer_ids, garbage[:, : batch.answer_ids.shape[1]])
        assert not torch.equal(ids, prompts.input_ids)
        assert not torch.equal(answers, batch.answer_ids)
        other = dataclasses.replace(batch, prompts=dataclasses.replace(prompts, input_ids=ids), answer_ids=answers)
        is_token = model_inputs(batch)["attention_mask"].bool()[..., None]
        noise = 30 * torch.randn(*is_token.shape[:2], 64, generator=torch.Generator().manual_seed(8))
        model.get_input_embeddings().register_forward_hook(lambda *arguments: arguments[2].where(is_token, noise))
        metrics, ours = step(model, [other], config, ALL_LAYERS)
        assert metrics == pytest.approx(expected, rel=1e-6)
        assert_same_gradients(ours, expected_gradients, 1e-6)


class TestMicroBatches:
    """However a batch is cut up, the step is the same."""

    @pytest.mark.parametrize("parts", [[[0], [1], [2]], [[0, 1], [2]], [[2], [1, 0]]])
    @pytest.mark.parametrize("labels", ["answer", "full"])
    def test_they_add_up(self, processor: VLMProcessor, labels: Labels, parts: list[list[int]]) -> None:
        model = make_model("qwen2_vl", processor)
        config, layers = SFTConfig(labels=labels, beta=30.0, margin=0.1), frozenset({0, 2})
        set_focus_attention(model)
        expected, expected_gradients = step(model, [make_batch(processor)], config, layers)
        micro_batches = [make_batch(processor, part) for part in parts]
        assert len({batch.prompts.input_ids.shape[1] for batch in micro_batches}) > 1, "padded otherwise than before"
        metrics, ours = step(model, micro_batches, config, layers)
        assert metrics == pytest.approx(expected, rel=1e-5)
        assert_same_gradients(ours, expected_gradients, 1e-5)

    @pytest.mark.parametrize("labels", ["answer", "full"])
    def test_each_label_and_each_example_weighs_the_same(self, processor: VLMProcessor, labels: Labels) -> None:
        """Parts have unequal numbers of labels and examples, so a mean over parts would be another loss."""
        model = make_model("qwen2_vl", processor)
        config = SFTConfig(labels=labels)
        set_focus_attention(model)
        micro_batches = [make_batch(processor, part) for part in ([0, 1], [2])]
        metrics = accumulate_gradients(model, micro_batches, config, ALL_LAYERS)
        alone = [accumulate_gradients(model, [batch], config, ALL_LAYERS) for batch in micro_batches]
        counts = [int(batch.answer_mask.sum()) for batch in micro_batches]
        if labels == "full":
            counts = [
                int(model_inputs(batch)["attention_mask"].sum()) - len(batch.answer_ids) for batch in micro_batches
            ]
        assert counts[0] > 2 * counts[1]
        for name, weights in (("lm_loss", counts), ("attention_loss", [2, 1]), ("support_mass", [2, 1])):
            values = [part[name] for part in alone]
            mean = sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)
            assert metrics[name] == pytest.approx(mean, rel=1e-5)
            assert metrics[name] != pytest.approx(sum(values) / 2, rel=1e-3)


class TestSelectLayers:
    """The choices of layers that a command line takes."""

    @pytest.mark.parametrize(
        ("spec", "num_layers", "layers"),
        [
            ("all", 3, [0, 1, 2]),
            ("all", 1, [0]),
            ("first:2", 3, [0, 1]),
            ("first:3", 3, [0, 1, 2]),
            ("first:5", 3, [0, 1, 2]),  # the default, on a small model
            ("first:5", 28, [0, 1, 2, 3, 4]),
            ("last:1", 3, [2]),
            ("last:5", 28, [23, 24, 25, 26, 27]),
            ("last:5", 3, [0, 1, 2]),
            ("2", 3, [2]),
            ("0", 1, [0]),
            ("0,2", 3, [0, 2]),
            ("2, 0 ,2", 3, [0, 2]),
        ],
    )
    def test_choices(self, spec: str, num_layers: int, layers: list[int]) -> None:
        assert sorted(select_layers(spec, num_layers)) == layers

    @pytest.mark.parametrize("spec", ["", " ", ",", "3,", ",3", "-1", "0,-1", "1.5", "1-3", "²", "all:2", "all,1"])
    def test_others_are_refused(self, spec: str) -> None:
        self.assert_refused(spec)

    @pytest.mark.parametrize("spec", ["first", "first:", "first:0", "last:0", "first:-1", "First:2", "middle:2"])
    def test_counts_out_of_range_are_refused(self, spec: str) -> None:
        self.assert_refused(spec)

    def assert_refused(self, spec: str) -> None:
        message = f"attention layers: expected 'all', 'first:5', 'last:5' or numbers like '3,7', got {spec!r}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            select_layers(spec, 28)

    @pytest.mark.parametrize(("spec", "named"), [("9", 9), ("3", 3), ("0,4,1,7", 4)])
    def test_layers_that_the_model_lacks(self, spec: str, named: int) -> None:
        with pytest.raises(
            ValueError,
            match=f"^attention layers '{spec}': expected numbers from 0 to 2, the model's layers, got {named}$",
        ):
            select_layers(spec, 3)
