"""The environment's questions and rewards for TRL's `GRPOTrainer`: a data set, a reward function, a processor.

    env = gymnasium.make(focus_env.ENV_ID, template=template)
    GRPOTrainer(..., train_dataset=trl_dataset(env, range(1000)), reward_funcs=TRLReward(env))

One environment serves both, so that prompts and rewards are of the same data set and template.
`SharedPrefixGRPOTrainer` takes the place of TRL's trainer and computes each prompt once for all its answers
(`trl_trainer.py`). TRL itself is not imported here before that trainer is asked for. Written for TRL 1.16.
"""

from __future__ import annotations

import functools
import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from PIL import Image

from focus_agents.models.processing import VLMProcessor
from focus_agents.rollout.scoring import score_apart
from focus_env.errors import MissingDependencyError
from focus_env.types import ImagePart, Message

if TYPE_CHECKING:
    import datasets

TRLCompletion = str | list[dict[str, Any]]
"""A text, or the messages of an answer, as TRL gives them for prompts in messages."""


MAX_TRIED = 16
"""Episodes that are tried for one row; where none of so many can be asked, the fault is not theirs."""

logger = logging.getLogger(__name__)


def __getattr__(name: str) -> Any:
    """Return the trainer, whose base class takes seconds to import."""
    if name != "SharedPrefixGRPOTrainer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from focus_agents.integrations.trl_trainer import SharedPrefixGRPOTrainer
    except ModuleNotFoundError as error:
        raise MissingDependencyError("trl is not installed; pip install 'trl>=1.16,<1.17'") from error
    return SharedPrefixGRPOTrainer


def trl_dataset(env: gymnasium.Env[Any, Any], indices: Sequence[int]) -> datasets.Dataset:
    """Return episodes as rows for TRL, with the columns ``prompt``, ``images`` and ``episode_index``.

    A row is made when it is read. In memory are the indices, and of the pictures those of the batch that was asked for,
    once for each episode, however often TRL repeats it. For an episode that cannot be asked, such as one with a damaged
    picture, stands the next of `indices` that can, with its own index; a warning names it once.

    Args:
        env: `focus_env/InContextLocalization-v0` with text actions; its template words the prompts.
        indices: Which episodes.

    Raises:
        MissingDependencyError: If `datasets` is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError("datasets is not installed; pip install 'trl>=1.16,<1.17' brings it") from error
    rows = datasets.Dataset.from_dict({"episode_index": list(indices)})
    return rows.with_transform(functools.partial(_ask, env, list(indices)))


def _ask(env: gymnasium.Env[Any, Any], indices: Sequence[int], batch: dict[str, list[int]]) -> dict[str, list[Any]]:
    """Return the columns of a batch of rows, from their indices."""
    asked = {index: _row(env, indices, index) for index in dict.fromkeys(batch["episode_index"])}
    rows = [asked[index] for index in batch["episode_index"]]
    return {**batch, **{column: [row[column] for row in rows] for column in ("episode_index", "prompt", "images")}}


def _row(env: gymnasium.Env[Any, Any], indices: Sequence[int], index: int) -> dict[str, Any]:
    """Return the row of an episode, or of the next one behind it that can be asked."""
    template, place = env.get_wrapper_attr("template"), indices.index(index)
    in_turn = list(dict.fromkeys([*indices[place:], *indices[:place]]))[:MAX_TRIED]
    for number, other in enumerate(in_turn, start=1):
        try:
            question, _ = env.reset(options={"episode_index": other})
            own = template.for_question(env.get_wrapper_attr("episode"))
            return {"episode_index": other, **trl_row(own.render(question))}
        except Exception as error:  # whatever a data set of the user's own raises
            if number == len(in_turn):
                raise
            warn_once(f"episode {other} cannot be asked, another is in its place: {error}")
    raise AssertionError("unreachable: the last try returns or raises")


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning, once in a process."""
    logger.warning("%s", message)


def trl_row(messages: Sequence[Message]) -> dict[str, Any]:
    """Return a prompt as TRL wants it: messages with a place for each picture, and the pictures in that order."""
    parts = [part for message in messages for part in message.content]
    prompt = [
        {
            "role": message.role,
            "content": [
                {"type": "image"} if isinstance(part, ImagePart) else {"type": "text", "text": part.text}
                for part in message.content
            ],
        }
        for message in messages
    ]
    return {"prompt": prompt, "images": [Image.fromarray(part.image) for part in parts if isinstance(part, ImagePart)]}


class TRLReward:
    """A reward function for TRL: what the environment's `step` would pay for each answer.

    The answers to one episode are scored in one call. One for which the parser or a term raises gets the mean of the
    others. The episode comes from the data set, and none of its pictures is
    decoded.

    Args:
        env: The one that `trl_dataset` was given, or one with the same episodes.
    """

    __name__ = "focus_reward"  # TRL's name for what it logs

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        self.env = env

    def __call__(self, completions: Sequence[TRLCompletion], episode_index: Sequence[int], **_: Any) -> list[float]:
        """Score a batch of answers.

        Args:
            completions: The answers.
            episode_index: The column of `trl_dataset`: what each of them answers.
        """
        places: dict[int, list[int]] = defaultdict(list)
        texts: list[str] = []
        for completion, index in zip(completions, episode_index, strict=True):
            places[index].append(len(texts))
            texts.append(completion if isinstance(completion, str) else completion[-1]["content"])
        rewards = np.empty(len(texts))
        dataset = self.env.get_wrapper_attr("dataset")
        for index, group in places.items():
            scores, _errors = score_apart(self.env, dataset[index], [texts[place] for place in group])
            rewards[group] = scores.rewards
        return [float(reward) for reward in rewards]


def trl_processor(processor: VLMProcessor) -> Any:
    """Return a processor of transformers for TRL; tokenizer and image processor are shared with `processor`.

    Raises:
        NotImplementedError: If the model's family has none.
    """
    return processor.family.transformers_processor(processor.tokenizer, processor.image_processor)
