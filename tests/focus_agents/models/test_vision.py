"""Vision attention over equal pictures at once, against transformers' own loop over pictures, in three families."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from focus_agents.models.processing import VLMProcessor
from focus_agents.models.vision import batch_pictures
from tests.focus_agents.models.families import FAMILIES, Gradients, assert_same_gradients, make_model

Pictures = list[tuple[int, int]]
"""Rows and columns of patches of each."""

EQUAL: Pictures = [(8, 12)] * 3
UNEQUAL: Pictures = [(8, 12), (4, 8), (8, 12)]
RAGGED: Pictures = [(6, 10)] * 2
"""Equal ones, which Qwen2.5-VL's windows of 4 x 4 patches do not divide."""


def run(model: Any, pictures: Pictures) -> tuple[torch.Tensor, Gradients]:
    """The tower's embeddings [tokens, D], and the parameters' gradients of a weighted sum of them."""
    generator = torch.Generator().manual_seed(1)
    num_patches = sum(rows * columns for rows, columns in pictures)
    pixels = torch.randn(num_patches, 3 * 2 * 8 * 8, generator=generator)
    grid = torch.tensor([(1, rows, columns) for rows, columns in pictures])
    tower = model.model.visual
    output = tower(pixels, grid_thw=grid)
    parts = [output.pooler_output, *(getattr(output, "deepstack_features", None) or ())]
    embeddings = torch.cat(parts)
    loss = (embeddings * torch.randn(embeddings.shape, generator=generator)).sum()
    named = dict(tower.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return embeddings.detach(), dict(zip(named, found, strict=True))


def watch_loops(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of pictures, or windows, that transformers' own attention is called with from now on."""
    numbers: list[int] = []
    kind = type(model.model.visual.blocks[0].attn)
    original = kind.forward

    def spy(self: Any, hidden_states: torch.Tensor, cu_seqlens: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        numbers.append(len(cu_seqlens) - 1)
        return original(self, hidden_states, cu_seqlens, *args, **kwargs)

    monkeypatch.setattr(kind, "forward", spy)
    return numbers


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("pictures", "looped", "looped_windows"),
    [
        pytest.param(EQUAL, [], [], id="equal"),
        pytest.param(UNEQUAL, [3, 3], [3], id="unequal"),
        pytest.param(RAGGED, [], [12], id="ragged windows"),
        pytest.param([(8, 8)], [1, 1], [1], id="one"),
    ],
)
def test_outputs_and_gradients_are_as_before(
    processor: VLMProcessor,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    pictures: Pictures,
    looped: list[int],
    looped_windows: list[int],
) -> None:
    model = make_model(family, processor)
    expected, expected_gradients = run(model, pictures)
    batch_pictures(model)
    numbers = watch_loops(model, monkeypatch)
    embeddings, gradients = run(model, pictures)
    # The first of Qwen2.5-VL's two blocks attends within windows.
    assert numbers == (looped_windows if family == "qwen2_5_vl" else looped)
    gap = (embeddings - expected).abs().max() / expected.abs().max()
    assert gap <= 1e-5
    assert_same_gradients(gradients, expected_gradients, 1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_copy_computes_with_its_own_weights(
    processor: VLMProcessor, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    model = make_model(family, processor)
    batch_pictures(model)
    expected, _ = run(model, EQUAL)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for block in other.model.visual.blocks:
            block.attn.qkv.weight.mul_(-0.5)
            block.attn.proj.weight.mul_(2)
    numbers = watch_loops(model, monkeypatch)
    changed, _ = run(other, EQUAL)
    assert numbers == [], "the copy is batched, too"
    assert torch.equal(run(model, EQUAL)[0], expected)
    plain = make_model(family, processor)
    plain.load_state_dict(other.state_dict())
    right, _ = run(plain, EQUAL)
    torch.testing.assert_close(changed, right, rtol=0, atol=1e-5 * float(right.abs().max()))
    assert not torch.allclose(changed, expected, atol=0.01 * float(right.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tower_on_eager_is_left_alone(processor: VLMProcessor, monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    model = make_model(family, processor)
    model.set_attn_implementation({"vision_config": "eager"})
    expected, _ = run(model, EQUAL)
    batch_pictures(model)
    numbers = watch_loops(model, monkeypatch)
    embeddings, _ = run(model, EQUAL)
    assert len(numbers) == 2
    assert torch.equal(embeddings, expected)


def test_other_attention_is_left_alone(processor: VLMProcessor) -> None:
    model = make_model("qwen2_vl", processor)
    block = model.model.visual.blocks[1]
    block.attn = torch.nn.Linear(2, 2)
    batch_pictures(model)
    assert "forward" not in vars(block.attn)
    assert "forward" in vars(model.model.visual.blocks[0].attn)


@pytest.mark.parametrize("family", FAMILIES)
def test_autocast(processor: VLMProcessor, family: str) -> None:
    """In bfloat16 the batch is as near to float32 as the loop."""
    model = make_model(family, processor)
    expected, _ = run(model, EQUAL)
    with torch.autocast("cpu", torch.bfloat16):
        looped, _ = run(model, EQUAL)
        batch_pictures(model)
        batched, _ = run(model, EQUAL)
    assert batched.dtype == looped.dtype
    errors = [float((output.float() - expected).norm() / expected.norm()) for output in (batched, looped)]
    assert 0 < errors[0] < 1.2 * errors[1]
