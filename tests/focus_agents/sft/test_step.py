"""A step of stage 1: its losses however a batch is padded or cut up, and what it leaves behind."""

from __future__ import annotations

import copy
import dataclasses
import gc
from typing import Any

import pytest
import torch

from focus_agents.models.attention import set_focus_attention
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.support_mass import SupportProbe
from focus_agents.sft.data import SFTExamples
from focus_agents.sft.settings import Labels, SFTConfig
from focus_agents.sft.step import accumulate_gradients
from tests.focus_agents.models.eager_maps import step
from tests.focus_agents.models.families import (
    ALL_LAYERS,
    FAMILIES,
    assert_same_gradients,
    make_batch,
    make_model,
    model_inputs,
    patch_grid,
)


@pytest.mark.parametrize("labels", ["answer", "full"])
def test_the_lm_loss_is_the_mean_over_labelled_tokens(model: Any, examples: SFTExamples, labels: Any) -> None:
    """Against one forward pass for each example: of the answer's tokens, or all but the first."""
    items = [examples[index] for index in (5, 0, 1)]
    rows = []
    for item in items:
        ids = torch.tensor([[*item.prompt.input_ids, *item.answer_ids]])
        with torch.no_grad():
            logits = model(
                input_ids=ids,
                mm_token_type_ids=(ids == model.config.image_token_id).int(),
                pixel_values=torch.tensor(item.prompt.images["pixel_values"]),
                image_grid_thw=patch_grid(item.prompt.grids),
                use_cache=False,
            ).logits
        losses = -logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
        rows.append(losses if labels == "full" else losses[-len(item.answer_ids) :])
    assert len({len(row) for row in rows}) > 1
    metrics = accumulate_gradients(
        copy.deepcopy(model), [examples.collate(items)], SFTConfig(labels=labels, beta=0.0), frozenset()
    )
    assert metrics == {
        "loss": pytest.approx(torch.cat(rows).mean().item(), rel=1e-5),
        "lm_loss": pytest.approx(torch.cat(rows).mean().item(), rel=1e-5),
    }


def test_a_step_leaves_nothing_behind(model: Any, examples: SFTExamples) -> None:
    """A probe that the graph of its own masses holds is garbage that Python's collector cannot see."""
    config = SFTConfig(beta=2.0)
    batch = examples.collate([examples[0], examples[1]])
    model = copy.deepcopy(model).requires_grad_()
    set_focus_attention(model)
    num_before = count_probes()
    accumulate_gradients(model, [batch], config, frozenset({0, 2}))
    assert count_probes() == num_before


def count_probes() -> int:
    gc.collect()
    return sum(type(thing) is SupportProbe for thing in gc.get_objects())


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
