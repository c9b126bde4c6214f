"""Ask a policy about pictures, a batch at a time: one answer for each object in each picture."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from focus_agents.errors import PolicyError
from focus_agents.finding.answers import Answer, Looked, read_completion
from focus_agents.finding.sources import Shown, Sources
from focus_agents.finding.wanted import Wanted, given_boxes
from focus_agents.rollout.collect import ask_policy, errors_of_no_episode
from focus_agents.rollout.records import MAX_COMPLETION_TOKENS, Completion, Policy, Sampling
from focus_env.calibration import Calibration
from focus_env.errors import FocusError
from focus_env.prompts import PromptTemplate
from focus_env.types import Message

MAX_FAILED_FIRST = 8
"""Answers from the first on that may fail with the same error before the search stops."""


class Looker:
    """Asks a policy where objects are.

    Args:
        wanted: The objects.
        policy: The policy that answers.
        template: The prompt of the questions, which also reads the answers.
        calibration: Turns the scores of boxes into probabilities; None: keep the policy's scores.
        max_completion_tokens: Tokens at which an answer is cut.
    """

    def __init__(
        self,
        wanted: Sequence[Wanted],
        policy: Policy,
        template: PromptTemplate,
        *,
        calibration: Calibration | None = None,
        max_completion_tokens: int = MAX_COMPLETION_TOKENS,
    ) -> None:
        self.wanted, self.policy, self.template = wanted, policy, template
        self._calibration = calibration
        self._sampling = Sampling(temperature=0.0, max_completion_tokens=max_completion_tokens)
        processor = getattr(policy, "processor", None)
        self._decode = None if processor is None else processor.decode
        self._failed: list[str] = []
        self._num_answered = 0

    def asking_for(self, wanted: Sequence[Wanted]) -> Looker:
        """Return one that asks the same policy for other objects."""
        return Looker(
            wanted,
            self.policy,
            self.template,
            calibration=self._calibration,
            max_completion_tokens=self._sampling.max_completion_tokens,
        )

    def look(self, batch: Sequence[tuple[int, Shown]]) -> list[Looked]:
        """Return the answers about pictures, in their order; all objects of all pictures are asked together.

        Args:
            batch: Pictures, each with its number among all pictures.

        Raises:
            PolicyError: If the policy gives nothing but failures from the first picture on.
            FocusError: If the policy raises one; such an error concerns more than a picture.
        """
        answers: dict[tuple[int, int], list[Answer]] = {}
        asked: list[tuple[int, int]] = []
        prompts: list[Sequence[Message]] = []
        for place, (_, shown) in enumerate(batch):
            if shown.image is None:
                continue
            for number, wanted in enumerate(self.wanted):
                if given := given_boxes(wanted, shown.path):
                    answers[place, number] = [Answer(wanted.label, "given", box) for box in given]
                    continue
                prompts.append(self.template.render(_question(wanted, shown)))
                asked.append((place, number))
        seeds = [batch[place][0] for place, _ in asked]
        for (place, number), completion in zip(asked, self._complete(prompts, seeds), strict=True):
            answers[place, number] = [self._read(completion, self.wanted[number].label, batch[place][1])]
        return [
            Looked(
                index=index,
                name=shown.name,
                image_wh=None if shown.image is None else (shown.image.shape[1], shown.image.shape[0]),
                answers=tuple(
                    answer for number in range(len(self.wanted)) for answer in answers.get((place, number), [])
                ),
                path=shown.path,
                clip=shown.clip,
                fault=shown.fault,
            )
            for place, (index, shown) in enumerate(batch)
        ]

    def _read(self, completion: Completion, label: str, shown: Shown) -> Answer:
        assert shown.image is not None
        image_wh = shown.image.shape[1], shown.image.shape[0]
        answer = read_completion(
            completion, label=label, template=self.template, image_wh=image_wh, decode=self._decode
        )
        if answer.kind != "failed":
            self._num_answered += 1
            if self._calibration is not None and answer.kind == "found" and answer.score is not None:
                return dataclasses.replace(answer, score=self._calibration.share(answer.score))
            return answer
        self._failed.append(answer.text)
        kinds = {text.partition(":")[0] for text in self._failed}
        if not self._num_answered and len(self._failed) >= MAX_FAILED_FIRST and len(kinds) == 1:
            raise PolicyError(
                f"policy: the first {len(self._failed)} answers failed alike ({answer.text}); no more are "
                "asked. Correct the policy, and repeat the command"
            )
        return answer

    def _complete(self, prompts: Sequence[Sequence[Message]], seeds: Sequence[int]) -> list[Completion]:
        """Return a completion of each prompt; where the policy raises, halve the batch until bad prompts are alone."""
        if not prompts:
            return []
        try:
            generations = ask_policy(self.policy, prompts, num_completions=1, sampling=self._sampling, seeds=seeds)
            return [generation.completions[0] for generation in generations]
        except FocusError:
            raise
        except errors_of_no_episode():
            raise
        except Exception as error:  # whatever a policy raises on a picture that it cannot take
            if len(prompts) == 1:
                nothing: Any = np.empty(0)
                return [Completion("", nothing, nothing, False, f"{type(error).__name__}: {error}")]
        middle = len(prompts) // 2
        return [
            *self._complete(prompts[:middle], seeds[:middle]),
            *self._complete(prompts[middle:], seeds[middle:]),
        ]


def batches(sources: Sources, *, start: int, size: int) -> Iterator[tuple[list[tuple[int, Shown]], bool]]:
    """Yield pictures in batches, with their numbers, and whether a batch is the last one.

    Args:
        sources: The pictures.
        start: Number of pictures that were answered before, a multiple of `size`.
        size: Pictures of a batch.
    """
    numbered = enumerate(sources.read(start), start=start)
    batch = list(itertools.islice(numbered, size))
    while batch:
        following = list(itertools.islice(numbered, 1))
        yield batch, not following
        batch = following + list(itertools.islice(numbered, size - 1)) if following else []


def _question(wanted: Wanted, shown: Shown) -> Any:
    return {
        "support_images": tuple(image for image, _ in wanted.supports),
        "support_boxes": np.array([box for _, box in wanted.supports], dtype=np.float64),
        "query_image": shown.image,
    }
