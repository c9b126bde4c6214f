"""A model that encodes supports once, however many pictures it is asked about.

In every template the supports come before the query. So the keys and values of all that stands before the query's
picture are kept, and a further query costs its own tokens alone. Answers are those of the model itself, but for
rounding. Memory grows with the number of different supports that are kept, and not with the number of queries.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from focus_agents.engine.starts import KeysValues, can_start_once, encode_start, prefill_behind
from focus_agents.models.inputs import EncodedPrompt
from focus_agents.models.views import num_image_tokens
from focus_agents.policies.vlm import VLMPolicy, cut_batches
from focus_agents.rollout.records import Generation, Sampling
from focus_env.types import ImageArray, ImagePart, Message

MAX_STARTS = 8
"""Different supports that are kept; the one that was asked for least lately goes."""


@dataclass(frozen=True, slots=True, eq=False)
class _Start:
    """The start that prompts with the same supports share.

    Attributes:
        pictures: The supports'.
        texts: What is said before the query's picture; empty where nothing stands between two pictures.
        grids: [supports, 2] int64.
        input_ids: [S] int64, up to the query's first image token.
        num_needed: Tokens up to the last one of the supports' pictures.
        layers: Its keys and values; None: the model cannot go on behind a beginning.
    """

    pictures: tuple[ImageArray, ...]
    texts: tuple[str, ...]
    grids: npt.NDArray[np.int64]
    input_ids: npt.NDArray[np.int64]
    num_needed: int
    layers: KeysValues | None


class ReusingPolicy:
    """A model that is asked about many pictures with the same supports; satisfies `Policy`.

    Args:
        policy: The model. Its weights must not change meanwhile.
        max_starts: See `MAX_STARTS`.

    Attributes:
        processor: The model's.
        num_encoded: How often supports were encoded.
    """

    def __init__(self, policy: VLMPolicy, *, max_starts: int = MAX_STARTS) -> None:
        self.policy = policy
        self.max_starts = max_starts
        self.processor = policy.processor
        self.num_encoded = 0
        self._starts: list[_Start] = []

    def generate(
        self,
        prompts: Sequence[Sequence[Message]],
        *,
        num_completions: int,
        sampling: Sampling,
        seeds: Sequence[int],
    ) -> list[Generation]:
        """See `VLMPolicy.generate`; generations come without their prompts."""
        if len(seeds) != len(prompts):
            raise ValueError(f"seeds: expected one for each of the {len(prompts)} prompts, got {len(seeds)}")
        places: dict[int, list[int]] = {}
        starts: dict[int, _Start] = {}
        with self.policy.answering():
            for place, prompt in enumerate(prompts):
                start = self._start_of(prompt)
                starts[id(start)] = start
                places.setdefault(id(start), []).append(place)
        found: dict[int, Generation] = {}
        for key, own in places.items():
            answers = self._answer(
                starts[key],
                [prompts[place] for place in own],
                num_completions=num_completions,
                sampling=sampling,
                seeds=[seeds[place] for place in own],
            )
            found.update(zip(own, answers, strict=True))
        return [found[place] for place in range(len(prompts))]

    def _start_of(self, prompt: Sequence[Message]) -> _Start:
        """Return the start of a prompt, encoded now or before."""
        pictures, texts = _shown(prompt)
        for start in self._starts:
            if start.texts == texts and _are_same(start.pictures, pictures[:-1]):
                self._starts.remove(start)
                self._starts.append(start)
                return start
        start = self._encode(prompt, pictures, texts)
        self._starts = [*self._starts, start][-self.max_starts :]
        return start

    def _encode(self, prompt: Sequence[Message], pictures: Sequence[ImageArray], texts: tuple[str, ...]) -> _Start:
        processor, model = self.policy.processor, self.policy.model
        whole = processor.encode(prompt)
        is_image = np.flatnonzero(whole.input_ids == processor.image_token_id)
        num_query = num_image_tokens(processor.views(pictures, whole.grids)[-1])
        num_start, num_needed = int(is_image[-num_query]), int([-1, *is_image[:-num_query]][-1]) + 1
        ids, grids, supports = whole.input_ids[:num_start], whole.grids[:-1], tuple(pictures[:-1])
        layers = None
        if supports and can_start_once(model, processor.collate([whole])):
            arrays = processor.family.preprocess(processor.image_processor, supports).arrays
            batch = processor.collate([EncodedPrompt(ids, grids, arrays)])
            layers = encode_start(model, batch.to(next(model.parameters()).device))
            self.num_encoded += 1
        return _Start(supports, texts, grids, ids, num_needed, layers)

    def _answer(
        self,
        start: _Start,
        prompts: Sequence[Sequence[Message]],
        *,
        num_completions: int,
        sampling: Sampling,
        seeds: Sequence[int],
    ) -> list[Generation]:
        """Answer prompts that have the same supports."""
        policy = self.policy
        plainly: dict[str, Any] = {"num_completions": num_completions, "sampling": sampling}
        if start.layers is None:
            return policy.generate(prompts, seeds=seeds, **plainly)
        encoded = [policy.processor.encode(prompt, known_grids=start.grids) for prompt in prompts]
        for prompt in encoded:
            policy.check_context(prompt, sampling)
        num_shared = min(_num_common(prompt.input_ids, start.input_ids) for prompt in encoded)
        if num_shared < start.num_needed:  # a chat template that says first what comes last
            return policy.generate(prompts, seeds=seeds, **plainly)
        layers = tuple((keys[:, :, :num_shared], values[:, :, :num_shared]) for keys, values in start.layers)
        device = next(policy.model.parameters()).device
        answers: list[Generation] = []
        with policy.answering():
            for batch in cut_batches(encoded, policy.max_batch_tokens):
                rest = policy.processor.collate([_behind(prompt, num_shared) for prompt in batch]).to(device)
                whole = policy.processor.collate([dataclasses.replace(one, images={}) for one in batch]).to(device)
                padded, prefix = prefill_behind(policy.model, layers, whole, rest)
                own = seeds[len(answers) : len(answers) + len(batch)]
                answers += map(Generation, policy.complete(padded, prefix, seeds=own, **plainly))
        return answers


def _shown(prompt: Sequence[Message]) -> tuple[list[ImageArray], tuple[str, ...]]:
    """Return all pictures of a prompt, and the texts before the last of them, one before each picture."""
    pictures: list[ImageArray] = []
    texts = [""]
    for part in (part for message in prompt for part in message.content):
        if isinstance(part, ImagePart):
            pictures.append(part.image)
            texts.append("")
        else:
            texts[-1] += part.text
    return pictures, tuple(texts[:-1])


def _behind(prompt: EncodedPrompt, num_shared: int) -> EncodedPrompt:
    """Return the part of a prompt behind its first tokens, with the only picture that it holds."""
    return dataclasses.replace(prompt, input_ids=prompt.input_ids[num_shared:], grids=prompt.grids[-1:])


def _num_common(ids: npt.NDArray[np.int64], others: npt.NDArray[np.int64]) -> int:
    """Count the tokens that two prompts begin with alike."""
    length = min(len(ids), len(others))
    differ = np.flatnonzero(ids[:length] != others[:length])
    return int(differ[0]) if len(differ) else length


def _are_same(known: Sequence[ImageArray], pictures: Sequence[ImageArray]) -> bool:
    """Return whether pictures are the same, most quickly if they are the very objects."""
    return len(known) == len(pictures) and all(
        one is other or (one.shape == other.shape and np.array_equal(one, other))
        for one, other in zip(known, pictures, strict=True)
    )
