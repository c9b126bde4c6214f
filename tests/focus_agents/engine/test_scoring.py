"""Log-probabilities of given answers and what they teach: a group as one row, against a row for each answer.

Three ways that must agree: the shared row, this project's repeated rows, and an oracle in which transformers' own
model, with full attention maps, is given one prompt at a time.

Axis letters: N prompts, G answers per prompt, T tokens of the longest answer, P prompt columns, C answer columns, R
answer tokens of all answers together, V vocabulary, H hidden size.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch

from focus_agents.engine.forward import encode_images
from focus_agents.engine.grammar import AnswerGrammar
from focus_agents.engine.scoring import score_completions
from focus_agents.models import attention
from focus_agents.models.adapters import add_adapters, base_model
from focus_agents.models.inputs import EncodedPrompt
from focus_agents.models.processing import VLMProcessor
from tests.focus_agents.engine.groups import (
    Group,
    Learned,
    Pair,
    Score,
    assert_same,
    assert_same_gradients,
    from_prefix,
    learn,
    make_group,
    oracle,
    recorded,
    repeated,
    shared,
)
from tests.focus_agents.engine.oracle import score_by_repetition
from tests.focus_agents.models.families import (
    NUM_LAYERS,
    enable_checkpointing,
)


def double_norm(module: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """RMSNorm in the precision of its input; transformers' own rounds to float32."""
    scale = torch.rsqrt(hidden_states.square().mean(-1, keepdim=True) + module.variance_epsilon)
    return module.weight * hidden_states * scale


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
