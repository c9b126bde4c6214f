"""A reward as a command takes it: as text, or in a YAML file."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from focus_env.regular_files import open_regular
from focus_env.rewards.terms import TERMS
from focus_env.rewards.weighted import WeightedReward
from focus_env.text_files import yaml_fault


def load_reward(text: str) -> WeightedReward:
    """Read a reward: text as `WeightedReward.from_spec` has it, or a YAML file with a line ``term: weight`` for each.

    Args:
        text: As ``"iou:1,format:0.5"``, or the path of a file that ends with .yaml or .yml.

    Raises:
        ValueError: If a term or weight is wrong, or the file is not such a mapping.
        OSError: If the file cannot be read.
    """
    path = Path(os.path.expanduser(text))
    if path.suffix not in (".yaml", ".yml"):
        return _worth_something(WeightedReward.from_spec(text), text)
    try:
        # Composed, not loaded: loading keeps the last of two equal terms in silence, and reads 1e-3 as a text.
        with open_regular(path) as file:
            node = yaml.compose(file.read(), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"reward {text}: expected YAML, got {yaml_fault(error)}") from error
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    if not pairs or not all(isinstance(part, yaml.ScalarNode) for pair in pairs for part in pair):
        raise ValueError(f"reward {text}: expected lines such as 'iou: 1' and 'iou_at(0.5): 0.5', got something else")
    terms = [term.value for term, _ in pairs]
    if twice := sorted({term for term in terms if terms.count(term) > 1}):
        raise ValueError(f"reward {text}: the term {twice[0]!r} appears twice; give it one weight")
    try:
        return _worth_something(WeightedReward.from_mapping({term.value: weight.value for term, weight in pairs}), text)
    except ValueError as error:
        raise ValueError(f"{text}: {error}") from error


def _worth_something(reward: WeightedReward, text: str) -> WeightedReward:
    """Return the reward, if an answer can earn anything by it."""
    if all(weight == 0 for _, weight in reward.terms.values()):
        raise ValueError(f"reward {text!r}: expected a weight other than 0, got none; nothing can be learned from it")
    if all(name.partition("(")[0] in TERMS.built_in and weight <= 0 for name, (_, weight) in reward.terms.items()):
        raise ValueError(f"reward {text!r}: expected a weight above 0, got none; the worst answers would earn most")
    return reward
