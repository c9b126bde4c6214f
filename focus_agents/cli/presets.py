"""Presets of both stages: the preset that a command line names, and the settings that the paper's stages share."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TypeVar

from focus_agents.cli.common import ModelArguments
from focus_agents.cli.data_arguments import TrainingDataArguments
from focus_agents.models.settings import FinetuningSettings

A = TypeVar("A")

PAPER_TRAINING_PIXELS, PAPER_VALIDATION_PIXELS = 276_480, 2_304_000
"""Most pixels of a picture as the paper's models see it: 0.3 and 2.5 times 1280 * 720."""
PIXELS_PER_TOKEN = 28 * 28
"""Of Qwen2-VL."""
PAPER_TRAINING_TOKENS = PAPER_TRAINING_PIXELS // PIXELS_PER_TOKEN
PAPER_VALIDATION_TOKENS = PAPER_VALIDATION_PIXELS // PIXELS_PER_TOKEN

PAPER_DATA = TrainingDataArguments(shots=4, protocol="focus")
PAPER_MODEL = ModelArguments(
    model="Qwen/Qwen2-VL-7B-Instruct",
    template="default",
    max_image_tokens=PAPER_TRAINING_TOKENS,
    validation_max_image_tokens=PAPER_VALIDATION_TOKENS,
)
# An episode of 5 pictures, or a group of 4 answers to one, fits beside the base without checkpointing.
PAPER_FINETUNING = FinetuningSettings(lora_rank=8, lora_alpha=16, precision="bf16", gradient_checkpointing=False)


def preset_of(words: Sequence[str], presets: Mapping[str, A]) -> A:
    """Return the preset that a command line names, the one called "default" where it names none that there is."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="default")
    return presets.get(first.parse_known_args(list(words))[0].preset, presets["default"])
