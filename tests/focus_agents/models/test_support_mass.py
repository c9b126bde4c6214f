"""Support masses and maps of attention, against whole rows of random queries and keys."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from focus_agents.models.attention import focus_attention_forward, set_focus_attention
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.support_mass import ROWS_PER_BLOCK, SupportProbe, attention_maps, support_mass
from focus_agents.sft.settings import SFTConfig
from focus_agents.sft.step import measure_losses
from tests.focus_agents.models.eager_maps import gradients
from tests.focus_agents.models.families import ALL_LAYERS, exact_eager_forward, make_batch, make_model, model_inputs
from tests.focus_agents.models.plain_mass import Measurement, padding_of, plain_maps, plain_mass, random_case


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
