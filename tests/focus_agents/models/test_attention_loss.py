"""Support masses, the attention loss and its gradients, against the full attention maps of three model families."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from focus_agents.models.adapters import add_adapters
from focus_agents.models.attention import select_layers, set_focus_attention
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.support_mass import SupportProbe
from focus_agents.sft.settings import AttentionTarget, Labels, MarginUnit, SFTConfig
from focus_agents.sft.step import accumulate_gradients
from tests.focus_agents.models.eager_maps import (
    attention_loss_and_gradients,
    full_maps,
    gradients,
    reference_losses,
    step,
)
from tests.focus_agents.models.families import (
    ALL_LAYERS,
    EXACT_EAGER,
    FAMILIES,
    NUM_LAYERS,
    assert_same_gradients,
    enable_checkpointing,
    make_batch,
    make_model,
    model_inputs,
)
from tests.focus_agents.models.plain_mass import Measurement


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
