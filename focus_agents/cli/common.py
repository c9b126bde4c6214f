"""Arguments that commands share, each group a box of their help, checked before anything expensive starts."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import tyro
from annotated_types import Ge, Gt, Le

from focus_agents.models.references import absolute_reference, check_place, on_base
from focus_agents.models.settings import Engine, Precision
from focus_agents.policies.registry import PolicySpec, policies_help
from focus_agents.settings import Ceiling, Settings
from focus_env.boxes import CoordinateFrame
from focus_env.prompts import PromptTemplate, allowing_absent, spelled_out
from focus_env.rewards.terms import terms_help

if TYPE_CHECKING:
    from focus_agents.models.pictures import PictureBudget
    from focus_agents.models.processing import VLMProcessor

PolicyName = Annotated[str, tyro.conf.arg(help=policies_help())]
RewardText = Annotated[str, tyro.conf.arg(help=f"{terms_help()}\nOr a YAML file with a line `term: weight` for each.")]
PolicyNames = Annotated[tuple[str, ...], tyro.conf.arg(help=policies_help())]
TemplateName = Annotated[
    str | None,
    tyro.conf.arg(
        help="Prompt wording: questions (that of the small models), compact (few words), default (full sentences), "
        "thinking (the same, thoughts first), iploc (a baseline that names the object); native (the form in which the "
        "model's family writes boxes); that of a published policy or a family, see docs/templates.md; or your own: a "
        "YAML, JSON or TOML file, or package.module:NAME. None: the one that a model was trained on, else full "
        "sentences."
    ),
]
FrameName = Annotated[
    CoordinateFrame | None,
    tyro.conf.arg(
        help="Unit in which boxes are written; None: the template's where it has one of its own, else the one that "
        "a model was trained on, else its family's."
    ),
]


@dataclass(frozen=True, kw_only=True)
class ModelArguments(Settings):
    """The model, and the way in which it is asked."""

    model: str = "focus-small"
    """Model: focus-small-base, focus-small-base-how, focus-small-base-more, focus-small-start, focus-small-sft,
    focus-small-mixed, focus-small-grpo or focus-small, which is the last (they come with the package); tiny or small
    (new weights); a saved policy's folder; or a name on the hub, with @REVISION if not the newest.
    An adapter in PEFT's format goes by its folder or name, one of several with :NAME behind it."""
    init_from: Path | None = None
    """Policy to start from, e.g. runs/my-sft/checkpoints/final; replaces --model."""
    base_model: str | None = None
    """Base model of the adapter in --model or --init-from; None: the base that the adapter names."""
    template: TemplateName = None
    frame: FrameName = None
    allow_absent: bool = False
    """Tell the model in the prompt what to answer if the object is absent. A model that was trained with this flag is
    always told."""
    max_image_tokens: Annotated[int, Ge(1)] | None = None
    """Most tokens per image; larger images are scaled down. None: as in the folder of a saved policy, else the limit of
    the model's image processor."""
    validation_max_image_tokens: Annotated[int, Ge(1)] | None = None
    """Most tokens per image in validation; None: as in the folder of a saved policy, else as in training."""

    @property
    def source(self) -> str:
        """The text that `load_model` is given; folders by their absolute path, for processes that work elsewhere."""
        given = self.model if self.init_from is None else os.path.expanduser(self.init_from)
        return absolute_reference(on_base(given, self.base_model))

    def check_place(self) -> None:
        """Check that a model that can only be a folder is one; nothing large is imported for that.

        Raises:
            CheckpointError: If there is no such folder.
        """
        check_place(self.source)

    def pinned(self) -> Self:
        """Return the same with the commits that names on the hub stand for now.

        All processes then load the same weights, and so does whoever goes on with the run.

        Raises:
            CheckpointError: If there is no such model.
        """
        from focus_agents.models.loading import pin  # here and below: a command line is read without torch

        if self.init_from is None:
            return dataclasses.replace(self, model=pin(on_base(self.model, self.base_model)), base_model=None)
        text = pin(on_base(os.path.expanduser(self.init_from), self.base_model))
        return dataclasses.replace(self, init_from=Path(text), base_model=None)

    def describe_newer(self) -> list[str]:
        """Say which models have moved on the hub since their commit was noted, a sentence for each."""
        from focus_agents.models.loading import newer_commits

        return [
            f"{name} is at commit {commit} on the hub by now; the run goes on with the one that it was started with"
            for name, commit in newer_commits(self.source).items()
        ]

    def with_words(self) -> Self:
        """Return the arguments with the words of a template of one's own in place of its file or module.

        A run that is gone on with has them, whatever has become of the file.

        Raises:
            ValueError: If there is no such template.
            MissingDependencyError: If it is YAML, and PyYAML is not installed.
        """
        return dataclasses.replace(self, template=spelled_out(self.template))

    def load_template(self) -> PromptTemplate:
        """Load the prompt template.

        Raises:
            ValueError: If there is none of that name, or it has no words for an object that is not there.
            CheckpointError: If the model's folder cannot be read.
        """
        from focus_agents.models.loading import load_template

        template = load_template(
            self.source,
            name=self.template,
            frame=None if self.frame is None else CoordinateFrame(self.frame),
            max_image_tokens=self.pictures.training,
        )
        return allowing_absent(template) if self.allow_absent else template

    @property
    def pictures(self) -> PictureBudget:
        """How large the model sees pictures."""
        from focus_agents.models.pictures import picture_budget

        return picture_budget(self.source, training=self.max_image_tokens, validation=self.validation_max_image_tokens)

    def load_processor(self) -> VLMProcessor:
        """Load the model's processor, with the picture budget of training set."""
        from focus_agents.models.loading import load_processor

        return load_processor(self.source, max_image_tokens=self.pictures.training)


@dataclass(frozen=True, kw_only=True)
class PolicyArguments(Settings):
    """The way in which a policy is asked, and the place where it computes."""

    template: TemplateName = None
    frame: FrameName = None
    allow_absent: bool = False
    """Tell a model in the prompt what to answer if the object is absent. A model that was trained with this flag is
    always told."""
    max_image_tokens: Annotated[int, Ge(1)] | None = None
    """Most tokens per image of a vlm; larger images are scaled down. None: as in the validation of a saved policy, else
    the limit of the model's image processor."""
    base_model: str | None = None
    """Base model of the adapter in a policy; None: the base that the adapter names."""
    device: str = "auto"
    """Device to compute on: cpu, cuda, cuda:1; auto takes a GPU if there is one, and prints the choice."""
    precision: Precision = "fp32"
    """bf16 computes in bfloat16."""
    engine: Engine = "transformers"
    """Engine of a vlm: transformers, or vllm, which needs the extra vllm and a GPU."""
    engine_memory: Annotated[float, Gt(0), Le(1)] = 0.9
    """Fraction of the GPU that vllm may fill."""
    api_concurrency: Annotated[int, Ge(1), Ceiling(4096)] = 8
    """Requests at a time that each process sends to an openai_api."""
    api_timeout: Annotated[float, Gt(0)] = 120.0
    """Seconds after which a request to an openai_api is given up."""
    api_retries: Annotated[int, Ge(0)] = 3
    """How often a request to an openai_api is repeated."""
    api_token_budget: Annotated[int, Ge(1), Ceiling(2**63 - 1)] | None = None
    """Tokens after which a process stops asking an openai_api, and further answers fail; None: no limit."""
    api_cache: Path | None = None
    """Folder for the answers of an openai_api, so that you pay for no question twice; None: keep no answers."""

    def spec(self, text: str) -> PolicySpec:
        """Return a policy with these options; a folder by its absolute path, since other processes may work elsewhere.

        Raises:
            ValueError: If there is no such policy, or an option is wrong.
            FocusError: If its model or a package is missing.
        """
        api = {
            "num_concurrent": self.api_concurrency,
            "timeout_s": self.api_timeout,
            "max_retries": self.api_retries,
            "token_budget": self.api_token_budget,
            "cache_dir": self.api_cache,
        }
        spec = PolicySpec(
            text=text,
            template=spelled_out(self.template),
            frame=self.frame,
            allow_absent=self.allow_absent,
            max_image_tokens=self.max_image_tokens,
            device=self.device,
            precision=self.precision,
            engine=self.engine,
            engine_memory=self.engine_memory,
            api=api,
        )
        spec = spec.on_base(self.base_model).with_absolute_path()
        spec.check()
        return spec

    def check_device(self) -> None:
        """See that this process can compute where it is asked to.

        Raises:
            ValueError: If not.
        """
        if self.device in ("auto", "cpu"):
            return
        import torch

        kind, _, index = self.device.partition(":")
        if kind != "cuda" or (index and not index.isdecimal()):
            raise ValueError(f"device: expected auto, cpu, cuda or cuda:1 and the like, got {self.device!r}")
        if not torch.cuda.is_available():
            raise ValueError(
                f"--device {self.device}: this machine has no CUDA device that torch can use; leave it out"
            )
        if int(index or 0) >= torch.cuda.device_count():
            raise ValueError(
                f"--device {self.device}: this machine has {torch.cuda.device_count()} CUDA devices, from cuda:0 on"
            )
