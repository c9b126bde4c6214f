"""Presets of both stages: the one that a command line names, and the picture budgets of the paper."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TypeVar

A = TypeVar("A")

PAPER_TRAINING_PIXELS, PAPER_VALIDATION_PIXELS = 276_480, 2_304_000
"""Most pixels of a picture as the paper's models see it: 0.3 and 2.5 times 1280 * 720."""
PIXELS_PER_TOKEN = 28 * 28
"""Of Qwen2-VL."""
PAPER_TRAINING_TOKENS = PAPER_TRAINING_PIXELS // PIXELS_PER_TOKEN
PAPER_VALIDATION_TOKENS = PAPER_VALIDATION_PIXELS // PIXELS_PER_TOKEN


def preset_of(words: Sequence[str], presets: Mapping[str, A]) -> A:
    """Return the preset that a command line names, the one called "default" where it names none that there is."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="default")
    return presets.get(first.parse_known_args(list(words))[0].preset, presets["default"])
