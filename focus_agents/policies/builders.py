"""Build policies with a model or a library behind them. Their imports wait until they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from focus_agents.policies.localizers import Localizer
from focus_agents.rollout.records import Policy
from focus_env.boxes import CoordinateFrame
from focus_env.prompts import PromptTemplate

if TYPE_CHECKING:
    from focus_agents.policies.openai.policy import OpenAIPolicy
    from focus_agents.policies.registry import PolicySpec


def template_match(spec: PolicySpec) -> Localizer:
    """Return the matcher of pixels."""
    from focus_agents.policies.template_match import TemplateMatcher  # here: OpenCV is optional

    return TemplateMatcher()


def match(spec: PolicySpec) -> Localizer:
    """Return the matcher of edges, pixels, colours and features."""
    from focus_agents.policies.match import AppearanceMatcher

    return AppearanceMatcher()


def dino_match(spec: PolicySpec) -> Localizer:
    """Return the matcher of DINO features."""
    from focus_agents.policies.dino_match import DinoMatcher

    return DinoMatcher.from_pretrained(spec.argument, device=spec.device)


def owlv2(spec: PolicySpec) -> Localizer:
    """Return the detector that is shown a picture."""
    from focus_agents.policies.owlv2 import OWLv2Localizer

    return OWLv2Localizer.from_pretrained(spec.argument, device=spec.device)


def vlm(spec: PolicySpec) -> Policy:
    """Return a vision-language model."""
    if spec.engine == "vllm":
        from focus_agents.policies.vllm.named import from_pretrained

        return from_pretrained(
            spec.argument, precision=spec.precision, max_image_tokens=limit(spec), memory=spec.engine_memory
        )
    from focus_agents.policies.focus import FocusPolicy

    policy = FocusPolicy.from_pretrained(
        spec.argument, device=spec.device, precision=spec.precision, max_image_tokens=spec.max_image_tokens
    )
    policy.template = spec.load_template()
    return policy


def check_processor(spec: PolicySpec) -> None:
    """Check a vision-language model before its weights are read."""
    if spec.engine == "vllm":
        from focus_agents.policies.vllm.engine import check_vllm

        check_vllm(spec.argument)
    from focus_agents.models.loading import check_model

    check_model(spec.argument, max_image_tokens=limit(spec))


def template_of_model(spec: PolicySpec) -> PromptTemplate:
    """Return the prompt that a model is asked by."""
    from focus_agents.models.loading import load_template

    frame = None if spec.frame is None else CoordinateFrame(spec.frame)
    return load_template(spec.argument, name=spec.template, frame=frame, max_image_tokens=limit(spec))


def limit(spec: PolicySpec) -> int | None:
    """Return the most tokens of a picture: those asked for, or of the policy's validation; None: the model's limit."""
    from focus_agents.models.pictures import picture_budget

    return picture_budget(spec.argument, validation=spec.max_image_tokens).validation


def openai_api(spec: PolicySpec) -> OpenAIPolicy:
    """Return the client of an endpoint."""
    from focus_agents.policies.openai.policy import OpenAIPolicy  # here: the package openai is optional

    return OpenAIPolicy.from_argument(spec.argument, **spec.api)
