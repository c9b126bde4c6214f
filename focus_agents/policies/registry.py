"""Policies by name: `NAME[:ARG]`, or one of your own by its import path."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from focus_agents.models.loading import Precision, load_processor, load_template, weights_digest
from focus_agents.policies.localizers import FLOORS, LocalizerPolicy
from focus_agents.rollout.records import Policy
from focus_env.boxes import CoordinateFrame
from focus_env.importing import import_object
from focus_env.prompts import PromptTemplate, get_template

POLICIES: Mapping[str, str] = MappingProxyType(
    {
        "random": "a box drawn uniformly",
        "center": "a box in the middle, of the supports' mean size",
        "copy_support": "a support's box again: of the last support (copy_support:last, the default), or of the one "
        "whose picture is most like the query (copy_support:nearest)",
        "template_match": "the place most like a support's crop, by normalised cross-correlation at several scales",
        "dino_match": "the patches most like those in the support boxes, to a DINOv2-like backbone: dino_match:MODEL",
        "owlv2": "OWLv2's detection guided by pictures: owlv2:MODEL",
        "vlm": "a vision-language model in this process: vlm:MODEL, by default focus-small",
        "openai_api": "a vision-language model behind an OpenAI-compatible endpoint: openai_api:MODEL@URL",
    }
)
"""What is known by name. MODEL is a folder, or a name on the hub."""

DEFAULT_MODELS: Mapping[str, str] = MappingProxyType(
    {"vlm": "focus-small", "dino_match": "facebook/dinov2-small", "owlv2": "google/owlv2-base-patch16-ensemble"}
)


@dataclass(frozen=True, kw_only=True)
class PolicySpec:
    """Which policy, as plain data that travels to other processes; `build` makes it there.

    Attributes:
        text: `NAME[:ARG]` with a name of `POLICIES`, or `package.module:Name[:ARG]`. That is a class, made without
            arguments or with the text `ARG`, or an object that is there: a policy (it has `generate`), or a localizer,
            a function from an observation and a random generator to a box.
        template: Name of the prompt; None: the one that a model was trained on, else "default".
        frame: Unit of coordinates; None likewise.
        max_image_tokens: Largest picture of a vision-language model; None: the model's own limit.
        device: Where it computes.
        precision: "bf16" computes in bfloat16.
        api: Further arguments of `OpenAIPolicy`.
    """

    text: str
    template: str | None = None
    frame: Literal["pixel", "norm_1", "norm_100", "norm_1000"] | None = None
    max_image_tokens: int | None = None
    device: str = "cpu"
    precision: Precision = "fp32"
    api: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """What stands before the first colon."""
        return self.text.partition(":")[0]

    @property
    def argument(self) -> str:
        """What stands behind it; of a policy with a model, its default where nothing does."""
        return self.text.partition(":")[2] or DEFAULT_MODELS.get(self.name, "")

    def model_digest(self) -> str | None:
        """Which weights answer: a digest of the model's files; None where there are none, or the hub has them."""
        digest = weights_digest(self.argument) if self.name in DEFAULT_MODELS else None
        return digest and digest[:12]

    def load_template(self) -> PromptTemplate:
        """The prompt that the policy is asked with, and the format of its answers.

        Raises:
            ValueError: If there is no such template.
            CheckpointError: If a model's folder cannot be read.
        """
        frame = None if self.frame is None else CoordinateFrame(self.frame)
        if self.name == "vlm":
            return load_template(self.argument, name=self.template, frame=frame, max_image_tokens=self.max_image_tokens)
        template = get_template(self.template or "default")
        return template if frame is None else dataclasses.replace(template, frame=frame)

    def build(self) -> Policy:
        """Make the policy; a model is loaded here.

        Raises:
            ValueError: If there is no such policy, or its argument is wrong; the message lists what there is.
            MissingDependencyError: If it needs a package that is not installed.
            CheckpointError: If there is no such model.
        """
        builder = _BUILDERS.get(self.name)
        if builder is not None:
            return builder(self)
        found = self._import()
        if isinstance(found, type):
            argument = self.text.partition(":")[2].partition(":")[2]
            found = found(argument) if argument else found()
        if hasattr(found, "generate"):
            return found
        if not callable(found):
            raise ValueError(
                f"policy {self.text!r}: expected an object with a method `generate` (focus_agents.Policy) or a "
                f"function from an observation and a random generator to a box, got {type(found).__name__}"
            )
        return LocalizerPolicy(found, self.load_template())

    def check(self) -> None:
        """Find what can be found wrong without loading a model.

        Raises:
            ValueError: As `build` does, and the other errors that it names.
        """
        self.load_template()
        if self.name not in _BUILDERS:
            self._import()
        elif self.name == "vlm":
            load_processor(self.argument, max_image_tokens=self.max_image_tokens)
        elif self.name not in DEFAULT_MODELS:
            self.build()

    def _import(self) -> Any:
        """A user's own object."""
        module, _, rest = self.text.partition(":")
        try:
            return import_object(f"{module}:{rest.partition(':')[0]}")
        except ValueError as error:
            raise ValueError(_unknown(self.text, str(error))) from error


def _unknown(text: str, reason: str) -> str:
    near = difflib.get_close_matches(text.partition(":")[0], POLICIES, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return (
        f"policy {text!r}: no such policy.{hint} Known are {', '.join(POLICIES)}; your own by its import path, "
        f"package.module:Name ({reason})"
    )


def _floor(spec: PolicySpec) -> Policy:
    """One of `FLOORS`."""
    key = "copy_support:last" if spec.text in ("copy_support", "copy_support:") else spec.text.removesuffix(":")
    if key not in FLOORS:
        known = [name for name in FLOORS if name.partition(":")[0] == spec.name]
        raise ValueError(f"policy {spec.text!r}: expected {' or '.join(known)}")
    return LocalizerPolicy(FLOORS[key], spec.load_template())


def _template_match(spec: PolicySpec) -> Policy:
    from focus_agents.policies.template_match import TemplateMatcher  # here: OpenCV is optional

    if spec.argument:
        raise ValueError(f"policy {spec.text!r}: template_match takes no argument")
    return LocalizerPolicy(TemplateMatcher(), spec.load_template())


def _dino_match(spec: PolicySpec) -> Policy:
    from focus_agents.policies.dino_match import DinoMatcher

    return LocalizerPolicy(DinoMatcher.from_pretrained(spec.argument, device=spec.device), spec.load_template())


def _owlv2(spec: PolicySpec) -> Policy:
    from focus_agents.policies.owlv2 import OWLv2Localizer

    return LocalizerPolicy(OWLv2Localizer.from_pretrained(spec.argument, device=spec.device), spec.load_template())


def _vlm(spec: PolicySpec) -> Policy:
    from focus_agents.policies.focus import FocusPolicy

    policy = FocusPolicy.from_pretrained(
        spec.argument, device=spec.device, precision=spec.precision, max_image_tokens=spec.max_image_tokens
    )
    policy.template = spec.load_template()
    return policy


def _openai_api(spec: PolicySpec) -> Policy:
    from focus_agents.policies.openai.policy import OpenAIPolicy  # here: the package openai is optional

    return OpenAIPolicy.from_spec(spec.text, **spec.api)


_BUILDERS: Mapping[str, Callable[[PolicySpec], Policy]] = MappingProxyType(
    {
        "random": _floor,
        "center": _floor,
        "copy_support": _floor,
        "template_match": _template_match,
        "dino_match": _dino_match,
        "owlv2": _owlv2,
        "vlm": _vlm,
        "openai_api": _openai_api,
    }
)
