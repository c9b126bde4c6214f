"""Throw-away linear heads that tell an object's name at the last number of its box.

Asked "What is at [12, 20, 40, 55]? Answer:", a model may look the object up as late as at the cue, from the picture.
Then the tokens of the box hold where the object is, and not how it looks. The heads read the hidden state behind a
layer at the last number, one head for each word of the name, and their loss is added to that of the answers. They are
no part of the model that is saved.
"""

from __future__ import annotations

import torch

from focus_agents.models.small import VOCAB_SIZE
from focus_agents.pretraining.data import NAME_LENGTH, AskedBoxes

PREFIX = "name_heads."
"""Before the names of their parameters in a checkpoint; a saved model has none."""


def new_heads(hidden_size: int, *, seed: int) -> torch.nn.Linear:
    """Return heads with new weights, a function of the seed; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.nn.Linear(hidden_size, NAME_LENGTH * VOCAB_SIZE)


def name_loss(heads: torch.nn.Linear, states: torch.Tensor, boxes: AskedBoxes) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the heads' mean negative log-likelihood of the names' words, with gradient, and scores.

    Args:
        heads: One for each word, as one linear map.
        states: [B, N, H], hidden states of the documents.
        boxes: The K boxes that are asked about.

    Returns:
        The loss, 0 where there is no box; `name_head_loss`, and `name_head_accuracy`, the share of right words.
    """
    words = boxes.names.flatten()
    if not len(words):
        return states.new_zeros(()), {}
    logits = heads(states[boxes.rows, boxes.ends].float()).view(len(words), -1)
    loss = torch.nn.functional.cross_entropy(logits, words)
    accuracy = (logits.detach().argmax(-1) == words).float().mean()
    return loss, {"name_head_loss": float(loss.detach()), "name_head_accuracy": float(accuracy)}
