"""Policies by name: `NAME[:ARGUMENT]`, or one of your own by its import path."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from focus_agents.models.references import absolute_reference, on_base
from focus_agents.models.settings import Engine, Precision
from focus_agents.policies import builders
from focus_agents.policies.localizers import FLOORS, Localizer, LocalizerPolicy
from focus_agents.policies.openai.protocol import hide_credentials
from focus_agents.policies.own import EXPECTED, import_policy, make_policy
from focus_agents.rollout.records import Policy
from focus_env.boxes import CoordinateFrame
from focus_env.importing import NoSuchObjectError
from focus_env.prompts import PromptTemplate, allowing_absent, get_template
from focus_env.registry import Registry

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, kw_only=True)
class PolicySpec:
    """The choice of a policy, as plain data that travels to other processes; `build` makes it there.

    Attributes:
        text: `NAME[:ARGUMENT]` with a name of `POLICIES`, or `package.module:Name[:ARGUMENT]`. That is a class, made
            without arguments or with the text `ARGUMENT`, or an object that is there: a policy (it has `generate`), or
            a localizer, a function from an observation and a random generator to a box.
        template: As for `get_template`, or "native"; None: the one that a model was trained on, else "default".
        frame: Unit of coordinates; None likewise.
        allow_absent: Whether the prompt tells what to answer where the object is not there; one that a model was
            trained on may do so anyway.
        max_image_tokens: Largest picture of a vision-language model; None: as a saved policy was validated, else the
            model's own limit.
        device: Where it computes; "auto": on a GPU where the process that builds it sees one, else on the CPU.
        precision: "bf16" computes in bfloat16.
        engine: What answers for a vision-language model.
        engine_memory: Share of the GPU that the engine vllm may fill.
        api: Further arguments of `OpenAIPolicy`; of no effect on other policies.
    """

    text: str
    template: str | None = None
    frame: CoordinateFrame | None = None
    allow_absent: bool = False
    max_image_tokens: int | None = None
    device: str = "cpu"
    precision: Precision = "fp32"
    engine: Engine = "transformers"
    engine_memory: float = 0.9
    api: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def entry(self) -> PolicyEntry:
        """The policy's entry; that of an import path is made for it."""
        return parse_policy(self.text)[0]

    @property
    def argument(self) -> str:
        """The policy's argument, or its default."""
        return parse_policy(self.text)[1]

    def with_absolute_path(self) -> PolicySpec:
        """Return the spec with its model's folder, if that is one, as an absolute path.

        Other processes may work in another folder.
        """
        entry, argument = parse_policy(self.text)
        if not entry.is_model or "/" not in argument:
            return self
        return dataclasses.replace(self, text=f"{entry.name}:{absolute_reference(argument)}")

    def on_base(self, base: str | None) -> PolicySpec:
        """Return the spec with a base in place of the one that its adapter names; a policy without prompts has none.

        Args:
            base: As a model is named; None: leave the spec as it is.

        Raises:
            CheckpointError: If two bases are given.
        """
        entry, argument = parse_policy(self.text)
        if base is None or not entry.is_model or entry.load_template is None:
            return self
        return dataclasses.replace(self, text=f"{entry.name}:{on_base(argument, base)}")

    def model_digest(self) -> str | None:
        """Return a digest of the model's weights, or its commit on the hub; None if the policy has no model."""
        entry, argument = parse_policy(self.text)
        if not entry.is_model:
            return None
        from focus_agents.models.loading import weights_digest  # here and below: the list of policies needs no torch

        digest = weights_digest(argument)
        return digest and digest[:12]

    def load_template(self) -> PromptTemplate:
        """Return the prompt that the policy is asked with, and the format of its answers.

        Raises:
            ValueError: If there is no such template, or it has no words for an object that is not there.
            CheckpointError: If a model's folder cannot be read.
        """
        template = self._load_words()
        return allowing_absent(template) if self.allow_absent else template

    def _load_words(self) -> PromptTemplate:
        if (load := self.entry.load_template) is not None:
            return load(self)
        template = get_template(self.template or "default")
        if self.frame is not None:
            template = dataclasses.replace(template, frame=CoordinateFrame(self.frame))
        if template.frame is not CoordinateFrame.RESIZED_PIXEL or template.image_to_input_wh is not None:
            return template
        if self.entry.resizes_pictures:
            raise ValueError(
                f"policy {hide_credentials(self.text)!r}: expected another unit than resized_pixel, since the size at "
                "which its model sees a picture is not known here; choose another `frame`, or run it as vlm:MODEL"
            )
        return dataclasses.replace(template, image_to_input_wh=_as_it_is)

    def other_prompt(self) -> str | None:
        """Say how a model is asked otherwise than it was trained, if somebody asks for that; None: not so.

        Raises:
            ValueError, CheckpointError: As `load_template`.
        """
        if self.entry.load_template is None or (self.template is self.frame is None and not self.allow_absent):
            return None
        from focus_agents.models.loading import other_prompt

        return other_prompt(self.argument, self.load_template())

    def build(self) -> Policy:
        """Make the policy; a model is loaded here.

        Raises:
            ValueError: If there is no such policy, or its argument is wrong; the message lists what there is.
            MissingDependencyError: If it needs a package that is not installed.
            CheckpointError: If there is no such model.
        """
        entry, argument = parse_policy(self.text)
        if argument and not entry.syntax:
            raise ValueError(f"policy {self.text!r}: expected {entry.name} alone; {entry.name} takes no argument")
        found: Any = entry.build(self)
        if hasattr(found, "generate"):
            return found
        if not callable(found):
            raise ValueError(f"policy {self.text!r}: expected {EXPECTED}, got {type(found).__name__}")
        return LocalizerPolicy(found, self.load_template())

    def check(self) -> None:
        """Find what can be found wrong without loading a model.

        Raises:
            ValueError: As `build` does, and the other errors that it names.
        """
        self.load_template()
        if (check := self.entry.check) is not None:
            check(self)
        elif not self.entry.is_model:
            self.build()


@dataclass(frozen=True, kw_only=True)
class PolicyEntry:
    """A policy that is known by name.

    Attributes:
        name: As users write it.
        help: A short description without a full stop.
        build: Makes the policy, or a localizer, which becomes one. Packages that not everybody has are imported there.
        syntax: How the argument is written behind the name, such as "[:MODEL]"; "" if there is none.
        default: The argument if the user gives none.
        is_model: Whether the argument is the folder or the hub name of a model, which `build` loads.
        check: Finds what can be found wrong without loading a model; None: `build` itself where it loads none, else
            nothing.
        load_template: Returns the prompt that the policy was trained on; None: "default", or the one that the user
            chooses.
        extra: The extra of this package that brings what `build` imports.
        options: Fields of `PolicySpec` beyond the prompt's that change its answers or where it computes; others are
            without effect.
        describe: Returns what else decides its answers, as plain values by name.
        resizes_pictures: Whether it sees pictures at sizes that only it knows.
    """

    name: str
    help: str
    build: Callable[[PolicySpec], Policy | Localizer]
    syntax: str = ""
    default: str = ""
    is_model: bool = False
    check: Callable[[PolicySpec], object] | None = None
    load_template: Callable[[PolicySpec], PromptTemplate] | None = None
    extra: str | None = None
    options: tuple[str, ...] = ("max_image_tokens", "device", "precision", "engine", "engine_memory", "api")
    describe: Callable[[PolicySpec], Mapping[str, Any]] = lambda spec: {}
    resizes_pictures: bool = False

    @property
    def usage(self) -> str:
        """The name with its argument, as users write both."""
        return self.name + self.syntax

    @property
    def summary(self) -> str:
        """The help, with the default of the argument and the extra that must be installed."""
        default = f"; by default {self.default}" if self.default else ""
        extra = "" if self.extra is None else f"; needs the extra {self.extra}"
        return self.help + default + extra


def _as_it_is(image_wh: tuple[int, int]) -> tuple[int, int]:
    """Return the size at which a policy sees a picture that it does not resize."""
    return image_wh


def parse_policy(text: str) -> tuple[PolicyEntry, str]:
    """Return the entry and the argument of a policy's text.

    A text that begins with no known name is the import path of one's own policy, whose import may still fail.
    """
    name, _, rest = text.partition(":")
    if (entry := POLICIES.find(name)) is not None:
        return entry, rest or entry.default
    attribute, _, argument = rest.partition(":")
    path = f"{name}:{attribute}"

    own = PolicyEntry(
        name=path,
        help="your own",
        build=lambda spec: _named(make_policy, path, argument, text),
        syntax="[:ARGUMENT]",
        check=lambda spec: _named(import_policy, path, text),
        options=(),
    )
    return own, argument


def _named(load: Callable[..., Any], path: str, *arguments: str) -> Any:
    """Return a user's own object; where there is no such module, the message names the policies that there are."""
    text = arguments[-1]
    try:
        return load(path, *arguments)
    except NoSuchObjectError as error:
        near = difflib.get_close_matches(text.partition(":")[0], POLICIES.load_all()[0], n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        # What is wrong with an own policy stands before the long list of the others.
        reason = f" ({hide_credentials(str(error))})" if ":" in text else ""
        raise ValueError(
            f"policy {hide_credentials(text)!r}: no such policy{reason}.{hint} Known are {POLICIES.known()}; your own "
            "by its import path, package.module:Name"
        ) from error


def _floor(spec: PolicySpec) -> Localizer:
    """Return one of `FLOORS`."""
    name = spec.entry.name
    key = f"{name}:{spec.argument}" if spec.argument else name
    if key not in FLOORS:
        known = [floor for floor in FLOORS if floor.partition(":")[0] == name]
        raise ValueError(f"policy {spec.text!r}: expected {' or '.join(known)}")
    return FLOORS[key]


POLICIES: Registry[PolicyEntry] = Registry(
    "policy",
    "focus_agents.policies",
    PolicyEntry,
    [
        PolicyEntry(name="random", build=_floor, options=(), help="a box drawn uniformly"),
        PolicyEntry(name="center", build=_floor, options=(), help="a box in the middle, of the supports' mean size"),
        PolicyEntry(
            name="copy_support",
            build=_floor,
            options=(),
            syntax="[:last|nearest]",
            default="last",
            help="the box of the last support again, or of the one whose picture is most like the query",
        ),
        PolicyEntry(
            name="template_match",
            build=builders.template_match,
            extra="baselines",
            options=(),
            help="the place most like a support's crop, by normalised cross-correlation at several scales",
        ),
        PolicyEntry(
            name="match",
            build=builders.match,
            extra="baselines",
            options=(),
            help="the box that looks most like the support boxes by edges, pixels, colours and features",
        ),
        PolicyEntry(
            name="dino_match",
            build=builders.dino_match,
            options=("device",),
            syntax="[:MODEL]",
            default="facebook/dinov2-small",
            is_model=True,
            help="the patches most like those in the support boxes, to a DINOv2-like backbone",
        ),
        PolicyEntry(
            name="owlv2",
            build=builders.owlv2,
            options=("device",),
            syntax="[:MODEL]",
            default="google/owlv2-base-patch16-ensemble",
            is_model=True,
            help="OWLv2's detection guided by pictures",
        ),
        PolicyEntry(
            name="vlm",
            build=builders.vlm,
            options=("max_image_tokens", "device", "precision", "engine", "engine_memory"),
            syntax="[:MODEL]",
            default="focus-small",
            is_model=True,
            check=builders.check_processor,
            load_template=builders.template_of_model,
            help="a vision-language model in this process",
        ),
        PolicyEntry(
            name="openai_api",
            build=builders.openai_api,
            options=("api",),
            resizes_pictures=True,
            describe=lambda spec: {"endpoint": builders.openai_api(spec).base_url},
            syntax=":MODEL[@URL]",
            extra="api",
            help="a vision-language model behind an OpenAI-compatible endpoint",
        ),
    ],
)
"""The policies that are known by name; installed packages add theirs, see `focus_env.registry`."""


def policies_help() -> str:
    """Return what `--help` says of policies: a line for each of `POLICIES`."""
    return (
        "One of these, or your own as package.module:Name. MODEL is one that comes with the package, a saved policy's "
        f"folder, or a name on the hub, each whole or an adapter.\n{POLICIES.help()}"
    )
