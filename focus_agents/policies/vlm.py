"""A vision-language model of transformers as a policy, in this process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from focus_agents.engine.forward import encode_images, prefill
from focus_agents.engine.generation import sample_completions
from focus_agents.engine.grammar import AnswerGrammar
from focus_agents.models.adapters import base_model
from focus_agents.models.inputs import MAX_BATCH_TOKENS, EncodedPrompt, PromptBatch, check_context
from focus_agents.models.lean_adapters import lean_adapters
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.settings import Precision
from focus_agents.models.shared_prefix import Prefix, PrefixRow
from focus_agents.rollout.records import Completion, Generation, Sampling
from focus_env.types import Message

MAX_ENCODING_THREADS = 8
"""Of a process whose model is on a GPU."""


class VLMPolicy:
    """Answers prompts with a model of a known family; satisfies `focus_agents.rollout.records.Policy`.

    Args:
        model: The model, on any device. It is put into eval mode while it samples.
        processor: What encodes its prompts.
        grammar: If given, no token is sampled that leaves it.
        precision: "bf16" computes under autocast.
        keeps_image_features: Whether the prompts that come back hold what the vision tower made of their pictures, in
            place of the pixels; for a tower that stays as it is.
        keeps_prefix: Whether the forward pass over the prompts comes back with its gradient, for a learner of the same
            weights. All prompts are then one batch.
        max_batch_tokens: Prompts of more columns in all, each padded to the longest, are answered in several batches.
    """

    def __init__(
        self,
        model: Any,
        processor: VLMProcessor,
        *,
        grammar: AnswerGrammar | None = None,
        precision: Precision = "fp32",
        keeps_image_features: bool = False,
        keeps_prefix: bool = False,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
    ) -> None:
        self.model = model
        self.processor = processor
        self.grammar = grammar
        self.precision = precision
        self.keeps_image_features = keeps_image_features
        self.keeps_prefix = keeps_prefix
        self.max_batch_tokens = max_batch_tokens

    def generate(
        self,
        prompts: Sequence[Sequence[Message]],
        *,
        num_completions: int,
        sampling: Sampling,
        seeds: Sequence[int],
    ) -> list[Generation]:
        """Return `num_completions` answers to each prompt, in as few batches as `max_batch_tokens` admits.

        Raises:
            ValueError: If there is not a seed for each prompt, the processor cannot take one, or it does not fit into
                the model's context.
            FloatingPointError: If the model's probabilities are not numbers.
        """
        if len(seeds) != len(prompts):
            raise ValueError(f"seeds: expected one for each of the {len(prompts)} prompts, got {len(seeds)}")
        encoded = self._encode(prompts)
        for prompt in encoded:
            self.check_context(prompt, sampling)
        batches = [encoded] if self.keeps_prefix else cut_batches(encoded, self.max_batch_tokens)
        generations: list[Generation] = []
        with self.answering():
            for batch in batches:
                own_seeds = seeds[len(generations) : len(generations) + len(batch)]
                generations += self._answer(batch, num_completions, sampling, own_seeds)
        return generations

    def check_context(self, prompt: EncodedPrompt, sampling: Sampling) -> None:
        """See that a prompt and its answer fit into the model's context; see `focus_agents.models.inputs`."""
        max_tokens = base_model(self.model).config.get_text_config().max_position_embeddings
        check_context(prompt, sampling.max_completion_tokens, max_tokens)

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Within the context, the model is in eval mode and computes in the policy's precision."""
        was_training = self.model.training
        self.model.eval()
        device = next(self.model.parameters()).device
        try:
            with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                yield
        finally:
            self.model.train(was_training)

    def _encode(self, prompts: Sequence[Sequence[Message]]) -> list[EncodedPrompt]:
        """Encode prompts; where a GPU waits for them, in several threads: most of the work is in their pictures."""
        is_on_cpu = next(self.model.parameters()).device.type == "cpu"
        num_threads = 1 if is_on_cpu else min(MAX_ENCODING_THREADS, os.cpu_count() or 1, len(prompts))
        if num_threads <= 1:
            return [self.processor.encode(prompt) for prompt in prompts]
        with ThreadPoolExecutor(num_threads) as pool:
            return list(pool.map(self.processor.encode, prompts))

    def _answer(
        self, encoded: list[EncodedPrompt], num_completions: int, sampling: Sampling, seeds: Sequence[int]
    ) -> list[Generation]:
        """Answer the prompts of one batch."""
        device = next(self.model.parameters()).device
        batch = self.processor.collate(encoded).to(device)
        if self.keeps_image_features:
            encoded = self.processor.replace_pixels(encoded, encode_images(self.model, batch))
            batch = self.processor.collate(encoded).to(device)
        prefix = prefill(self.model, batch) if self.keeps_prefix else None
        completions = self.complete(batch, prefix, num_completions=num_completions, sampling=sampling, seeds=seeds)
        return [
            Generation(own, prompt, None if prefix is None else PrefixRow(prefix, row))
            for row, (own, prompt) in enumerate(zip(completions, encoded, strict=True))
        ]

    def complete(
        self,
        batch: PromptBatch,
        prefix: Prefix | None,
        *,
        num_completions: int,
        sampling: Sampling,
        seeds: Sequence[int],
    ) -> list[tuple[Completion, ...]]:
        """Return `num_completions` completions of each prompt of one batch; to be called `answering`.

        Args:
            batch: The prompts, where the model computes.
            prefix: What the model made of them already; None: they are encoded here.
            num_completions: Of each prompt.
            sampling: How they are drawn.
            seeds: One for each prompt.
        """
        with lean_adapters(self.model):
            sampled = sample_completions(
                self.model,
                batch,
                num_completions=num_completions,
                sampling=sampling,
                seeds=seeds,
                eos_token_id=self.processor.eos_token_id,
                pad_token_id=self.processor.pad_token_id,
                banned_token_ids=self.processor.banned_token_ids,
                grammar=self.grammar,
                prefix=prefix,
            )
        rows = zip(sampled.token_ids.cpu(), sampled.logprobs.cpu(), sampled.lengths.cpu(), strict=True)
        return [tuple(map(self._completion, token_ids, logprobs, lengths)) for token_ids, logprobs, lengths in rows]

    def _completion(self, token_ids: torch.Tensor, logprobs: torch.Tensor, length: torch.Tensor) -> Completion:
        """Return one completion, cut to its length."""
        ids = token_ids[: int(length)].numpy()
        return Completion(
            text=self.processor.decode(ids.tolist()),
            token_ids=ids,
            logprobs=logprobs[: int(length)].numpy(),
            is_finished=bool(ids[-1] == self.processor.eos_token_id),
        )


def cut_batches(prompts: Sequence[EncodedPrompt], max_tokens: int) -> list[list[EncodedPrompt]]:
    """Cut prompts into batches, in their order.

    Args:
        prompts: The prompts.
        max_tokens: Most columns of a batch, each prompt padded to the longest; a longer prompt is a batch of its own.

    >>> import numpy as np
    >>> prompts = [EncodedPrompt(np.zeros(n), np.zeros((0, 2)), {}) for n in (5, 3, 7, 9)]
    >>> [len(batch) for batch in cut_batches(prompts, 10)]
    [2, 1, 1]
    """
    batches: list[list[EncodedPrompt]] = []
    longest = 0
    for prompt in prompts:
        longest = max(longest, len(prompt.input_ids))
        if batches and longest * (len(batches[-1]) + 1) <= max_tokens:
            batches[-1].append(prompt)
        else:
            batches.append([prompt])
            longest = len(prompt.input_ids)
    return batches
