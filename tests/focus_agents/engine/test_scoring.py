"""Log-probabilities of given answers and what they teach: a group as one row, against a row for each answer.

Three ways that must agree: the shared row, this project's repeated rows, and an oracle in which transformers' own
model, with full attention maps, is given one prompt at a time.

Axis letters: N prompts, G answers per prompt, T tokens of the longest answer, P prompt columns, C answer columns, R
answer tokens of all answers together, V vocabulary, H hidden size.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import torch

from focus_agents.engine import scoring
from focus_agents.engine.forward import encode_images, prefill
from focus_agents.engine.grammar import AnswerGrammar
from focus_agents.engine.scoring import score_completions, shared_prefix_gap
from focus_agents.models import attention
from focus_agents.models.adapters import add_adapters, base_model
from focus_agents.models.inputs import EncodedPrompt, PromptBatch
from focus_agents.models.loading import load_trainable_model
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.shared_prefix import PackedAnswers, answer_mask, pack_answers
from focus_env.env import observe
from focus_env.prompts import get_template
from tests.fakes import make_episode
from tests.focus_agents.engine.oracle import score_by_repetition
from tests.focus_agents.models.families import (
    EXACT_EAGER,
    FAMILIES,
    NUM_LAYERS,
    enable_checkpointing,
    make_model,
    patch_grid,
)

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


def double_norm(module: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """RMSNorm in the precision of its input; transformers' own rounds to float32."""
    scale = torch.rsqrt(hidden_states.square().mean(-1, keepdim=True) + module.variance_epsilon)
    return module.weight * hidden_states * scale


@pytest.fixture(scope="module")
def questions(processor: VLMProcessor) -> list[EncodedPrompt]:
    """With two, four, three and two pictures."""
    episodes = [
        make_episode(0, shots=1),
        make_episode(1, shots=3, query_wh=(48, 96)),
        make_episode(2, shots=2, query_wh=(33, 70)),
        make_episode(3, shots=1),
    ]
    return [processor.encode(get_template("compact").render(observe(episode))) for episode in episodes]


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, processor: VLMProcessor) -> Pair:
    """They are shared: do not change them."""
    return make_pair(request.param, processor)


@pytest.fixture(scope="module")
def qwen2(processor: VLMProcessor) -> Pair:
    """For what does not depend on the family. They are shared: do not change them."""
    return make_pair("qwen2_vl", processor)


def make_pair(family: str, processor: VLMProcessor) -> Pair:
    model = make_model(family, processor)
    reference = copy.deepcopy(model)
    reference.set_attn_implementation({"text_config": EXACT_EAGER})
    return Pair(model, reference)


@pytest.fixture(params=list(CASES))
def group(request: pytest.FixtureRequest, processor: VLMProcessor, questions: list[EncodedPrompt]) -> Group:
    return make_group(request.param, processor, questions)


@pytest.fixture
def five(processor: VLMProcessor, questions: list[EncodedPrompt]) -> Group:
    """Three padded prompts with five answers each."""
    return make_group("five answers, padded", processor, questions)


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


class TestThreeWays:
    """The shared row, repeated rows and the oracle: the same log-probabilities and gradients of every parameter."""

    def test_families(self, pair: Pair, group: Group) -> None:
        ours = learn(pair.model, group, shared)
        expected = learn(pair.reference, group, oracle)
        assert any("visual" in name for name in ours.gradients)
        assert_same(ours, expected)
        assert_same(ours, learn(pair.model, group, repeated))
        assert_same(learn(pair.model, group, from_prefix), expected)

    @pytest.mark.parametrize("score", [shared, from_prefix])
    def test_double_precision(self, pair: Pair, five: Group, monkeypatch: pytest.MonkeyPatch, score: Score) -> None:
        """The states that the head is given and their gradients, so precisely that a slip of any kind would show.

        Log-probabilities are float32 in a float64 model too, hence other tolerances.
        """
        model, reference = (copy.deepcopy(m).double() for m in pair)
        for norm in {type(module) for module in model.modules() if type(module).__name__.endswith("RMSNorm")}:
            monkeypatch.setattr(norm, "forward", double_norm)
        with recorded(model.lm_head, lambda inputs, *_: inputs[0]) as states:
            ours = learn(model, five, score)
            score(model, five)
        with recorded(reference.model, lambda *call: call[-1].last_hidden_state) as of_prompts:
            expected = learn(reference, five, oracle)
            oracle(reference, five)
        predicting = []
        for rows, lengths, prompt in zip(of_prompts[3:], five.lengths.tolist(), five.prompts, strict=True):
            start = len(prompt.input_ids) - 1
            predicting += [row[start : start + length] for row, length in zip(rows, lengths, strict=True)]
        given, expected_states = states[1], torch.cat(predicting)
        assert given.dtype == expected_states.dtype == torch.float64
        torch.testing.assert_close(given, expected_states, rtol=0, atol=1e-11)
        assert given.abs().max() > 1
        noise = torch.randn(given.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        gradients = []
        for m, outputs in ((model, given), (reference, expected_states)):
            named = dict(m.model.named_parameters())
            found = torch.autograd.grad((noise * outputs).sum(), list(named.values()))
            gradients.append(dict(zip(named, found, strict=True)))
        # The vision towers of transformers rotate in float32, whatever the model's precision.
        for part, tolerance in (("language_model.", 1e-11), ("visual.", 1e-7)):
            left, right = ({name: g for name, g in each.items() if name.startswith(part)} for each in gradients)
            assert_same_gradients(left, right, tolerance)
        torch.testing.assert_close(ours.logprobs.double(), expected.logprobs, rtol=0, atol=2e-6)
        assert_same_gradients(ours.gradients, expected.gradients, 1e-6)

    @pytest.mark.parametrize("score", [shared, repeated, from_prefix])
    def test_temperature_and_banned_tokens(self, qwen2: Pair, five: Group, score: Score) -> None:
        banned = [300, 411, 428, 511]
        options: dict[str, Any] = {"temperature": 0.6, "banned_token_ids": banned}
        expected = learn(qwen2.reference, five, oracle, **options)
        assert_same(learn(qwen2.model, five, score, **options), expected)
        with torch.no_grad():
            for fewer in ({"temperature": 0.6}, {"banned_token_ids": banned}):
                gap = (shared(qwen2.model, five, **fewer) - expected.logprobs)[five.weights != 0].abs().max()
                assert gap > 1e-3, "each of the options counts"

    @pytest.mark.parametrize("temperature", [1.0, 0.7])
    @pytest.mark.parametrize("banned", [[], [428, 3, 198]])
    @pytest.mark.parametrize("shared_prefix", [True, False])
    def test_logprobs_and_entropies(
        self,
        model: Any,
        processor: VLMProcessor,
        prompts: list[EncodedPrompt],
        temperature: float,
        banned: list[int],
        shared_prefix: bool,
    ) -> None:
        """Of the small model; a banned token has probability 0."""
        batch = processor.collate(prompts)
        token_ids = torch.randint(300, (3, 2, 6), generator=torch.Generator().manual_seed(1))
        token_ids[1, 1, 2] = 198
        options: dict[str, Any] = {"temperature": temperature, "banned_token_ids": banned}
        lengths = torch.tensor([[6, 6], [2, 6], [6, 1]])
        scored, entropies = score_completions(model, batch, token_ids, lengths, shared_prefix=shared_prefix, **options)
        expected, everything = score_by_repetition(model, prompts, token_ids, **options)
        is_after = torch.arange(6) >= lengths[..., None]
        assert scored.dtype == entropies.dtype == torch.float32
        assert (scored[1, 1, 2] == -torch.inf) == bool(banned)
        torch.testing.assert_close(scored, expected.masked_fill(is_after, 0), rtol=0, atol=1e-5)
        terms = (everything.exp() * everything).nan_to_num(0).sum(-1)
        torch.testing.assert_close(entropies, -terms.masked_fill(is_after, 0), rtol=0, atol=1e-5)
        assert scored.requires_grad
        assert not entropies.requires_grad

    def test_gradients(self, model: Any, processor: VLMProcessor, prompts: list[EncodedPrompt]) -> None:
        """Of the small model, which is trained in experiments."""
        group = make_group("two answers, padded", processor, prompts)
        assert_same(learn(model, group, shared), learn(model, group, oracle))

    @pytest.mark.parametrize("num_tokens", [1, 2])
    def test_short_completions(
        self, model: Any, processor: VLMProcessor, prompts: list[EncodedPrompt], num_tokens: int
    ) -> None:
        token_ids = torch.randint(300, (3, 2, num_tokens), generator=torch.Generator().manual_seed(2))
        expected, _ = score_by_repetition(model, prompts, token_ids)
        scored, _ = score_completions(model, processor.collate(prompts), token_ids, torch.full((3, 2), num_tokens))
        torch.testing.assert_close(scored, expected, rtol=0, atol=1e-5)

    def test_temperature_0_is_scored_as_1(
        self, model: Any, processor: VLMProcessor, prompts: list[EncodedPrompt]
    ) -> None:
        group = make_group("two answers, padded", processor, prompts)
        zero, one = (shared(model, group, temperature=temperature) for temperature in (0.0, 1.0))
        assert torch.equal(zero, one)

    @pytest.mark.parametrize("score", [shared, repeated, from_prefix])
    def test_grammar(self, model: Any, processor: VLMProcessor, prompts: list[EncodedPrompt], score: Score) -> None:
        """The distribution of all tokens, cut to those that the grammar allows."""
        eos = processor.eos_token_id
        grammar = AnswerGrammar(processor.tokenizer, 512, eos_token_id=eos, allow_absent=True)
        boxes = [
            ["<answer>none</answer>", "<answer>[1, 20, 300, 1000]</answer>"],
            ["<answer>[0, 0, 0, 0]</answer>", "<answer>[999, 1, 2, 3]</answer>"],
            ["<answer>[12, 345, 6, 78]</answer>", "<answer>none</answer>"],
        ]
        answers = [[processor.encode_answer(text) for text in texts] for texts in boxes]
        lengths = torch.tensor([[len(ids) for ids in row] for row in answers])
        token_ids = torch.full((3, 2, int(lengths.max())), 17)
        for n, row in enumerate(answers):
            for g, ids in enumerate(row):
                token_ids[n, g, : len(ids)] = torch.tensor(ids)
        weights = (torch.arange(token_ids.shape[2]) < lengths[..., None]).float()
        group = Group(prompts, processor.collate(prompts), token_ids, lengths, weights)

        def masked(model: Any, group: Group, *, grammar: AnswerGrammar) -> torch.Tensor:
            _, everything = score_by_repetition(model, group.prompts, group.token_ids)
            allowed = grammar.allowed_along(group.token_ids) | (group.weights == 0)[..., None]
            constrained = everything.masked_fill(~allowed, -torch.inf).log_softmax(-1)
            return constrained.gather(-1, group.token_ids[..., None])[..., 0]

        ours, expected = learn(model, group, score, grammar=grammar), learn(model, group, masked, grammar=grammar)
        assert_same(ours, expected)
        assert ours.logprobs.sum() > shared(model, group).sum() + 10
        assert (ours.logprobs[weights > 0] == 0).any(), "where one token is allowed it has probability 1"
        (letter,) = processor.tokenizer("x")["input_ids"]
        token_ids[0, 1, 9] = letter
        with torch.no_grad():
            assert score(model, group, grammar=grammar)[0, 1, 9] == -torch.inf


def spread_adapters(model: Any) -> Any:
    """Adapters that change what a model says."""
    model = add_adapters(model, rank=2)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2, generator=generator)
    return model


class TestTraining:
    """Adapters, checkpointing, pictures that are encoded once for all: the same numbers."""

    @pytest.mark.parametrize("score", [shared, from_prefix])
    def test_adapters(self, pair: Pair, five: Group, score: Score) -> None:
        model, reference = (spread_adapters(copy.deepcopy(m)).eval() for m in pair)
        ours = learn(model, five, score)
        assert len(ours.gradients) == 2 * 7 * NUM_LAYERS, "adapters are trained and nothing else"
        assert_same(ours, learn(reference, five, oracle))
        merged = copy.deepcopy(reference).merge_and_unload()
        with torch.no_grad():
            now, before = (oracle(m, five) * (five.weights != 0) for m in (merged, pair.reference))
        torch.testing.assert_close(ours.logprobs, now, rtol=0, atol=2e-5)
        assert (ours.logprobs - before).abs().max() > 0.1

    @pytest.mark.parametrize("with_adapters", [False, True])
    def test_gradient_checkpointing(
        self, pair: Pair, five: Group, monkeypatch: pytest.MonkeyPatch, with_adapters: bool
    ) -> None:
        model, reference = (copy.deepcopy(m) for m in pair)
        enable_checkpointing(model)
        if with_adapters:
            model, reference = spread_adapters(model), spread_adapters(reference).eval()
        layers: list[int] = []
        plain_forward = attention.shared_prefix_attention

        def counted(*arguments: Any, **options: Any) -> torch.Tensor:
            layers.append(len(arguments[0]))
            return plain_forward(*arguments, **options)

        monkeypatch.setattr(attention, "shared_prefix_attention", counted)
        with torch.no_grad():
            shared(model, five)
        assert layers == [3] * NUM_LAYERS
        layers.clear()
        blocks = base_model(model).model.visual.blocks
        with recorded(blocks[0].norm1, lambda *_: None) as block_calls:
            ours = learn(model, five, shared)
        assert layers == [3] * 2 * NUM_LAYERS, "each layer is computed again in the backward pass"
        assert len(block_calls) == (1 if with_adapters else 2), "and so is the vision tower, if it is trained"
        assert_same(ours, learn(reference, five, oracle))

    def test_image_features(self, pair: Pair, five: Group) -> None:
        """In place of pixels. The vision tower is not run, and learns nothing."""
        model = copy.deepcopy(pair.model)
        expected = learn(pair.reference, five, oracle)
        features = encode_images(model, five.batch)
        assert all(not part.requires_grad for part in features)
        assert {part.shape for part in features} == {(int(five.batch.image_mask.sum()), 64)}
        batch = dataclasses.replace(five.batch, images={}, image_rows={}, image_features=tuple(features))
        group = five._replace(batch=batch)
        visual = set(model.model.visual.parameters())
        with recorded(model.model.visual, lambda *_: None) as calls:
            for score in (shared, repeated, from_prefix):
                model.zero_grad(set_to_none=True)
                logprobs = score(model, group)
                (group.weights * logprobs).sum().backward()
                found = {name: p.grad for name, p in model.named_parameters() if p not in visual}
                right = {name: gradient for name, gradient in expected.gradients.items() if name in found}
                assert_same(Learned(logprobs.detach() * (group.weights != 0), found), Learned(expected.logprobs, right))
                assert all(parameter.grad is None for parameter in visual)
        assert calls == []
        other = dataclasses.replace(batch, image_features=tuple(part.flip(0) for part in features))
        gap = shared(model, group._replace(batch=other)).detach() - expected.logprobs
        assert gap[group.weights != 0].abs().max() > 0.1, "pictures count"

    def test_no_gradient_is_kept_where_none_is_asked_for(self, qwen2: Pair, five: Group) -> None:
        with torch.no_grad():
            assert not shared(qwen2.model, five).requires_grad


class TestIndependence:
    """An answer's log-probabilities are its own."""

    @pytest.mark.parametrize("score", [shared, repeated, from_prefix])
    def test_what_stands_after_the_end_does_not_matter(self, pair: Pair, five: Group, score: Score) -> None:
        """Not even a picture's token."""
        is_after = five.weights == 0
        other = five._replace(token_ids=five.token_ids.masked_fill(is_after, pair.model.config.image_token_id))
        first, second = learn(pair.model, five, score), learn(pair.model, other, score)
        assert torch.equal(first.logprobs, second.logprobs)
        assert_same_gradients(second.gradients, first.gradients, 1e-6)

    @pytest.mark.parametrize("score", [shared, from_prefix])
    def test_other_answers_do_not_matter(self, pair: Pair, five: Group, score: Score) -> None:
        """Neither their tokens nor how long they are; nor those of other prompts."""
        tokens = torch.randint(300, five.token_ids.shape, generator=torch.Generator().manual_seed(9))
        tokens[:, 2] = five.token_ids[:, 2]
        lengths = torch.tensor([[2, 3, 6, 1, 8], [1, 7, 1, 1, 2], [8, 1, 4, 1, 1]])
        assert torch.equal(lengths[:, 2], five.lengths[:, 2])
        with torch.no_grad():
            before = score(pair.model, five)
            other_tokens = score(pair.model, five._replace(token_ids=tokens))
            other_lengths = score(pair.model, five._replace(token_ids=tokens, lengths=lengths))
        torch.testing.assert_close(other_tokens[:, 2], before[:, 2], rtol=0, atol=1e-6)
        # Other columns are other shapes of matrix products, which round otherwise.
        torch.testing.assert_close(other_lengths[:, 2], before[:, 2], rtol=0, atol=5e-6)
        assert (other_tokens - before)[:, [0, 1, 3, 4]].abs().max() > 1

    def test_no_gradient_reaches_another_answer(self, qwen2: Pair, five: Group) -> None:
        """Exactly none, in whichever order they stand."""
        found: list[torch.Tensor] = []

        def keep(module: Any, inputs: Any, keywords: Any) -> None:
            found.append(keywords["inputs_embeds"])

        packed = pack_answers(five.token_ids, five.lengths)
        num_columns = five.batch.input_ids.shape[1]
        with qwen2.model.model.language_model.register_forward_pre_hook(keep, with_kwargs=True):
            logprobs = shared(qwen2.model, five)
        for g in range(5):
            (gradient,) = torch.autograd.grad(logprobs[:, g].sum(), found[0], retain_graph=True)
            reached = gradient[:, num_columns:].ne(0).any(-1)
            assert torch.equal(reached, packed.answer == g)
            assert torch.equal(gradient[:, :num_columns].ne(0).any(-1), five.batch.attention_mask.bool())

    def test_order_of_prompts(self, qwen2: Pair, five: Group, processor: VLMProcessor) -> None:
        order = [2, 0, 1]
        turned = Group(
            [five.prompts[n] for n in order],
            processor.collate([five.prompts[n] for n in order]),
            *(part[order] for part in (five.token_ids, five.lengths, five.weights)),
        )
        with torch.no_grad():
            first, second = shared(qwen2.model, five), shared(qwen2.model, turned)
        torch.testing.assert_close(second, first[order], rtol=0, atol=5e-6)


class TestTheRow:
    """What is computed once, and where the answers stand."""

    def test_a_prompt_is_there_once(self, pair: Pair, five: Group) -> None:
        num_columns = five.batch.input_ids.shape[1]
        num_patches = len(five.batch.images["pixel_values"])
        model = pair.model
        for score, shapes, times in (
            (shared, [(3, num_columns + 15)], 1),
            (from_prefix, [(3, num_columns), (3, 15)], 1),
            (repeated, [(15, num_columns + 8)], 5),
        ):
            with (
                torch.no_grad(),
                recorded(model.model.visual, lambda inputs, *_: len(inputs[0])) as patches,
                recorded(model.model.language_model, lambda _, kw, __: tuple(kw["inputs_embeds"].shape[:2])) as rows,
                recorded(model.lm_head, lambda inputs, *_: tuple(inputs[0].shape)) as states,
            ):
                score(model, five)
            assert patches == [times * num_patches]
            assert rows == shapes
            assert states == [(int(five.lengths.sum()), 64)], "the head sees the answers' tokens alone"

    def test_positions_start_anew_after_the_prompt(self, pair: Pair, five: Group) -> None:
        """On all three axes those that transformers counts out for a prompt with one answer."""
        by_score = {}
        for score in (shared, from_prefix):
            with (
                torch.no_grad(),
                recorded(pair.model.model.language_model, lambda _, kw, __: kw["position_ids"]) as found,
            ):
                score(pair.model, five)
            by_score[score] = torch.cat(found, dim=2)
        assert torch.equal(by_score[shared], by_score[from_prefix])
        num_columns = five.batch.input_ids.shape[1]
        packed = pack_answers(five.token_ids, five.lengths)
        for n, prompt in enumerate(five.prompts):
            ids = torch.cat([torch.tensor(prompt.input_ids), five.token_ids[n, 0]])[None]
            expected = pair.reference.model.get_rope_index(
                ids,
                mm_token_type_ids=(ids == pair.model.config.image_token_id).int(),
                image_grid_thw=patch_grid(prompt.grids),
            )[0][:, 0]
            ours = by_score[shared][:, n]
            num_prompt = len(prompt.input_ids)
            assert torch.equal(ours[:, num_columns - num_prompt : num_columns], expected[:, :num_prompt])
            for g, length in enumerate(five.lengths[n].tolist()):
                own = ours[:, num_columns:][:, packed.answer[n] == g]
                assert torch.equal(own, expected[:, num_prompt : num_prompt + length - 1])


class TestChunks:
    """Of the head's logits."""

    @pytest.fixture
    def long(self, processor: VLMProcessor, questions: list[EncodedPrompt]) -> Group:
        """Two prompts with 290 answer tokens, more than the least size of a chunk."""
        generator = torch.Generator().manual_seed(4)
        prompts = [questions[0], questions[1]]
        lengths = torch.tensor([[60, 60, 25], [60, 60, 25]])
        weights = torch.randn(2, 3, 60, generator=generator) * (torch.arange(60) < lengths[..., None])
        token_ids = torch.randint(300, (2, 3, 60), generator=generator)
        return Group(prompts, processor.collate(prompts), token_ids, lengths, weights)

    @staticmethod
    def run(model: Any, group: Group, **options: Any) -> tuple[Learned, list[int], list[int], torch.Tensor]:
        """Also the rows of each call of the head, those of the logits kept for backward, and the entropies."""
        kept: list[int] = []

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.ndim == 2 and tensor.shape[1] == 512 and tensor.shape[0] != 64:
                kept.append(len(tensor))
            return tensor

        entropies: list[torch.Tensor] = []

        def score(model: Any, group: Group) -> torch.Tensor:
            logprobs, found = score_completions(model, group.batch, group.token_ids, group.lengths, **options)
            entropies.append(found)
            return logprobs

        with (
            recorded(model.lm_head, lambda inputs, *_: len(inputs[0])) as calls,
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            learned = learn(model, group, score)
        return learned, calls, kept, entropies[0]

    @pytest.mark.parametrize("shared_prefix", [True, False])
    def test_one_at_a_time(
        self, qwen2: Pair, long: Group, monkeypatch: pytest.MonkeyPatch, shared_prefix: bool
    ) -> None:
        options: dict[str, Any] = {"temperature": 0.7, "banned_token_ids": [400], "shared_prefix": shared_prefix}
        whole, calls, kept, entropies = self.run(qwen2.model, long, **options)
        assert calls == [290]
        assert kept, "logits are kept, and would be seen here"
        assert set(kept) == {290}
        monkeypatch.setattr(scoring, "LOGITS_PER_CHUNK", 1)
        chunked, calls, kept, chunked_entropies = self.run(qwen2.model, long, **options)
        assert calls[:2] == [256, 34]
        assert sorted(calls[2:]) == [34, 256], "computed again in the backward pass"
        assert kept == []
        assert_same(chunked, whole, 1e-6)
        torch.testing.assert_close(chunked_entropies, entropies, rtol=0, atol=1e-6)

    def test_size(self, qwen2: Pair, long: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        """As many rows as fit the number of logits, which counts the vocabulary."""
        for num_logits, sizes in ((512 * 290, [290]), (512 * 289, [289, 1]), (512 * 270 + 511, [270, 20])):
            monkeypatch.setattr(scoring, "LOGITS_PER_CHUNK", num_logits)
            with torch.no_grad(), recorded(qwen2.model.lm_head, lambda inputs, *_: len(inputs[0])) as calls:
                shared(qwen2.model, long)
            assert calls == sizes

    def test_with_a_grammar(
        self,
        model: Any,
        processor: VLMProcessor,
        questions: list[EncodedPrompt],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Each row keeps what was allowed in its own place."""
        grammar = AnswerGrammar(processor.tokenizer, 512, eos_token_id=processor.eos_token_id)
        texts = [f"<answer>[{n}, {7 * n}, {1000 - n}, {33 + n}]</answer>" for n in range(14)]
        ids = [processor.encode_answer(text) for text in texts]
        lengths = torch.tensor([[len(answer) for answer in ids]])
        assert lengths.sum() > 256
        token_ids = torch.full((1, 14, int(lengths.max())), 17)
        for g, answer in enumerate(ids):
            token_ids[0, g, : len(answer)] = torch.tensor(answer)
        batch = processor.collate(questions[:1])
        results = []
        for num_logits in (2**25, 1):
            monkeypatch.setattr(scoring, "LOGITS_PER_CHUNK", num_logits)
            with torch.no_grad():
                results.append(score_completions(model, batch, token_ids, lengths, grammar=grammar))
        (whole, entropies), (chunked, chunked_entropies) = results
        assert whole.isfinite().all()
        assert whole.sum() < -10
        torch.testing.assert_close(chunked, whole, rtol=0, atol=1e-6)
        torch.testing.assert_close(chunked_entropies, entropies, rtol=0, atol=1e-6)


class TestGap:
    """`shared_prefix_gap`: next to nothing for a model that is scored rightly, and much where it is not."""

    @staticmethod
    def gap(model: Any, group: Group, **options: Any) -> float:
        return shared_prefix_gap(model, group.batch, group.token_ids, group.lengths, **options)

    def test_right(self, pair: Pair, group: Group) -> None:
        gap = self.gap(pair.model, group)
        assert isinstance(gap, float)
        assert 0 <= gap < 1e-5

    def test_answers_that_see_each_other(self, pair: Pair, five: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        def causal(packed: PackedAnswers, prompt_attention_mask: torch.Tensor) -> torch.Tensor:
            mask = answer_mask(packed, prompt_attention_mask)
            columns = packed.answer.shape[1]
            mask[..., -columns:] = torch.ones(columns, columns, dtype=torch.bool).tril()
            return mask

        monkeypatch.setattr(scoring, "answer_mask", causal)
        assert self.gap(pair.model, five) > 0.1

    def test_positions_that_go_on(self, pair: Pair, five: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        """From one answer to the next, while the mask stays right."""

        def without_restart(token_ids: torch.Tensor, lengths: torch.Tensor) -> PackedAnswers:
            packed = pack_answers(token_ids, lengths)
            columns = torch.arange(packed.offset.shape[1]).expand_as(packed.offset)
            return dataclasses.replace(packed, offset=columns)

        monkeypatch.setattr(scoring, "pack_answers", without_restart)
        assert self.gap(pair.model, five) > 0.1

    def test_padding_that_is_seen(self, pair: Pair, five: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(scoring, "prompt_mask", lambda _: None)
        assert self.gap(pair.model, five) > 0.1

    def test_by_hand(self, qwen2: Pair, five: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        """A mean over answer tokens, and infinite if anything is not a number. Options reach both ways."""
        calls: list[dict[str, Any]] = []
        answer = {True: torch.zeros(3, 5, 8), False: torch.zeros(3, 5, 8)}

        def fake(*_: Any, **options: Any) -> tuple[torch.Tensor, None]:
            assert not torch.is_grad_enabled()
            calls.append(options)
            return answer[options["shared_prefix"]], None

        monkeypatch.setattr(scoring, "score_completions", fake)
        answer[True][0, 0, :2] = torch.tensor([3.0, -7.0])
        assert self.gap(qwen2.model, five, temperature=0.5) == pytest.approx(10 / int(five.lengths.sum()))
        assert calls == [{"shared_prefix": way, "temperature": 0.5} for way in (True, False)]
        answer[False][2, 1, 0] = torch.nan
        assert self.gap(qwen2.model, five) == float("inf")


def test_a_prefix_is_refused_where_prompts_are_repeated(qwen2: Pair, five: Group) -> None:
    with pytest.raises(ValueError, match="prefix: expected None where prompts are repeated; pass shared_prefix=True"):
        repeated(qwen2.model, five, prefix=prefill(qwen2.model, five.batch))


def test_a_prefix_is_used_up(qwen2: Pair, five: Group) -> None:
    prefix = prefill(qwen2.model, five.batch)
    shared(qwen2.model, five, prefix=prefix)
    with pytest.raises(ValueError, match="prefix: expected one that is fresh from prefill"):
        shared(qwen2.model, five, prefix=prefix)


def test_a_model_that_fills_no_cache_is_refused(five: Group) -> None:
    model = load_trainable_model("tiny", gradient_checkpointing=True)
    with pytest.raises(
        ValueError, match=r"cache: expected keys of .* columns after the prompts, got 0; under gradient"
    ):
        prefill(model, five.batch)


@pytest.mark.parametrize("rows", [[0, 1, 2], [2, 0], [1], [0, 0, 1]])
def test_some_prompts_of_a_prefix(qwen2: Pair, five: Group, processor: VLMProcessor, rows: list[int]) -> None:
    """In any order, with padding that they do not need; gradients go on to the forward pass that they came from."""
    prompts = [five.prompts[n] for n in rows]
    group = Group(
        prompts, processor.collate(prompts), *(part[rows] for part in (five.token_ids, five.lengths, five.weights))
    )

    def selected(model: Any, group: Group) -> torch.Tensor:
        return shared(model, group, prefix=prefill(model, five.batch).select(rows))

    assert_same(learn(qwen2.model, group, selected), learn(qwen2.reference, group, oracle))


def test_parts_of_a_prefix_are_used_up_by_themselves(qwen2: Pair, five: Group) -> None:
    with torch.no_grad():
        whole = prefill(qwen2.model, five.batch)
        assert whole.select([0, 1, 2]) is whole
        expected = shared(qwen2.model, five)
        for n in (1, 0, 1):
            one = five._replace(token_ids=five.token_ids[n : n + 1], lengths=five.lengths[n : n + 1])
            ours = shared(qwen2.model, one, prefix=whole.select([n]))
            torch.testing.assert_close(ours[0], expected[n], rtol=0, atol=5e-6)


def test_answers_without_a_token(qwen2: Pair, five: Group) -> None:
    """They count for nothing, alone or beside others."""
    lengths = torch.tensor([[0, 1, 0, 2, 2], [0, 0, 0, 0, 0], [4, 0, 4, 4, 0]])
    with torch.no_grad():
        ours = shared(qwen2.model, five._replace(lengths=lengths))
        expected = oracle(qwen2.reference, five).masked_fill(torch.arange(8) >= lengths[..., None], 0)
        nothing = shared(qwen2.model, five._replace(lengths=torch.zeros_like(lengths)))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    assert (nothing == 0).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("score", [shared, repeated, from_prefix])
def test_a_gpu_computes_what_the_cpu_does(qwen2: Pair, five: Group, score: Score) -> None:
    """Other kernels: key heads are repeated where a mask meets fewer of them."""
    model = copy.deepcopy(qwen2.model).to("cuda")
    moved = {name: getattr(five, name).to("cuda") for name in ("batch", "token_ids", "lengths", "weights")}
    ours = learn(model, five._replace(**moved), score)
    on_cpu = Learned(ours.logprobs.cpu(), {name: gradient.cpu() for name, gradient in ours.gradients.items()})
    assert_same(on_cpu, learn(qwen2.model, five, repeated), 1e-3)
