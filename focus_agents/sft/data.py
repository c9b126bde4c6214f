"""Episodes as supervised examples: the encoded prompt, the tokens of the right answer, and what the query looks at."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from focus_agents.errors import EpisodeError
from focus_agents.models.inputs import EncodedPrompt, PromptBatch, check_context
from focus_agents.models.processing import PromptSpans, VLMProcessor
from focus_agents.models.views import box_tokens
from focus_agents.processes.loader import drawn_ahead
from focus_agents.rollout.collect import MAX_FAILED_IN_A_ROW, describe_error, errors_of_no_episode
from focus_agents.sft.settings import AttentionContrast, AttentionTarget
from focus_env.datasets.order import shuffled_indices
from focus_env.datasets.training import shots_at, with_shots
from focus_env.env import observe
from focus_env.prompts import IPLocTemplate, PromptTemplate
from focus_env.types import Episode, EpisodeDataset


@dataclass(frozen=True, slots=True)
class SFTExample:
    """One episode, encoded.

    Attributes:
        prompt: The question.
        answer_ids: Tokens of the right answer, the end token last.
        query_tokens: [tokens] int64, positions of the query image's tokens in the prompt.
        support_tokens: [M] int64, positions of the support-box tokens in the prompt.
        contrast_tokens: [C] int64, positions of the tokens that attention to these is compared with; None: all others.
        replaces: Why the episodes in whose place this one stands could not be used; mostly none.
    """

    prompt: EncodedPrompt
    answer_ids: list[int]
    query_tokens: npt.NDArray[np.int64]
    support_tokens: npt.NDArray[np.int64]
    contrast_tokens: npt.NDArray[np.int64] | None = None
    replaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SFTBatch:
    """B examples.

    Attributes:
        prompts: B prompts, padded on the left to P tokens.
        answer_ids: [B, T] int64, padded on the right.
        answer_mask: [B, T] bool, true at answer tokens, of which the end token is the last.
        query_mask: [B, P] bool, true at the query image's tokens.
        support_mask: [B, P] bool, true at support-box tokens.
        replaces: As in `SFTExample`, of all examples.
        contrast_mask: [B, P] bool, true at the tokens that attention to support-box tokens is compared with; None: all.
    """

    prompts: PromptBatch
    answer_ids: torch.Tensor
    answer_mask: torch.Tensor
    query_mask: torch.Tensor
    support_mask: torch.Tensor
    replaces: tuple[str, ...] = ()
    contrast_mask: torch.Tensor | None = None

    def to(self, device: torch.device | str) -> SFTBatch:
        """Return the same batch on another device."""
        names = [f.name for f in dataclasses.fields(self) if f.name != "replaces" and getattr(self, f.name) is not None]
        return dataclasses.replace(self, **{name: getattr(self, name).to(device) for name in names})

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return all tensors by name, for a file."""
        own = {name: getattr(self, name) for name in ("answer_ids", "answer_mask", "query_mask", "support_mask")}
        contrast = {} if self.contrast_mask is None else {"contrast_mask": self.contrast_mask}
        return own | contrast | self.prompts.tensors()


class SFTExamples(Dataset[SFTExample]):
    """Encodes an episode and its right answer when asked for it; picklable, for worker processes.

    Args:
        episodes: What to train on.
        template: Words prompts and answers. An `IPLocTemplate` is given the episode's object name.
        processor: The model's processor.
        target: What counts as a support-box token.
        contrast: What attention to these is compared with.
        max_tokens: The model's context; None: not checked.
    """

    def __init__(
        self,
        episodes: EpisodeDataset,
        template: PromptTemplate,
        processor: VLMProcessor,
        *,
        target: AttentionTarget = "region",
        contrast: AttentionContrast = "all",
        max_tokens: int | None = None,
    ) -> None:
        self.episodes = episodes
        self.template = processor.fit_template(template)
        self.processor = processor
        self.target = target
        self.contrast = contrast
        self.max_tokens = max_tokens

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, item: int | tuple[int, int]) -> SFTExample:
        """Encode one episode.

        Args:
            item: Its index; or its index and how many supports it is shown with, see
                `focus_env.datasets.training.with_shots`.

        Raises:
            EpisodeError: If prompt and answer are longer than the model's context.
        """
        index, num_shots = item if isinstance(item, tuple) else (item, None)
        episode = with_shots(self.episodes, index, num_shots)
        template = self.template
        if isinstance(template, IPLocTemplate):
            template = template.for_episode(episode)
        messages = template.render(observe(episode))
        prompt = self.processor.encode(messages)
        spans = self.processor.locate(messages, prompt)
        answer = self.processor.encode_answer(template.answer(episode.target_box, episode.query_frame.image_wh))
        if self.max_tokens is not None:
            try:
                check_context(prompt, len(answer), self.max_tokens)
            except ValueError as error:
                raise EpisodeError(f"episode {episode.episode_id!r}: {error}") from error
        contrast = None if self.contrast == "all" else contrast_tokens(spans, episode)
        return SFTExample(prompt, answer, spans.images[-1], support_tokens(spans, episode, self.target), contrast)

    def collate(self, examples: Sequence[SFTExample]) -> SFTBatch:
        """Pad examples to a batch."""
        prompts = self.processor.collate([example.prompt for example in examples])
        answers = [torch.tensor(example.answer_ids) for example in examples]
        answer_ids = torch.nn.utils.rnn.pad_sequence(
            answers, batch_first=True, padding_value=self.processor.pad_token_id
        )
        lengths = torch.tensor([len(answer) for answer in answers])
        query_mask = torch.zeros(prompts.input_ids.shape, dtype=torch.bool)
        support_mask = torch.zeros_like(query_mask)
        contrast_mask = None if self.contrast == "all" else torch.zeros_like(query_mask)
        for row, example in enumerate(examples):
            padding = prompts.input_ids.shape[1] - len(example.prompt.input_ids)
            query_mask[row, padding + torch.from_numpy(example.query_tokens)] = True
            support_mask[row, padding + torch.from_numpy(example.support_tokens)] = True
            if contrast_mask is not None and example.contrast_tokens is not None:
                contrast_mask[row, padding + torch.from_numpy(example.contrast_tokens)] = True
        answer_mask = torch.arange(answer_ids.shape[1]) < lengths[:, None]
        replaces = tuple(reason for example in examples for reason in example.replaces)
        return SFTBatch(prompts, answer_ids, answer_mask, query_mask, support_mask, replaces, contrast_mask)


class UsableExamples(Dataset[SFTExample | EpisodeError]):
    """Examples, where one that cannot be used has the next that can in its place; picklable likewise.

    The place of a bad one is not left empty, since the workers of a step count on the size of their shares.

    Args:
        examples: Some of which may be bad.
    """

    def __init__(self, examples: SFTExamples) -> None:
        self.examples = examples

    def __getitem__(self, item: int | tuple[int, int]) -> SFTExample | EpisodeError:
        """Encode an episode, or the first after it that can be used; an error if there is none nearby.

        The error is returned: one that a process of a data loader raises arrives as its traceback.
        """
        index, num_shots = item if isinstance(item, tuple) else (item, None)
        count = len(self.examples)
        reasons: list[str] = []
        for place in range(index, index + min(count, MAX_FAILED_IN_A_ROW)):
            try:
                example = self.examples[place % count if num_shots is None else (place % count, num_shots)]
            except errors_of_no_episode():
                raise
            except Exception as error:
                reasons.append(describe_error(error, place % count, self.examples.episodes))
            else:
                return dataclasses.replace(example, replaces=tuple(reasons)) if reasons else example
        return EpisodeError(
            f"training data: expected an episode that can be used, got {len(reasons)} in a row that cannot, the first: "
            f"{reasons[0]}"
        )

    def collate(self, examples: Sequence[SFTExample | EpisodeError]) -> SFTBatch | EpisodeError:
        """Pad examples to a batch, as `SFTExamples.collate`; or return the error that is among them."""
        usable = [example for example in examples if isinstance(example, SFTExample)]
        errors = [example for example in examples if isinstance(example, EpisodeError)]
        return errors[0] if errors else self.examples.collate(usable)


def support_tokens(spans: PromptSpans, episode: Episode, target: AttentionTarget) -> npt.NDArray[np.int64]:
    """Return [M] int64 positions of the support-box tokens in a prompt, in rising order.

    Args:
        spans: Where the prompt of this episode holds pictures and boxes.
        episode: For its support boxes.
        target: What counts.

    Raises:
        ValueError: If the prompt does not hold one picture and one marked box for each support.
    """
    num_shots = len(episode.support)
    if (len(spans.images), len(spans.box_texts)) != (num_shots + 1, num_shots):
        raise ValueError(
            f"prompt of episode {episode.episode_id!r}: expected {num_shots + 1} pictures and {num_shots} marked "
            f"boxes, got {len(spans.images)} and {len(spans.box_texts)}; a template marks boxes by TextPart.box_span"
        )
    if target == "span":
        return np.concatenate(spans.box_texts)
    if target == "last":
        return np.array([text[-1] for text in spans.box_texts])
    regions = _regions(spans, episode)
    chosen = {"coords": spans.box_coordinates, "region": regions, "both": [*spans.box_coordinates, *regions]}
    return np.sort(np.concatenate(chosen[target]))


def contrast_tokens(spans: PromptSpans, episode: Episode) -> npt.NDArray[np.int64]:
    """Return [C] int64 positions of the image tokens of the support pictures outside of the boxes, in rising order."""
    return np.setdiff1d(np.concatenate(spans.images[:-1]), np.concatenate(_regions(spans, episode)))


def _regions(spans: PromptSpans, episode: Episode) -> list[npt.NDArray[np.int64]]:
    """Return for each support the positions of the image tokens inside its box."""
    return [
        tokens[box_tokens(exemplar.box, exemplar.frame.image_wh, views)]
        for exemplar, tokens, views in zip(episode.support, spans.images[:-1], spans.views[:-1], strict=True)
    ]


def load_batches(
    examples: SFTExamples,
    *,
    steps: range,
    batch_size: int,
    seed: int,
    num_data_workers: int,
    micro_batch_size: int | None = None,
    rank: int = 0,
    num_workers: int = 1,
    num_one_shot_steps: int = 0,
    warn: Callable[[str], None] = warnings.warn,
) -> Iterator[list[SFTBatch]]:
    """Yield this worker's share of each step's batch, as micro-batches.

    Which episodes a step holds depends on the seed and the step alone, so a run that goes on at a later step, with more
    or fewer workers or smaller micro-batches, trains on the same ones.

    Args:
        examples: What to draw from, in shuffled epochs.
        steps: The optimizer steps to draw for.
        batch_size: Examples of a step, over all workers.
        seed: Of the order.
        num_data_workers: Processes that draw ahead; 0 draws in this one.
        micro_batch_size: Most examples of a micro-batch; None: the whole share.
        rank: Which worker this is.
        num_workers: How many share each batch, at most `batch_size`.
        num_one_shot_steps: Steps, from the training's first, in which one support of an episode is shown. In later ones
            all are, or as many as `focus_env.datasets.training.DrawnShots` say.
        warn: As in `drawn_ahead`.

    Raises:
        EpisodeError: If many episodes in a row cannot be used; a few are replaced, see `UsableExamples`.
    """
    order = shuffled_indices(steps.start * batch_size, len(steps) * batch_size, num_episodes=len(examples), seed=seed)
    shares = [order[start : start + batch_size][rank::num_workers] for start in range(0, len(order), batch_size)]
    size = micro_batch_size or batch_size
    items: list[list[int | tuple[int, int]]] = []
    for number, share in zip(steps, shares, strict=True):
        shots = 1 if number < num_one_shot_steps else shots_at(examples.episodes, number)
        items.append(list(share) if shots is None else [(index, shots) for index in share])
    plan = [[chosen[start : start + size] for start in range(0, len(chosen), size)] for chosen in items]
    usable = UsableExamples(examples)
    loader = drawn_ahead(
        usable,
        num_processes=num_data_workers,
        warn=warn,
        batch_sampler=[micro_batch for step in plan for micro_batch in step],
        collate=usable.collate,
    )
    for step in plan:
        micro_batches = []
        for _ in step:
            if isinstance(batch := next(loader), EpisodeError):
                raise batch
            micro_batches.append(batch)
        yield micro_batches
