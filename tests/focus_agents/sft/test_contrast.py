"""The attention to a support box against that to the rest of the supports' pictures."""

from __future__ import annotations

import torch

from focus_agents.models.processing import VLMProcessor
from focus_agents.models.views import box_tokens
from focus_agents.sft.data import SFTExamples
from focus_agents.sft.loss import contrast_delta, support_delta
from focus_env.env import observe
from focus_env.prompts import get_template
from tests.fakes import make_episode

TEMPLATE = get_template("compact")


class TestTokens:
    def test_the_rest_of_the_supports(self, processor: VLMProcessor) -> None:
        """All image tokens of the supports are inside a box or outside; the query's are neither."""
        episode = make_episode(0, shots=2)
        examples = SFTExamples([episode], TEMPLATE, processor, contrast="supports")
        example = examples[0]
        spans = processor.locate(TEMPLATE.render(observe(episode)), example.prompt)
        for exemplar, tokens, views in zip(episode.support, spans.images[:-1], spans.views[:-1], strict=True):
            inside = tokens[box_tokens(exemplar.box, exemplar.frame.image_wh, views)]
            assert not set(inside) & set(example.contrast_tokens)
            assert set(tokens) - set(inside) <= set(example.contrast_tokens)
        assert len(example.contrast_tokens) == sum(map(len, spans.images[:-1])) - len(example.support_tokens)
        batch = examples.collate([example])
        assert batch.contrast_mask[0].nonzero()[:, 0].tolist() == example.contrast_tokens.tolist()
        assert batch.to("cpu").contrast_mask.tolist() == batch.contrast_mask.tolist()
        assert "contrast_mask" in batch.tensors()

    def test_without_a_contrast_there_is_none(self, examples: SFTExamples) -> None:
        batch = examples.collate([examples[0]])
        assert batch.contrast_mask is examples[0].contrast_tokens is None
        assert batch.to("cpu").contrast_mask is None
        assert "contrast_mask" not in batch.tensors()


class TestContrastDelta:
    def test_by_hand(self) -> None:
        """A row looks with 0.4 at 2 support tokens and with 0.3 at 6 others; a second one at nothing of them."""
        mass, contrast = torch.tensor([[0.4, 0.0]]), torch.tensor([[0.3, 0.0]])
        found = contrast_delta(mass, contrast, torch.tensor([2]), torch.tensor([6]))
        torch.testing.assert_close(found, torch.tensor([[0.2 - 0.05, 0.0]]))

    def test_against_all_others_it_is_the_papers(self) -> None:
        mass, num_support, num_tokens = (
            torch.rand(2, 5, dtype=torch.float64),
            torch.tensor([2, 3]),
            torch.tensor([9, 7]),
        )
        found = contrast_delta(mass, 1 - mass, num_support, num_tokens - num_support)
        torch.testing.assert_close(found, support_delta(mass, num_support, num_tokens))

    def test_where_there_is_nothing_to_compare_with(self) -> None:
        found = contrast_delta(torch.tensor([[0.4]]), torch.tensor([[0.0]]), torch.tensor([2]), torch.tensor([0]))
        torch.testing.assert_close(found, torch.tensor([[0.2]]))
