"""Episodes as supervised examples: the encoded prompt and the tokens of the right answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset

from focus_agents.processing import EncodedPrompt, PromptBatch, VLMProcessor
from focus_agents.rollout import shuffled_indices
from focus_env.env import observe
from focus_env.prompts import PromptTemplate
from focus_env.types import EpisodeDataset


@dataclass(frozen=True, slots=True)
class SFTBatch:
    """B examples.

    Attributes:
        prompts: B prompts.
        answer_ids: [B, T] int64, padded on the right.
        answer_mask: [B, T] bool, true at answer tokens, of which the end token is the last.
    """

    prompts: PromptBatch
    answer_ids: torch.Tensor
    answer_mask: torch.Tensor


class SFTExamples(Dataset[tuple[EncodedPrompt, list[int]]]):
    """Encodes an episode and its right answer when asked for it; picklable, for worker processes."""

    def __init__(self, episodes: EpisodeDataset, template: PromptTemplate, processor: VLMProcessor) -> None:
        self.episodes = episodes
        self.template = template
        self.processor = processor

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, index: int) -> tuple[EncodedPrompt, list[int]]:
        episode = self.episodes[index]
        prompt = self.processor.encode(self.template.render(observe(episode)))
        answer = self.template.answer(episode.target_box, episode.query_frame.image_wh)
        return prompt, self.processor.encode_answer(answer)

    def collate(self, examples: Sequence[tuple[EncodedPrompt, list[int]]]) -> SFTBatch:
        """Pad examples to a batch."""
        answers = [torch.tensor(answer_ids) for _, answer_ids in examples]
        answer_ids = torch.nn.utils.rnn.pad_sequence(
            answers, batch_first=True, padding_value=self.processor.pad_token_id
        )
        lengths = torch.tensor([len(answer) for answer in answers])
        mask = torch.arange(answer_ids.shape[1]) < lengths[:, None]
        return SFTBatch(self.processor.collate([prompt for prompt, _ in examples]), answer_ids, mask)


def load_batches(
    examples: SFTExamples, *, batch_size: int, num_steps: int, seed: int, num_workers: int
) -> Iterator[SFTBatch]:
    """`num_steps` batches over shuffled epochs, drawn ahead by worker processes (0 draws them in this one)."""
    order = shuffled_indices(0, num_steps * batch_size, num_episodes=len(examples), seed=seed)
    return iter(
        DataLoader(
            examples,
            batch_size=batch_size,
            sampler=order,
            collate_fn=examples.collate,
            num_workers=num_workers,
        )
    )
