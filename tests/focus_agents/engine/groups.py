"""Groups of answers, three ways to score them, and a model with an untouched copy.

Axis letters: N prompts, G answers per prompt, T tokens of the longest answer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from focus_agents.engine.forward import prefill
from focus_agents.engine.scoring import score_completions
from focus_agents.models.inputs import EncodedPrompt, PromptBatch
from focus_agents.models.processing import VLMProcessor
from tests.focus_agents.engine.oracle import score_by_repetition
from tests.focus_agents.models.families import EXACT_EAGER, make_model

CASES: dict[str, tuple[list[int], list[list[int]]]] = {
    "one answer": ([0, 3], [[5], [2]]),
    "one answer, padded": ([0, 1, 2], [[5], [1], [6]]),
    "two answers, padded": ([0, 1, 2], [[6, 1], [3, 5], [2, 6]]),
    "nothing but ends, padded": ([2, 1, 0], [[1, 1, 1]] * 3),
    "nothing but ends in one group": ([0, 3], [[1, 1, 1, 1], [2, 7, 1, 4]]),
    "five answers, padded": ([1, 0, 2], [[3, 1, 6, 2, 2], [1, 1, 1, 8, 1], [4, 4, 4, 4, 4]]),
}
"""Which questions, and the lengths of their answers; questions 0 and 3 are of the same length."""

Score = Callable[[Any, "Group"], torch.Tensor]


class Group(NamedTuple):
    """Questions and answers, and a weight for each answer token in the loss.

    Attributes:
        prompts: N.
        batch: The same.
        token_ids: [N, G, T], with tokens after the ends that are no padding.
        lengths: [N, G].
        weights: [N, G, T], 0 after the ends and nowhere else.
    """

    prompts: list[EncodedPrompt]
    batch: PromptBatch
    token_ids: torch.Tensor
    lengths: torch.Tensor
    weights: torch.Tensor


class Learned(NamedTuple):
    """What a way of scoring finds: [N, G, T] log-probabilities, 0 after the ends, and gradients by name."""

    logprobs: torch.Tensor
    gradients: Mapping[str, torch.Tensor]


class Pair(NamedTuple):
    """A model, and a copy of it that none of our code has touched, with full attention maps in its language model."""

    model: Any
    reference: Any


def shared(model: Any, group: Group, **options: Any) -> torch.Tensor:
    return score_completions(model, group.batch, group.token_ids, group.lengths, **options)[0]


def repeated(model: Any, group: Group, **options: Any) -> torch.Tensor:
    return shared(model, group, shared_prefix=False, **options)


def from_prefix(model: Any, group: Group, **options: Any) -> torch.Tensor:
    """In two calls: the prompts, then the answers."""
    return shared(model, group, prefix=prefill(model, group.batch), **options)


def oracle(model: Any, group: Group, **options: Any) -> torch.Tensor:
    return score_by_repetition(model, group.prompts, group.token_ids, **options)[0]


def learn(model: Any, group: Group, score: Score, **options: Any) -> Learned:
    """Score, and take the gradient of the weighted sum of log-probabilities for all parameters that are trained."""
    logprobs = score(model, group, **options)
    assert logprobs.shape == group.token_ids.shape
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    found = torch.autograd.grad((group.weights * logprobs).sum(), list(named.values()))
    return Learned(logprobs.detach() * (group.weights != 0), dict(zip(named, found, strict=True)))


def assert_same_gradients(
    ours: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], tolerance: float
) -> None:
    """For each parameter, the norm of the difference over the norm of what is expected, which is never 0."""
    assert ours.keys() == expected.keys()
    assert expected
    for name, right in expected.items():
        norm = right.norm()
        assert norm > 0, f"{name} has no gradient, so it shows nothing"
        gap = ((ours[name] - right).norm() / norm).item()
        assert gap <= tolerance, f"{name}: {gap}"


def assert_same(ours: Learned, expected: Learned, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(ours.logprobs, expected.logprobs, rtol=0, atol=tolerance)
    assert_same_gradients(ours.gradients, expected.gradients, tolerance)


@contextmanager
def recorded(module: Any, record: Callable[..., Any]) -> Iterator[list[Any]]:
    """What `record(inputs, keywords, output)` makes of each call of a module."""
    found: list[Any] = []
    with module.register_forward_hook(lambda _, *call: found.append(record(*call)), with_kwargs=True):
        yield found


def make_pair(family: str, processor: VLMProcessor) -> Pair:
    model = make_model(family, processor)
    reference = copy.deepcopy(model)
    reference.set_attn_implementation({"text_config": EXACT_EAGER})
    return Pair(model, reference)


def make_group(case: str, processor: VLMProcessor, questions: Sequence[EncodedPrompt]) -> Group:
    which, lengths = CASES[case][0], torch.tensor(CASES[case][1])
    generator = torch.Generator().manual_seed(int(lengths.sum()))
    num_tokens = int(lengths.max())
    token_ids = torch.randint(300, (*lengths.shape, num_tokens), generator=generator)
    weights = torch.randn(token_ids.shape, generator=generator) * (torch.arange(num_tokens) < lengths[..., None])
    prompts = [questions[n] for n in which]
    batch = processor.collate(prompts)
    assert bool(batch.attention_mask.all()) != ("padded" in case)
    return Group(prompts, batch, token_ids, lengths, weights)
