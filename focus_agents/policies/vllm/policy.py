"""A vision-language model that vLLM answers, behind the same protocol as `VLMPolicy`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from focus_agents.errors import PolicyError
from focus_agents.models.inputs import EncodedPrompt, check_context
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.settings import VLLM_TEMPERATURES
from focus_agents.policies.vllm.engine import VLLMEngine
from focus_agents.rollout.records import Completion, Generation, Sampling
from focus_env.types import ImagePart, Message

NEVER = -100.0
"""Added to a logit that is never to be sampled, the most that vLLM documents."""


class VLLMPolicy:
    """Answers prompts by vLLM; satisfies `focus_agents.rollout.records.Policy`.

    A prompt goes to vLLM as the chat template's token ids and its pictures, which vLLM's own processor expands. The
    result is compared with this package's encoding, token for token.

    Args:
        engine: Which vLLM.
        processor: Encodes the same prompts for the learner, and reads the answers.
        processor_options: As from `weights.processor_options`: how the processor differs from the one that vLLM has.
    """

    keeps_prefix = False
    """No forward pass can be had from vLLM; here so that runners may ask all policies alike."""

    def __init__(
        self, engine: VLLMEngine, processor: VLMProcessor, processor_options: Mapping[str, Any] | None = None
    ) -> None:
        self.engine = engine
        self.processor = processor
        self.processor_options = dict(processor_options or {})

    def generate(
        self,
        prompts: Sequence[Sequence[Message]],
        *,
        num_completions: int,
        sampling: Sampling,
        seeds: Sequence[int],
    ) -> list[Generation]:
        """Return `num_completions` answers to each prompt; log-probabilities are the engine's own.

        Raises:
            ValueError: If there is not a seed for each prompt, the temperature is none that vLLM keeps, the processor
                cannot take a prompt, or it does not fit into the context.
            PolicyError: If vLLM reads a prompt otherwise than this package, or samples what it must not.
            FloatingPointError: If the model's probabilities are not numbers.
        """
        if len(seeds) != len(prompts):
            raise ValueError(f"seeds: expected one for each of the {len(prompts)} prompts, got {len(seeds)}")
        check_temperature(sampling.temperature)
        encoded = [self.processor.encode(prompt) for prompt in prompts]
        for prompt in encoded:
            check_context(prompt, sampling.max_completion_tokens, self.engine.max_tokens)
        outputs = self.engine.generate(
            [self._tokens_prompt(prompt) for prompt in prompts],
            [self._sampling_params(num_completions, sampling, seed) for seed in seeds],
        )
        for number, (prompt, output) in enumerate(zip(encoded, outputs, strict=True), start=1):
            self._compare(number, prompt, output.prompt_token_ids)
        return [
            Generation(tuple(self._completion(part) for part in output.outputs), prompt)
            for prompt, output in zip(encoded, outputs, strict=True)
        ]

    def _tokens_prompt(self, messages: Sequence[Message]) -> dict[str, Any]:
        """Return vLLM's `TokensPrompt` with one placeholder for each picture: it expands the tokens of more again."""
        images = [part.image for message in messages for part in message.content if isinstance(part, ImagePart)]
        return {
            "prompt_token_ids": self.processor.chat_token_ids(messages),
            "multi_modal_data": {"image": [Image.fromarray(image) for image in images]},
            "mm_processor_kwargs": self.processor_options,
        }

    def _sampling_params(self, num_completions: int, sampling: Sampling, seed: int) -> Any:
        from vllm import SamplingParams

        banned = self.processor.banned_token_ids
        return SamplingParams(
            n=num_completions,
            temperature=sampling.temperature,
            seed=_engine_seed(seed),
            max_tokens=sampling.max_completion_tokens,
            logprobs=0,  # of the sampled token alone
            logit_bias=dict.fromkeys(banned, NEVER) if banned else None,
            # One end token, as the learner knows it, and not all that a model's files name.
            ignore_eos=True,
            stop_token_ids=[self.processor.eos_token_id],
            detokenize=False,
        )

    def _compare(self, number: int, prompt: EncodedPrompt, token_ids: Sequence[int]) -> None:
        """See that vLLM has answered the very prompt that the learner will score."""
        ours, theirs = prompt.input_ids, np.asarray(token_ids, dtype=np.int64)
        if np.array_equal(ours, theirs):
            return
        image = self.processor.image_token_id
        counts = [int((ids == image).sum()) for ids in (ours, theirs)]
        same = len(ours) == len(theirs)
        where = int(np.argmax(ours != theirs)) if same else f"{len(ours)} and {len(theirs)} tokens"
        raise PolicyError(
            f"engine vllm: expected prompt {number} as this package encodes it, with {counts[0]} image tokens for "
            f"{len(prompt.grids)} pictures, got {counts[1]} from vLLM's processor (first difference: {where}); "
            "sampling and learning would see different prompts: leave `max_image_tokens` out, install another vllm, or "
            "set `engine` to transformers"
        )

    def _completion(self, output: Any) -> Completion:
        ids = np.asarray(output.token_ids, dtype=np.int64)
        if output.finish_reason not in ("stop", "length") or len(ids) == 0:
            reason = f"engine vllm: the request ended with {output.finish_reason!r}"
            return Completion("", np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32), False, reason)
        if banned := sorted(set(ids.tolist()) & set(self.processor.banned_token_ids)):
            raise PolicyError(f"engine vllm: it sampled the tokens {banned}, which were banned by logit_bias")
        logprobs = np.array([at[token].logprob for at, token in zip(output.logprobs, ids.tolist(), strict=True)])
        if np.isnan(logprobs).any():
            raise FloatingPointError(
                "model: expected probabilities of tokens, got NaN from the engine vllm; its weights or its features "
                "of the pictures are not finite: start from another checkpoint, or try `precision` fp32"
            )
        return Completion(
            text=self.processor.decode(ids.tolist()),
            token_ids=ids,
            logprobs=logprobs.astype(np.float32),
            is_finished=bool(ids[-1] == self.processor.eos_token_id),
        )


def check_temperature(temperature: float) -> None:
    """See that vLLM samples at a temperature as it is.

    Raises:
        ValueError: If it would not.
    """
    least, most = VLLM_TEMPERATURES
    if temperature != 0 and not least <= temperature <= most:
        raise ValueError(f"temperature: expected 0 or {least} to {most} for the engine vllm, got {temperature}")


def _engine_seed(seed: int) -> int:
    """Return a seed for vLLM, far from those of other prompts: vLLM counts up from it, one for each answer."""
    return int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 2)
