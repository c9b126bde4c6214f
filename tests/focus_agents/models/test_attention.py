"""The language model's attention: written out in bfloat16, without effect on the model, and which layers are measured.

Axis letters: N tokens, K tokens up to the last row, A heads, H key-value heads.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from focus_agents.models import attention
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
from focus_agents.models.support_mass import SupportProbe
from focus_agents.sft.settings import SFTConfig
from focus_agents.sft.step import measure_losses
from tests.focus_agents.models.eager_maps import step
from tests.focus_agents.models.families import (
    ALL_LAYERS,
    FAMILIES,
    make_batch,
    make_model,
    model_inputs,
)
from tests.focus_agents.models.plain_mass import Measurement


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

    @pytest.mark.parametrize(
        "spec",
        [
            "first",
            "first:",
            "first:0",
            "last:0",
            "first:-1",
            "First:2",
            "middle:2",
            "\u0663",
            "first:\u0663",
            "1,\u0663",
        ],
    )
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
