"""The environment: one episode is one question, one step is its answer.

    obs, info = env.reset(options={"episode_index": 3})
    obs, reward, terminated, truncated, info = env.step("<answer>[120, 80, 310, 400]</answer>")

Any text is a legal action: it is scored, never refused. `step` scores one answer by
`focus_env.rewards.scores.score_answers`, which scores a whole group without an environment.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import operator
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, cast

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.error import ResetNeeded

from focus_env.boxes import CoordinateFrame
from focus_env.errors import DatasetError
from focus_env.metrics import ScoredAnswer
from focus_env.parsing import judge_coordinates
from focus_env.pictures import as_episode, read_picture
from focus_env.plain_numbers import as_numbers, require_whole
from focus_env.prompts import PromptTemplate, get_template
from focus_env.rendering import ANSWER_COLOUR, render_episode
from focus_env.rewards.scores import AnswerScores, score_answers, score_parses
from focus_env.rewards.weighted import WeightedReward
from focus_env.spaces import BoxAction, CompletionSpace, Observation, box_action_space, observation_space
from focus_env.types import Episode, EpisodeDataset, ImageArray, ParseResult

ENV_ID = "focus_env/InContextLocalization-v0"
"""The name under which Gymnasium makes the environment."""

Array = TypeVar("Array", bound=npt.NDArray[Any])


class InContextLocalizationEnv(gymnasium.Env[Observation, str | BoxAction]):
    """Find in the query image the object that the support images show.

    Registered as ``focus_env/InContextLocalization-v0``. Observations are `focus_env.spaces.Observation`; turn them
    into messages with a `PromptTemplate`. An episode ends with its first step (``terminated=True``), whose observation
    is the same question again. The arrays of an observation are read-only, since every observation of a question shares
    them; to draw on a picture, copy it first (``image.copy()``).

    ``info`` of `reset`: ``episode_index``, ``episode_id``, ``identity``. ``info`` of `step`:
    ``episode_index``, ``episode_id``, ``reward_terms`` (name -> value before weighting), ``parse_status`` and
    ``is_strict`` (see `focus_env.types.ParseResult`), ``iou`` (0.0 without a box or a target), ``box`` and
    ``target_box`` (tuples `xyxy` in pixels of the query image, or None).

    A vector environment resets by itself. Gymnasium's default, ``AutoresetMode.NEXT_STEP``, spends the step after each
    answer on the reset, throws the answer of that step away and pays it 0: every second answer here. Ask for
    ``vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP}``; the answer's ``info`` is then in
    ``infos["final_info"]``.

    Images vary in size, so an asynchronous vector environment cannot share memory: add
    ``"shared_memory": False`` to the ``vector_kwargs`` of `gymnasium.make_vec`, or wrap with `FixedSizeObservation`.

    Args:
        dataset: Where episodes come from, or the name of one for `focus_env.datasets.load_dataset`.
        dataset_options: Further arguments of `load_dataset`; only with a name.
        action_type: ``"text"``: a completion, any string. ``"box"``: four floats in [0, 1], x_min, y_min,
            x_max, y_max as shares of the query's width and height. Any four are legal; what is no box
            gets the status that a text with these numbers would get, and counts as ill-formed.
        reward: A `WeightedReward`, a text for `WeightedReward.from_spec`, or None for IoU + 0.5 * format.
        template: A `PromptTemplate`, or what `focus_env.prompts.get_template` makes one of: a name, a file, or
            `package.module:NAME`. Its frame is the one in which a text action is read.
        render_mode: ``"rgb_array"`` for pictures from `render`, else None.

    Raises:
        ValueError: If an argument is none of the above, or the data set is empty.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 1}  # noqa: RUF012  # as in the base

    def __init__(
        self,
        *,
        dataset: EpisodeDataset | str = "synthetic",
        dataset_options: Mapping[str, Any] | None = None,
        action_type: Literal["text", "box"] = "text",
        reward: WeightedReward | str | None = None,
        template: PromptTemplate | str = "default",
        render_mode: Literal["rgb_array"] | None = None,
    ) -> None:
        if action_type not in ("text", "box"):
            raise ValueError(f"action_type must be 'text' or 'box', got {action_type!r}")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        self.dataset = _make_dataset(dataset, dataset_options)
        self.action_type = action_type
        self.reward = _make_reward(reward)
        self.template = get_template(template)
        self.render_mode = render_mode
        self.observation_space = cast("spaces.Space[Observation]", observation_space())
        self.action_space = CompletionSpace() if action_type == "text" else box_action_space()
        self._question: _Question | None = None
        self._answer: ScoredAnswer | None = None
        self._progress = 1.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Ask a question.

        Args:
            seed: Seeds the drawing of episodes.
            options: ``{"episode_index": i}`` asks for that episode; without it the index is drawn uniformly.
                ``"shots"``, at least 1, shows it with fewer supports, see `focus_env.datasets.training.with_shots`.
                ``"progress"``, from 0 to 1, is how far the training is, for rewards with a curriculum; without it 1.

        Raises:
            ValueError: If an option is unknown, the index is outside the data set, `shots` is no such number, or
                `progress` is no share.
            DatasetError: If a picture of the episode cannot be read, or one of its boxes is no box in its picture.
        """
        super().reset(seed=seed)
        if options is not None and not isinstance(options, Mapping):
            raise ValueError(f"options must be a mapping such as {{'episode_index': 0}}, got {options!r:.80}")
        options = options or {}
        given = options.get("progress", 1.0)
        progress = float(given) if isinstance(given, numbers.Real) else math.nan
        if not 0 <= progress <= 1:
            raise ValueError(f"progress must be from 0 (the start of training) to 1 (its end), got {given!r:.80}")
        index = self._choose_index(options)
        shots = _read_shots(options.get("shots"))
        question = self._question
        if question is None or (question.index, question.shots) != (index, shots):
            question = self._question = _Question(index, self._load(index, shots), shots)
        self._answer = None
        self._progress = progress
        episode = question.episode
        info = {"episode_index": index, "episode_id": episode.episode_id, "identity": episode.identity}
        return question.observe(), info

    @property
    def episode(self) -> Episode:
        """The question, with its answer: for scoring, never for a policy.

        Raises:
            ResetNeeded: If no question was asked.
        """
        if self._question is None:
            raise ResetNeeded("episode was asked for before reset; call reset to get a question first")
        return self._question.episode

    def step(self, action: str | BoxAction) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Score an answer, and end the episode.

        Args:
            action: A text, or [4] floats, as `action_type` says.

        Raises:
            ResetNeeded: If the question is already answered, or none was asked.
            TypeError: If a text action is not a string.
            ValueError: If a box action is not four numbers.
            RewardError: If a term of one's own reward breaks its contract.
        """
        if self._question is None:
            raise ResetNeeded("step was called before reset; call reset to get a question first")
        if self._answer is not None:
            raise ResetNeeded(
                "the episode ended with its one step; call reset, with the same episode_index to answer again"
            )
        episode = self._question.episode
        scores = self._score(episode, action)
        (answer,) = scores.answers
        self._answer = answer
        info = {
            "episode_index": self._question.index,
            "episode_id": episode.episode_id,
            "reward_terms": {name: float(values[0]) for name, values in scores.terms.items()},
            "parse_status": answer.status.value,
            "is_strict": answer.is_strict,
            "iou": answer.iou,
            "box": None if answer.box is None else tuple(answer.box),
            "target_box": None if answer.target_box is None else tuple(answer.target_box),
        }
        return self._question.observe(), float(scores.rewards[0]), True, False, info

    def render(self) -> ImageArray | None:  # type: ignore[override]
        """Draw the question, and the answer once there is one.

        Returns:
            [H, W, 3] uint8, see `focus_env.rendering.render_episode`; None without a render mode.

        Raises:
            ResetNeeded: If no question was asked.
        """
        if self.render_mode is None:
            gymnasium.logger.warn("render was called without a render mode; pass render_mode='rgb_array'")
            return None
        if self._question is None:
            raise ResetNeeded("render was called before reset; call reset to get a question first")
        answers = [] if self._answer is None else [("answer", self._answer.box, ANSWER_COLOUR)]
        return render_episode(self._question.episode, answers)

    def _load(self, index: int, shots: int | None) -> Episode:
        if shots is None:
            return self.dataset[index]
        from focus_env.datasets.training import with_shots  # here, as in `_make_dataset`

        return with_shots(self.dataset, index, shots)

    def _choose_index(self, options: Mapping[str, Any]) -> int:
        if unknown := sorted(set(options) - {"episode_index", "progress", "shots"}):
            raise ValueError(f"reset knows the options 'episode_index', 'progress' and 'shots', got {unknown}")
        if "episode_index" not in options:
            return int(self.np_random.integers(len(self.dataset)))
        try:
            index = operator.index(options["episode_index"])
        except TypeError:
            raise ValueError(f"episode_index must be a whole number, got {options['episode_index']!r:.80}") from None
        if not 0 <= index < len(self.dataset):
            raise ValueError(f"episode_index must be in 0 to {len(self.dataset) - 1}, got {index}")
        return index

    def _score(self, episode: Episode, action: str | BoxAction) -> AnswerScores:
        if self.action_type == "text":
            if not isinstance(action, str):
                raise TypeError(f"a text action must be a str, got {type(action).__name__}: {action!r:.80}")
            return score_answers(episode, [action], template=self.template, reward=self.reward, progress=self._progress)
        parse = _read_box(cast("BoxAction", action), episode.query_frame.image_wh)
        return score_parses(episode, [parse], reward=self.reward, progress=self._progress)


class _Question:
    """The episode being asked, with its images decoded once."""

    def __init__(self, index: int, episode: Episode, shots: int | None) -> None:
        self.index, self.shots = index, shots
        self.episode = as_episode(episode)
        self._observation = observe(self.episode)

    def observe(self) -> Observation:
        """Return the observation: the same read-only arrays each time, in a dict that the caller may change."""
        return self._observation.copy()


def observe(episode: Episode) -> Observation:
    """Decode an episode into what a policy may see of it; nothing of the target, identity or category.

    The environment serves just this. Supervised training uses it without an environment. The supports are checked as
    `focus_env.pictures.as_episode` does.

    Returns:
        Read-only arrays, decoded or copied from the episode's sources: they share no memory with the data set.

    Raises:
        DatasetError: If a picture or a support's box is bad; the message names the episode and which of its pictures.
    """
    episode = as_episode(_without_target(episode))
    where = f"episode {episode.episode_id!r}"
    if not episode.support:
        raise DatasetError(f"{where}: expected at least one support, got none")
    boxes = np.array([exemplar.box for exemplar in episode.support], dtype=np.float64)
    return Observation(
        support_images=tuple(
            _read_only(read_picture(exemplar.frame, f"{where}: support {number}"))
            for number, exemplar in enumerate(episode.support, start=1)
        ),
        support_boxes=_read_only(boxes.reshape(-1, 4)),
        query_image=_read_only(read_picture(episode.query_frame, f"{where}: query")),
    )


def _without_target(episode: Episode) -> Episode:
    """Return the part of an episode that a policy may see, whose target is not looked at."""
    return dataclasses.replace(episode, target_box=None) if isinstance(episode, Episode) else episode


def _read_only(array: Array) -> Array:
    # A view of an array that owns its memory and is read-only: any other could be made writeable again.
    owner = array if array.base is None else array.copy()
    owner.flags.writeable = False
    return owner.view()


def _read_shots(given: object) -> int | None:
    """Return the number of supports that an option asks for."""
    if given is None:
        return None
    require_whole(given, "shots")
    shots = operator.index(given)  # type: ignore[arg-type]
    if shots < 1:
        raise ValueError(f"shots: expected a whole number, at least 1, got {shots}")
    return shots


def _read_box(action: BoxAction, image_wh: tuple[int, int]) -> ParseResult:
    """Judge a box action as a text with these numbers would be."""
    try:
        values = as_numbers(action)
    except Exception as error:  # of whatever library it is
        raise ValueError(f"a box action must have the shape [4], got {action!r:.80}: {error}") from error
    if values.shape != (4,):
        raise ValueError(f"a box action must have the shape [4], got {list(values.shape)}")
    x1, y1, x2, y2 = values.tolist()
    status, box = judge_coordinates((x1, y1, x2, y2), frame=CoordinateFrame.NORM_1, image_wh=image_wh)
    return ParseResult(status, box, is_strict=box is not None)


def _make_dataset(dataset: EpisodeDataset | str, options: Mapping[str, Any] | None) -> EpisodeDataset:
    if isinstance(dataset, str):
        from focus_env.datasets import load_dataset  # here: one's own data set needs none of its imports

        if options is not None and not isinstance(options, Mapping):
            raise ValueError(f"dataset_options: expected a mapping from names to values, got {options!r:.80}")
        loaded: EpisodeDataset = load_dataset(dataset, **(options or {}))
        return _require_episodes(loaded)
    if options is not None:
        raise ValueError(
            "dataset_options are for a data set given by name; "
            f"got {dict(options)} together with a {type(dataset).__name__}"
        )
    if isinstance(dataset, Mapping) or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise ValueError(
            f"dataset: expected a name, or a list or other sequence of episodes, got {type(dataset).__name__}"
        )
    return _require_episodes(dataset)


def _require_episodes(dataset: EpisodeDataset) -> EpisodeDataset:
    if len(dataset) == 0:
        raise ValueError("the data set must hold at least one episode, got none")
    return dataset


def _make_reward(reward: WeightedReward | str | None) -> WeightedReward:
    if reward is None:
        return WeightedReward.default()
    if isinstance(reward, WeightedReward):
        return reward
    if isinstance(reward, str):
        return WeightedReward.from_spec(reward)
    raise ValueError(
        f"reward: expected a WeightedReward, or a text such as 'iou:1,format:0.5', got {type(reward).__name__}; a "
        "function of your own is a term: WeightedReward({'mine': (function, 1.0)})"
    )
