"""Rows of a batch of TRL's, each a prompt with an answer, as one row for each prompt with all its answers behind it.

TRL's fused head scores a token for each place of a row. The last token of a prompt predicts the first token of every
answer, which makes G tokens for one place. So each answer starts with a copy of that token:

    [ prompt without its last token | last, answer 1 | last, answer 2 | … ]

A copy stands at the place of the original, and sees what that sees, so it has the original's state.

Axis letters: B rows, N different prompts, G most rows of a prompt, P prompt columns, T answer columns, C columns of
packed answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from focus_agents.models.inputs import IGNORED
from focus_agents.models.shared_prefix import PackedAnswers, pack_answers

Pictures = Mapping[str, torch.Tensor]
"""Values of a row's pictures, by TRL's names."""


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Rows by prompt.

    Attributes:
        answers: What stands behind the prompts, copies of their last tokens included.
        labels: [N, P - 1 + C] int64, the token that each place predicts.
        group: [B, 1] int64, which of the packed rows holds a row's tokens.
        column: [B, T] int64, where in it a token of an answer is predicted.
        is_scored: [B, T] bool, whether a token is one of an answer, not padding.
    """

    answers: PackedAnswers
    labels: torch.Tensor
    group: torch.Tensor
    column: torch.Tensor
    is_scored: torch.Tensor

    def by_row(self, scores: torch.Tensor) -> torch.Tensor:
        """Return scores of the packed places, [N, P - 1 + C], as [B, T] of the answers' tokens, 0 at padding."""
        return scores[self.group, self.column].masked_fill(~self.is_scored, 0.0)


def pictures_of_rows(inputs: Mapping[str, torch.Tensor | Sequence[int] | None], num_rows: int) -> list[Pictures] | None:
    """Cut the pictures of a batch between its rows, as TRL lays them out.

    Args:
        inputs: The arguments of TRL's method that tell of pictures.
        num_rows: B.

    Returns:
        Of each row; None: they are laid out in a way that is not known here.
    """
    given = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
    pixels = given.get("pixel_values")
    if pixels is None:
        return [{} for _ in range(num_rows)] if not given else None
    is_video = "image_grid_thw" in given and bool((given["image_grid_thw"][:, 0] > 1).any())
    if "spatial_shapes" in given or is_video:
        return None
    num_images, num_tiles = inputs.get("num_images"), inputs.get("num_tiles")
    images = [1] * num_rows if num_images is None else [int(number) for number in num_images]
    sizes: dict[str, list[int]] = {
        name: images for name in ("image_grid_thw", "image_sizes", "image_position_ids") if name in given
    }
    if "image_grid_thw" in given:
        patches = given["image_grid_thw"].prod(-1)
        sizes["pixel_values"] = [int(part.sum()) for part in torch.split(patches, images)]
    elif num_tiles is not None:
        sizes["pixel_values"] = [int(number) for number in num_tiles]
    else:
        sizes["pixel_values"] = images if len(pixels) == sum(images) else [1] * num_rows
    if "pixel_attention_mask" in given:
        sizes["pixel_attention_mask"] = [1] * num_rows
    if any(len(sizes[name]) != num_rows or sum(sizes[name]) != len(value) for name, value in given.items()):
        return None
    parts = {name: torch.split(value, sizes[name]) for name, value in given.items()}
    return [{name: rows[row] for name, rows in parts.items()} for row in range(num_rows)]


def group_rows(prompts: Sequence[torch.Tensor], pictures: Sequence[Pictures]) -> list[list[int]]:
    """Return which rows have the same prompt and the same pictures; they need not be neighbours.

    Args:
        prompts: Of each [B, P], what makes a prompt: its tokens, its mask, its types of tokens.
        pictures: Of each row.
    """
    groups: list[list[int]] = []
    alike: dict[tuple[int, ...], list[list[int]]] = {}
    for row, numbers in enumerate(torch.cat([part.long() for part in prompts], dim=1).tolist()):
        known = alike.setdefault(tuple(numbers), [])
        for group in known:
            other = pictures[group[0]]
            if all(torch.equal(value, other[name]) for name, value in pictures[row].items()):
                group.append(row)
                break
        else:
            known.append([row])
            groups.append(known[-1])
    return groups


def pack_rows(
    last_tokens: torch.Tensor,
    completion_ids: torch.Tensor,
    lengths: torch.Tensor,
    groups: Sequence[Sequence[int]],
    num_prompt_columns: int,
) -> PackedRows:
    """Lay the answers of each group behind one another.

    Args:
        last_tokens: [N] int64, the last token of each group's prompt.
        completion_ids: [B, T] int64.
        lengths: [B] int64, tokens of each answer, 0 to T.
        groups: Which rows have a prompt in common.
        num_prompt_columns: P - 1, those that stand before the answers in a packed row.
    """
    device, num_tokens = completion_ids.device, completion_ids.shape[1]
    places = sorted(
        (row, group, place) for group, rows in enumerate(groups) for place, row in enumerate(rows)
    )  # by row, as the indices below are
    index = torch.tensor(places, device=device)
    group, place = index[:, 1], index[:, 2]
    shape = (len(groups), max(len(rows) for rows in groups))
    token_ids = completion_ids.new_zeros(*shape, num_tokens + 1)
    token_ids[:, :, 0] = last_tokens[:, None]
    token_ids[group, place, 1:] = completion_ids
    own_lengths = lengths.new_zeros(shape)
    own_lengths[group, place] = lengths + 1
    answers = pack_answers(token_ids, own_lengths)
    # `predictor` counts from 1 at the first column behind the prompt; 0, at padding, becomes a place that is not read.
    column = num_prompt_columns - 1 + answers.predictor[group, place, 1:]
    is_scored = torch.arange(num_tokens, device=device) < lengths[:, None]
    labels = column.new_full((len(groups), num_prompt_columns + answers.input_ids.shape[1]), IGNORED)
    labels[group[:, None].expand_as(column)[is_scored], column[is_scored]] = completion_ids[is_scored]
    return PackedRows(answers, labels, group[:, None], column, is_scored)
