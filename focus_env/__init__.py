"""FOCUS's environment: in-context localization episodes, served and scored.

Importing this package registers ``focus_env/InContextLocalization-v0`` with Gymnasium. It needs no torch,
transformers or ray.
"""

import gymnasium

from focus_env.boxes import CoordinateFrame, box_iou, iou
from focus_env.env import ENV_ID, InContextLocalizationEnv, observe
from focus_env.errors import DatasetError, FocusError, MissingDependencyError, RewardError
from focus_env.intervals import (
    bootstrap_interval,
    paired_bootstrap_interval,
    ratio_bootstrap_interval,
    seeds_bootstrap_interval,
)
from focus_env.metrics import ScoredAnswer, summarize
from focus_env.overlap import ciou, diou, giou
from focus_env.parsing import parse_answer, write_box
from focus_env.prompts import TEMPLATES, PromptTemplate, get_template
from focus_env.rendering import draw_boxes, render_episode, stack_rows
from focus_env.rewards.answers import AnswerBatch
from focus_env.rewards.scores import AnswerScores, score_answer, score_answers, score_parses
from focus_env.rewards.terms import PARAMETRIC_TERMS, REWARD_TERMS, RewardTerm, format_reward, iou_reward
from focus_env.rewards.weighted import WeightedReward
from focus_env.spaces import CompletionSpace, ImageSpace, Observation
from focus_env.types import (
    Box,
    Episode,
    EpisodeDataset,
    Exemplar,
    Frame,
    ImagePart,
    Message,
    ParseResult,
    ParseStatus,
    TextPart,
    Track,
)
from focus_env.wrappers import FixedSizeObservation, SingleImageObservation

__version__ = "0.1.0"

__all__ = [
    "ENV_ID",
    "PARAMETRIC_TERMS",
    "REWARD_TERMS",
    "TEMPLATES",
    "AnswerBatch",
    "AnswerScores",
    "Box",
    "CompletionSpace",
    "CoordinateFrame",
    "DatasetError",
    "Episode",
    "EpisodeDataset",
    "Exemplar",
    "FixedSizeObservation",
    "FocusError",
    "Frame",
    "ImagePart",
    "ImageSpace",
    "InContextLocalizationEnv",
    "Message",
    "MissingDependencyError",
    "Observation",
    "ParseResult",
    "ParseStatus",
    "PromptTemplate",
    "RewardError",
    "RewardTerm",
    "ScoredAnswer",
    "SingleImageObservation",
    "TextPart",
    "Track",
    "WeightedReward",
    "bootstrap_interval",
    "box_iou",
    "ciou",
    "diou",
    "draw_boxes",
    "format_reward",
    "get_template",
    "giou",
    "iou",
    "iou_reward",
    "observe",
    "paired_bootstrap_interval",
    "parse_answer",
    "ratio_bootstrap_interval",
    "render_episode",
    "score_answer",
    "score_answers",
    "score_parses",
    "seeds_bootstrap_interval",
    "stack_rows",
    "summarize",
    "write_box",
]

gymnasium.register(id=ENV_ID, entry_point="focus_env.env:InContextLocalizationEnv")
