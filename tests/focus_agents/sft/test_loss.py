"""The formulas of stage 1 by hand, and the support masses' delta against full rows of attention.

Axis letters: B examples, N tokens, V vocabulary, Q query-image tokens, M support tokens, L layers.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from focus_agents.models.inputs import IGNORED
from focus_agents.sft.loss import (
    attention_loss,
    lm_loss,
    margin_unit,
    share_past_margin,
    support_delta,
)


class TestLanguageModelLoss:
    """Position n predicts label n + 1, and nothing is averaged."""

    # What each position holds likely, of three tokens.
    PROBABILITIES = ((0.5, 0.25, 0.25), (0.1, 0.2, 0.7), (0.6, 0.3, 0.1), (0.2, 0.2, 0.6))

    @pytest.mark.parametrize(
        ("labels", "likelihoods"),
        [
            ([2, 0, 1, 2], [0.5, 0.2, 0.1]),
            ([IGNORED, 0, 1, 2], [0.5, 0.2, 0.1]),  # the first token follows on nothing
            ([IGNORED, 1, 2, 0], [0.25, 0.7, 0.6]),
            ([IGNORED, IGNORED, IGNORED, 1], [0.3]),
            ([IGNORED, 2, IGNORED, 1], [0.25, 0.3]),
            ([1, IGNORED, IGNORED, IGNORED], []),
        ],
    )
    def test_by_hand(self, labels: list[int], likelihoods: list[float]) -> None:
        logits = torch.tensor([self.PROBABILITIES]).log() + 3.0
        loss = lm_loss(logits, torch.tensor([labels]))
        assert loss.shape == ()
        assert loss.item() == pytest.approx(-sum(math.log(p) for p in likelihoods), abs=1e-6)

    def test_examples_add_up(self) -> None:
        logits = torch.tensor([self.PROBABILITIES, self.PROBABILITIES[::-1]]).log()
        labels = torch.tensor([[0, 1, 2, 0], [IGNORED, 1, IGNORED, IGNORED]])
        expected = -math.log(0.25) - math.log(0.7) - math.log(0.6) - math.log(0.2)
        assert lm_loss(logits, labels).item() == pytest.approx(expected, abs=1e-6)

    def test_gradient_is_likelihood_minus_one_where_a_label_is(self) -> None:
        logits = torch.tensor([self.PROBABILITIES]).log().requires_grad_()
        (gradient,) = torch.autograd.grad(lm_loss(logits, torch.tensor([[0, 2, IGNORED, 1]])), logits)
        expected = torch.tensor([[[0.5, 0.25, -0.75], [0, 0, 0], [0.6, -0.7, 0.1], [0, 0, 0]]])
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-6)

    def test_narrow_logits_are_widened_before_the_softmax(self) -> None:
        narrow = torch.randn(2, 5, 300, generator=torch.Generator().manual_seed(0)).mul(4).bfloat16()
        labels = torch.randint(300, (2, 5), generator=torch.Generator().manual_seed(1))
        loss = lm_loss(narrow, labels)
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(lm_loss(narrow.double(), labels).item(), rel=1e-6)
        assert lm_loss(narrow.double(), labels).dtype == torch.float64


class TestSupportDelta:
    """delta = S / M - (1 - S) / (N - M)."""

    @pytest.mark.parametrize(
        ("mass", "num_support", "num_tokens", "delta"),
        [
            (1.0, 4, 20, 1 / 4),  # all of it on the support: the most there can be
            (1.0, 60, 500, 1 / 60),
            (1.0, 1, 2, 1.0),
            (0.0, 4, 20, -1 / 16),  # none: minus the mean over the others
            (0.0, 1, 2, -1.0),
            (4 / 20, 4, 20, 0.0),  # as much as is due to 4 of 20
            (0.5, 4, 20, 0.5 / 4 - 0.5 / 16),
            (0.3, 1, 11, 0.3 - 0.07),
        ],
    )
    def test_by_hand(self, mass: float, num_support: int, num_tokens: int, delta: float) -> None:
        value = support_delta(torch.tensor([[mass]]), torch.tensor([num_support]), torch.tensor([num_tokens]))
        assert value.shape == (1, 1)
        assert value.item() == pytest.approx(delta, abs=1e-7)

    def test_each_example_has_its_own_counts_in_every_layer(self) -> None:
        mass = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.5, 0.5], [0.5, 0.5]]])
        delta = support_delta(mass, torch.tensor([2, 5]), torch.tensor([12, 10]))
        expected = torch.tensor([[[0.5, -0.1], [0.2, -0.2]], [[0.2, 0.2], [0.0, 0.0]]])
        torch.testing.assert_close(delta, expected, rtol=0, atol=1e-7)

    def test_without_support_tokens_it_is_finite(self) -> None:
        delta = support_delta(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([9]))
        assert delta.tolist() == [[-0.125, -0.125]]

    @given(data=st.data(), num_tokens=st.integers(2, 40), width=st.floats(0, 20))
    def test_it_is_the_mean_inside_minus_the_mean_outside(
        self, data: st.DataObject, num_tokens: int, width: float
    ) -> None:
        """Over full rows of a causal, padded softmax, future tokens counted as others."""
        num_support = data.draw(st.integers(1, num_tokens - 1), label="num_support")
        num_padding = data.draw(st.integers(0, 5), label="num_padding")
        seed = data.draw(st.integers(0, 2**31), label="seed")
        generator = torch.Generator().manual_seed(seed)
        size = num_padding + num_tokens
        is_visible = torch.arange(size) >= num_padding
        chosen = num_padding + torch.randperm(num_tokens, generator=generator)[:num_support]
        inside = torch.zeros(size, dtype=torch.bool).index_fill(0, chosen, True)
        scores = width * torch.randn(size, size, generator=generator, dtype=torch.float64)
        hidden = torch.ones(size, size, dtype=torch.bool).triu(1) | ~is_visible
        rows = scores.masked_fill(hidden, -torch.inf).softmax(-1)[num_padding:]
        expected = rows[:, inside].mean(1) - rows[:, is_visible & ~inside].mean(1)
        mass = rows[:, inside].sum(1)
        delta = support_delta(mass[None], torch.tensor([num_support]), torch.tensor([num_tokens]))
        torch.testing.assert_close(delta[0], expected, rtol=0, atol=1e-12)
        assert (delta <= 1 / num_support + 1e-12).all()


@pytest.mark.parametrize(("num_support", "reach"), [(1, 1.0), (4, 0.25), (60, 1 / 60), (0, 1.0)])
def test_margin_unit(num_support: int, reach: float) -> None:
    counts = torch.tensor([num_support, 2])
    assert margin_unit(counts, is_relative=True).tolist() == pytest.approx([reach, 0.5])
    absolute = margin_unit(counts, is_relative=False)
    assert absolute.tolist() == [1.0, 1.0]
    assert absolute.is_floating_point()


class TestAttentionLoss:
    """The mean over an example's rows of max(0, margin - delta / unit)^2."""

    @pytest.mark.parametrize(
        ("delta", "margin", "unit", "loss"),
        [
            ([0.02], 0.025, 1.0, 0.005**2),
            ([0.025], 0.025, 1.0, 0.0),
            ([0.4], 0.025, 1.0, 0.0),  # past the margin nothing pulls
            ([-0.1], 0.025, 1.0, 0.125**2),  # below zero more than mu^2
            ([0.0], 0.5, 0.25, 0.25),
            ([0.05], 0.5, 0.25, 0.3**2),
            ([0.125], 0.5, 0.25, 0.0),
            ([-0.25], 0.5, 0.25, 1.5**2),
            ([0.0, 0.05, 0.2], 0.5, 0.25, (0.25 + 0.09) / 3),  # the mean of the squares, not the square of the mean
        ],
    )
    def test_by_hand(self, delta: list[float], margin: float, unit: float, loss: float) -> None:
        rows = torch.tensor([delta], dtype=torch.float64)
        value = attention_loss(rows, torch.ones_like(rows, dtype=torch.bool), margin, torch.tensor([unit]))
        assert value.shape == (1,)
        assert value.item() == pytest.approx(loss, abs=1e-9)

    def test_an_example_counts_its_own_rows_only(self) -> None:
        delta = torch.tensor([[0.1, 0.2, 0.3], [0.1, 9.0, -9.0]])
        row_mask = torch.tensor([[True, True, True], [True, False, False]])
        loss = attention_loss(delta, row_mask, 0.5, torch.tensor([1.0, 0.5]))
        assert loss.tolist() == pytest.approx([(0.16 + 0.09 + 0.04) / 3, 0.09])

    def test_gradient_by_hand(self) -> None:
        delta = torch.tensor([[0.1, 0.2, 0.3, 0.0]], dtype=torch.float64, requires_grad=True)
        row_mask = torch.tensor([[True, True, True, False]])
        loss = attention_loss(delta, row_mask, 0.5, torch.tensor([0.5], dtype=torch.float64))
        (gradient,) = torch.autograd.grad(loss.sum(), delta)
        assert gradient[0].tolist() == pytest.approx([-2 * 0.3 / 0.5 / 3, -2 * 0.1 / 0.5 / 3, 0.0, 0.0])

    @pytest.mark.parametrize("num_support", [1, 3, 7, 60, 400])
    def test_all_attention_on_the_support_is_the_most_that_can_be_asked(self, num_support: int) -> None:
        """At a reachable margin of 1 its loss is 0, exactly, and that of anything less is not."""
        counts, rows = torch.tensor([num_support]), torch.ones(1, 2, dtype=torch.bool)
        unit = margin_unit(counts, is_relative=True)
        delta = support_delta(torch.tensor([[1.0, 0.99]]), counts, torch.tensor([500]))
        assert delta[0, 0].item() == pytest.approx(1 / num_support)
        assert attention_loss(delta[:, :1], rows[:, :1], 1.0, unit).item() == 0
        assert attention_loss(delta[:, 1:], rows[:, 1:], 1.0, unit).item() > 0
        assert share_past_margin(delta, rows, 1.0, unit).tolist() == [0.5]

    def test_no_attention_on_the_support(self) -> None:
        counts, rows = torch.tensor([10]), torch.ones(1, 3, dtype=torch.bool)
        delta = support_delta(torch.zeros(1, 3), counts, torch.tensor([110]))
        reachable = attention_loss(delta, rows, 0.5, margin_unit(counts, is_relative=True))
        absolute = attention_loss(delta, rows, 0.02, margin_unit(counts, is_relative=False))
        assert reachable.item() == pytest.approx((0.5 + 10 / 100) ** 2)
        assert absolute.item() == pytest.approx((0.02 + 1 / 100) ** 2)

    def test_the_papers_margin_is_out_of_reach_of_60_support_tokens(self) -> None:
        """mu = 0.025 is more than 1 / 60: the loss keeps pulling, though all attention is where it should be."""
        counts, rows = torch.tensor([60]), torch.ones(1, 1, dtype=torch.bool)
        unit = margin_unit(counts, is_relative=False)
        full, none = (support_delta(torch.tensor([[mass]]), counts, torch.tensor([200])) for mass in (1.0, 0.0))
        assert attention_loss(full, rows, 0.025, unit).item() == pytest.approx((0.025 - 1 / 60) ** 2, rel=1e-5)
        assert attention_loss(none, rows, 0.025, unit).item() == pytest.approx((0.025 + 1 / 140) ** 2, rel=1e-5)
        assert share_past_margin(full, rows, 0.025, unit).item() == 0
        assert share_past_margin(full, rows, 0.016, unit).item() == 1

    def test_the_two_units_differ_by_the_square_of_the_support_tokens(self) -> None:
        counts = torch.tensor([60, 5])
        delta = torch.tensor([[0.001, -0.002], [0.05, 0.01]], dtype=torch.float64)
        rows = torch.ones(2, 2, dtype=torch.bool)
        relative = attention_loss(delta, rows, 0.5, margin_unit(counts, is_relative=True))
        absolute = torch.cat(
            [attention_loss(delta[[n]], rows[[n]], 0.5 / int(counts[n]), torch.ones(1)) for n in range(2)]
        )
        torch.testing.assert_close(relative, absolute * counts**2, rtol=1e-6, atol=0)


class TestSharePastMargin:
    """How many of an example's rows need no more pull."""

    def test_by_hand_in_every_layer(self) -> None:
        delta = torch.tensor([[[0.1, 0.3, 0.5], [0.5, 0.5, 0.5]], [[0.24, 0.25, 0.26], [0.0, 0.6, 0.6]]])
        row_mask = torch.tensor([[True, True, True], [True, True, False]])
        share = share_past_margin(delta, row_mask, 0.5, torch.tensor([0.5, 1.0]))
        torch.testing.assert_close(share, torch.tensor([[2 / 3, 1.0], [2 / 3, 0.5]]))

    def test_rows_past_the_margin_are_those_without_loss(self) -> None:
        generator = torch.Generator().manual_seed(0)
        delta = torch.rand(3, 50, generator=generator) - 0.4
        row_mask = torch.rand(3, 50, generator=generator) < 0.7
        unit = torch.tensor([0.2, 1.0, 0.5])
        share = share_past_margin(delta, row_mask, 0.3, unit)
        for example in range(3):
            losses = [
                attention_loss(delta[[example], [row]][None], torch.ones(1, 1, dtype=torch.bool), 0.3, unit[[example]])
                for row in row_mask[example].nonzero()[:, 0]
            ]
            assert share[example].item() == pytest.approx(sum(loss.item() == 0 for loss in losses) / len(losses))
            assert 0 < share[example] < 1
