"""Choose the policy of a search: the one that you name, or the best one for your pictures that needs no download."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from focus_agents.finding.wanted import Wanted
from focus_agents.policies.localizers import LocalizerPolicy
from focus_agents.policies.registry import PolicySpec
from focus_agents.rollout.records import Policy
from focus_env.boxes import CoordinateFrame
from focus_env.prompts import PromptTemplate, allowing_absent, describe_template, get_template

SMALL_WH = (64, 64)
"""The pictures that the model of this package was trained on."""
RECOMMENDED = "vlm:Qwen/Qwen3-VL-4B-Instruct"
"""A model from the hub, for machines with a GPU."""
UNROUNDED = "[{x1!r}, {y1!r}, {x2!r}, {y2!r}]"


@dataclass(frozen=True)
class Choice:
    """A policy and the reason to take it.

    Attributes:
        text: The policy's name with its argument.
        reason: A clause for people.
    """

    text: str
    reason: str


def choose_policy(wanted: Sequence[Wanted]) -> Choice:
    """Return the policy that is best for the pictures at hand, among those that need no download.

    Args:
        wanted: The objects to find.
    """
    sizes = {(image.shape[1], image.shape[0]) for one in wanted for image, _ in one.supports}
    if sizes == {SMALL_WH}:
        return Choice("vlm:focus-small", "trained on scenes of 64 x 64 pixels, as these supports are")
    return Choice(
        "match",
        f"the best on real frames of those that need no download; {RECOMMENDED} is a larger model, to download",
    )


def template_of(
    policy: PolicySpec | Policy, *, template: PromptTemplate | None = None, allow_absent: bool = False
) -> PromptTemplate:
    """Return the prompt of a policy's questions, before a model is loaded.

    Args:
        policy: A spec, or an object with `generate`.
        template: The prompt for an object; None: the object's own prompt, else "default".
        allow_absent: Whether the prompt says what to answer where the object is absent.

    Raises:
        ValueError: If the prompt has no words for an absent object, or is given beside a spec.
        CheckpointError: If a model's folder cannot be read.
    """
    if isinstance(policy, PolicySpec):
        if template is not None:
            raise ValueError("template: expected None beside a policy's name; pass a PolicySpec with its `template`")
        words = policy.load_template()
    else:
        words = template or getattr(policy, "template", None) or get_template("default")
    return allowing_absent(words) if allow_absent else words


def describe_policy(policy: PolicySpec | Policy, template: PromptTemplate) -> Mapping[str, Any]:
    """Return all that decides a policy's answers, as plain values."""
    asked = {"asked": f"{describe_template(template)}", "allow_absent": template.allow_absent}
    if not isinstance(policy, PolicySpec):
        return {"policy": f"{type(policy).__module__}.{type(policy).__qualname__}", **asked}
    from focus_agents.policies.identity import identity  # here and below: a command line is read without torch

    return {**identity(policy), **asked}


def make_policy(policy: PolicySpec | Policy, template: PromptTemplate) -> tuple[Policy, PromptTemplate]:
    """Make a policy that answers about many pictures: a model encodes supports once.

    Args:
        policy: A spec, or an object with `generate`.
        template: The prompt that `template_of` returns.

    Returns:
        (The policy, the prompt of its questions).

    Raises:
        ValueError: If there is no such policy.
        CheckpointError: If there is no such model.
        MissingDependencyError: If a package is not installed.
    """
    built = policy.build() if isinstance(policy, PolicySpec) else policy
    if type(built) is LocalizerPolicy:
        # What looks at boxes rather than at words writes its very box, rounded to no unit.
        if template.has_plain_answers:
            template = dataclasses.replace(template, frame=CoordinateFrame.PIXEL, box_text=UNROUNDED)
        return LocalizerPolicy(built.localizer, template), template
    from focus_agents.policies.vlm import VLMPolicy

    if not isinstance(built, VLMPolicy):
        return built, template
    from focus_agents.policies.reuse import ReusingPolicy

    return ReusingPolicy(built), built.processor.fit_template(template)
