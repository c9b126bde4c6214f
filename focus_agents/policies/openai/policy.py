"""A model behind an OpenAI-compatible chat endpoint as a policy: vLLM, SGLang, llama.cpp, Ollama or a hosted service.

What an endpoint does to some requests never ends a run: whatever it fails to answer becomes an empty completion that
says why, and is counted. What would fail every request alike is raised before anything has been answered: a wrong key,
or `MAX_FAILED_FIRST` failures of one kind and no answer, as of an endpoint that is not there.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from focus_agents.errors import EndpointError
from focus_agents.policies.openai.cache import AnswerCache
from focus_agents.policies.openai.protocol import (
    NO_KEY,
    Answer,
    EndpointFailure,
    chat_messages,
    check_base_url,
    completion_seed,
    decode_body,
    describe,
    hide_credentials,
    read_answer,
    read_body,
    read_usage,
    request_key,
    token_limit_name,
)
from focus_agents.rollout.records import Completion, Generation, Sampling
from focus_env.errors import MissingDependencyError
from focus_env.types import Message

logger = logging.getLogger(__name__)

MAX_FAILED_FIRST = 8
"""Questions that may fail alike, each with its retries, before there is any answer; no further one is sent."""
DEFAULT_BASE_URL = "https://api.openai.com/v1"
_COUNTING = threading.Lock()  # around counters; of the module, since a lock cannot be pickled with the policy


@dataclass(slots=True)
class EndpointStats:
    """The requests of a policy, in this process.

    Attributes:
        num_requests: Questions sent; one that was sent several times until it was answered counts once.
        num_cached: Answers that came from the cache instead.
        failures: How many questions have no answer, by the kind of failure.
        prompt_tokens: As the endpoint reports them.
        completion_tokens: Likewise.
    """

    num_requests: int = 0
    num_cached: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0


class OpenAIPolicy:
    """Asks a chat endpoint; satisfies `focus_agents.rollout.records.Policy`.

    A request that is not answered within `timeout_s`, or with 408, 409, 429 or 5xx, is sent again: after 0.5 s, 1 s,
    2 s and so on, or when the endpoint says (Retry-After, up to two minutes). Each completion is a request with a seed
    of its own, since servers differ in how they read `n`. Pickles with its key, so treat the bytes like one.

    Args:
        model: As the endpoint calls it.
        base_url: Up to and with `/v1`; None: the variable OPENAI_BASE_URL, or OpenAI's own.
        api_key: None: the variable OPENAI_API_KEY; servers that want none get a placeholder.
        num_concurrent: Requests under way together.
        timeout_s: Seconds that an endpoint may be silent, and in which an answer that has begun must be complete.
        max_retries: How often a request is sent again.
        token_budget: Tokens, of prompts and completions as the endpoint reports them, after which nothing more is sent;
            the requests under way at that moment may exceed it. Counts from the policy's creation; cached answers are
            free. None: no limit.
        cache_dir: Where answers are kept, one file each, so that a run that ended half-way asks only for the rest; any
            number of processes may share it. None: nowhere.

    Raises:
        MissingDependencyError: If the package openai is not installed.
        ValueError: If an argument is out of range, `base_url` no http or https URL, or `cache_dir` no folder that can
            be written into.
    """

    def __init__(
        self,
        *,
        model: str,
        base_url: str | None = None,
        api_key: str | None = None,
        num_concurrent: int = 8,
        timeout_s: float = 120.0,
        max_retries: int = 3,
        token_budget: int | None = None,
        cache_dir: Path | str | None = None,
    ) -> None:
        _import_openai()
        if not model:
            raise ValueError("model: expected a name, got ''")
        if num_concurrent < 1:
            raise ValueError(f"num_concurrent: expected 1 or more requests, got {num_concurrent}")
        if not timeout_s > 0:
            raise ValueError(f"timeout_s: expected more than 0 seconds, got {timeout_s}")
        if max_retries < 0:
            raise ValueError(f"max_retries: expected 0 or more, got {max_retries}")
        if token_budget is not None and token_budget < 1:
            raise ValueError(f"token_budget: expected 1 or more tokens, or None for no limit, got {token_budget}")
        self.model = model
        self.base_url = check_base_url(base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL)
        self.num_concurrent = num_concurrent
        self.timeout_s = timeout_s
        self.max_retries = max_retries
        self.token_budget = token_budget
        self.cache = None if cache_dir is None else AnswerCache(Path(os.path.expanduser(cache_dir)))
        if self.cache is not None:
            self.cache.check()
        self.stats = EndpointStats()
        self._api_key = (api_key or os.environ.get("OPENAI_API_KEY") or "").strip() or NO_KEY
        self._has_answered = False
        self._end: EndpointError | None = None
        self._client: Any = None

    @classmethod
    def from_argument(cls, argument: str, **options: Any) -> OpenAIPolicy:
        """Return the policy that a command line names behind `openai_api:`.

        Args:
            argument: `MODEL` or `MODEL@http://host:8000/v1`.
            options: Further arguments of the constructor.

        Raises:
            ValueError: If the argument is of another form.
        """
        head, at, tail = argument.rpartition("@")
        model, base_url = (head, tail) if at else (tail, None)
        if not model or base_url == "":
            raise ValueError(
                "policy: expected openai_api:MODEL or openai_api:MODEL@http://host:8000/v1, got "
                f"{hide_credentials(f'openai_api:{argument}')!r}"
            )
        return cls(model=model, base_url=base_url, **options)

    def generate(
        self,
        prompts: Sequence[Sequence[Message]],
        *,
        num_completions: int,
        sampling: Sampling,
        seeds: Sequence[int],
    ) -> list[Generation]:
        """Return `num_completions` answers to each prompt, `num_concurrent` requests at a time.

        Raises:
            ValueError: If there are not as many seeds as prompts.
            EndpointError: If the endpoint, before it has answered anything, refuses the key, does not know the model or
                the path, does not support a parameter, or has failed too often alike.
        """
        if len(seeds) != len(prompts):
            raise ValueError(f"seeds: expected one for each of the {len(prompts)} prompts, got {len(seeds)}")
        with ThreadPoolExecutor(self.num_concurrent) as pool:
            requests = [
                self._request(messages, sampling, completion_seed(seed, number))
                for messages, seed in zip(pool.map(chat_messages, prompts), seeds, strict=True)
                for number in range(num_completions)
            ]
            # The very first goes alone: where it shows that all would fail, none of them is sent.
            num_alone = 1 if self.stats.num_requests == 0 else 0
            completions = [self._complete(request) for request in requests[:num_alone]]
            completions += pool.map(self._complete, requests[num_alone:])
        answers = iter(completions)
        return [Generation(tuple(itertools.islice(answers, num_completions))) for _ in prompts]

    def _request(self, messages: list[dict[str, Any]], sampling: Sampling, seed: int) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": messages,
            "temperature": sampling.temperature,
            token_limit_name(self.base_url): sampling.max_completion_tokens,
            "seed": seed,
        }

    def _complete(self, request: dict[str, Any]) -> Completion:
        """Return the answer to one request, from the cache or from the endpoint; or why there is none."""
        key = request_key(self.base_url, request)
        answer = None if self.cache is None else self.cache.read(key)
        if answer is not None:
            with _COUNTING:
                self.stats.num_cached += 1
            return _completion(answer.text, answer.is_finished)
        if self._end is not None:
            raise self._end
        try:
            answer = self._ask(request)
        except EndpointFailure as failure:
            if failure.is_hopeless and not self._has_answered:
                raise EndpointError(
                    f"{self.base_url} refuses model {self.model!r}: {failure}; every further request would fail alike. "
                    "Check the key (api_key or OPENAI_API_KEY), the model's name and the URL, which ends in /v1 for "
                    "most servers"
                ) from None
            with _COUNTING:
                self.stats.failures[failure.kind] += 1
                is_first = self.stats.failures[failure.kind] == 1
            if is_first:
                logger.warning("no answer from %s: %s (more of this kind are only counted)", self.base_url, failure)
            if not self._has_answered:
                self._give_up(failure)
            return _completion("", False, error=str(failure))
        if self.cache is not None:
            self.cache.write(key, answer)
        return _completion(answer.text, answer.is_finished)

    def _give_up(self, failure: EndpointFailure) -> None:
        """End the work where nothing but failures of one kind came.

        Raises:
            EndpointError: If these are enough.
        """
        kinds = dict(self.stats.failures)
        if len(kinds) == 1 and kinds[failure.kind] >= MAX_FAILED_FIRST:
            self._end = EndpointError(
                f"{self.base_url} has answered none of {kinds[failure.kind]} questions to model {self.model!r}, all "
                f"for one reason: {failure}. No more are asked; see that it runs and can be reached from here"
            )
            raise self._end

    def _ask(self, request: dict[str, Any]) -> Answer:
        """Return the endpoint's answer.

        Raises:
            EndpointFailure: If there is none.
        """
        with _COUNTING:
            spent = self.stats.prompt_tokens + self.stats.completion_tokens
            if self.token_budget is not None and spent >= self.token_budget:
                raise EndpointFailure("budget", f"{spent} of {self.token_budget} tokens are spent, nothing was sent")
            self.stats.num_requests += 1
            if self._client is None:
                self._client = self._connect()
        try:
            # Streamed, so that time and size have a limit even if the body never ends.
            chat = self._client.chat.completions.with_streaming_response
            with chat.create(**request) as response:
                encoded = read_body(response.iter_bytes(), self.timeout_s)
        except EndpointFailure:
            raise
        except Exception as error:  # of the client, of its transport, of its decoders: they are no family
            raise describe(error, self._api_key) from None
        is_first, self._has_answered = not self._has_answered, True
        body = decode_body(encoded)
        prompt_tokens, completion_tokens = read_usage(body)
        if is_first and self.token_budget is not None and prompt_tokens + completion_tokens == 0:
            logger.warning("%s reports no usage: the token budget cannot hold", self.base_url)
        with _COUNTING:
            self.stats.prompt_tokens += prompt_tokens
            self.stats.completion_tokens += completion_tokens
        return read_answer(body)

    def _connect(self) -> Any:
        return _import_openai().OpenAI(
            base_url=self.base_url, api_key=self._api_key, timeout=self.timeout_s, max_retries=self.max_retries
        )

    def __getstate__(self) -> dict[str, Any]:
        """Drop the client, which has open connections; the copy makes its own when it first asks."""
        return {**self.__dict__, "_client": None}


def _completion(text: str, is_finished: bool, error: str | None = None) -> Completion:
    """Return a completion without tokens."""
    return Completion(text, np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32), is_finished, error)


def _import_openai() -> Any:
    """Return the package, imported when it is needed."""
    try:
        import openai
    except ImportError as error:
        raise MissingDependencyError(
            "the policy openai_api needs the package openai, which is not installed; "
            'run: pip install "focus-localization[api]"'
        ) from error
    return openai
