"""Sampling, learning and pictures of a small model as prompts, answers and pictures become more."""

from __future__ import annotations

import contextlib
import dataclasses
import functools

import numpy as np

from benchmarks.growing.slopes import Axis, Step
from benchmarks.step.checks import random_answers
from benchmarks.step.setup import SEED, Setup, Size, build_messages
from benchmarks.step.sides import learn, sample
from focus_agents.engine.forward import encode_images
from focus_agents.models.attention import set_focus_attention
from focus_env.prompts import TEMPLATES
from focus_env.types import Message

P, G, T = 256, 4, 16
"""Of each size, while another one grows."""
PICTURE_SIDE = 6
"""Of a picture in tokens, while pictures become more."""


@functools.cache
def _model() -> Setup:
    setup = Setup.build(Size(P, G, T))
    set_focus_attention(setup.model)
    return setup


def _setup(size: Size, messages: tuple[Message, ...] | None = None) -> Setup:
    base = _model()
    asked = build_messages(size.prompt_tokens, base.processor, seed=SEED) if messages is None else messages
    return dataclasses.replace(base, size=size, messages=(asked,))


def picture_messages(num_pictures: int, setup: Setup) -> tuple[Message, ...]:
    """Return a prompt with so many pictures of one size, the last of them the query."""
    pixels = PICTURE_SIDE * 2 * setup.processor.image_processor.patch_size
    pictures = np.random.default_rng(SEED).integers(256, size=(num_pictures, pixels, pixels, 3), dtype=np.uint8)
    box = [pixels / 4, pixels / 4, 3 * pixels / 4, 3 * pixels / 4]
    observation = {
        "support_images": tuple(pictures[:-1]),
        "support_boxes": np.array([box] * (num_pictures - 1)),
        "query_image": pictures[-1],
    }
    return tuple(TEMPLATES["compact"].render(observation))  # type: ignore[arg-type]


def _learn(setup: Setup) -> Step:
    prompts = setup.collate(setup.encode())
    token_ids, advantages = random_answers(setup)

    def step() -> None:
        learn(setup, prompts, token_ids, advantages)
        setup.optimizer.zero_grad()

    return step


def _sample(setup: Setup) -> Step:
    prompts = setup.collate(setup.encode())
    return lambda: sample(setup, prompts)


def _pictures(num_pictures: int) -> Setup:
    return _setup(_model().size, picture_messages(num_pictures, _model()))


def _tower(setup: Setup) -> Step:
    prompts = setup.collate(setup.encode())
    return lambda: encode_images(setup.model, prompts)


Stack = contextlib.ExitStack

AXES = (
    Axis(
        "models", "learning from a group", "answers", (2, 4, 8, 16),
        lambda stack, n: _learn(_setup(Size(P, n, T))),
        {"time": (0, 1), "memory": (0, 1)}, "the prompt is there once",
    ),
    Axis(
        "models", "learning from a group", "prompt tokens", (256, 512, 1024),
        lambda stack, n: _learn(_setup(Size(n, G, T))),
        {"time": (1, 2), "memory": (0, 1)}, "attention goes with the square, all else does not; no map is kept",
    ),
    Axis(
        "models", "learning from a group", "answer tokens", (8, 16, 32),
        lambda stack, n: _learn(_setup(Size(P, G, n))),
        {"time": (0, 1), "memory": (0, 1)}, "they stand behind a longer prompt",
    ),
    Axis(
        "models", "learning from a group", "pictures", (2, 4, 8),
        lambda stack, n: _learn(_pictures(n)),
        {"time": (0, 2), "memory": (0, 1)}, "their tokens are most of the prompt",
    ),
    Axis(
        "models", "sampling a group", "answers", (2, 4, 8, 16),
        lambda stack, n: _sample(_setup(Size(P, n, T))),
        {"time": (0, 1), "memory": (0, 1)}, "the prompt is encoded once, and its cache is there once",
    ),
    Axis(
        "models", "sampling a group", "prompt tokens", (256, 512, 1024),
        lambda stack, n: _sample(_setup(Size(n, G, T))),
        {"time": (0, 2), "memory": (0, 1)}, "as in learning; a step of decoding costs hardly more",
    ),
    Axis(
        "models", "sampling a group", "answer tokens", (8, 16, 32),
        lambda stack, n: _sample(_setup(Size(P, G, n))),
        {"time": (0, 1), "memory": (0, 1)}, "each step looks at the prompt, and at few tokens more than the last",
    ),
    Axis(
        "models", "vision tower", "pictures", (2, 4, 8, 16),
        lambda stack, n: _tower(_pictures(n)),
        {"time": (0, 1), "memory": (0, 1)}, "pictures do not see each other",
    ),
    Axis(
        "models", "preparing pictures", "pictures", (2, 4, 8, 16),
        lambda stack, n: _pictures(n).encode,
        {"time": (0, 1)}, "one after the other",
    ),
)  # fmt: skip
