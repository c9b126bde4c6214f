"""Arguments that commands share, each group a box of their help, checked before anything expensive starts."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import tyro
import yaml
from annotated_types import Ge, Gt, Le

from focus_agents.cli.data_checks import check_given, check_root, check_shots, check_validation, not_empty
from focus_agents.models.references import absolute_reference, on_base
from focus_agents.models.settings import Engine, Precision
from focus_agents.policies.registry import PolicySpec, policies_help
from focus_agents.settings import Ceiling, Seed, Settings
from focus_env.boxes import CoordinateFrame
from focus_env.datasets import datasets_help, load_dataset
from focus_env.datasets.sampler import AbsentPolicy, BadPolicy, SamplingProtocol
from focus_env.datasets.transforms import ShuffledSupports
from focus_env.errors import DatasetError
from focus_env.prompts import PromptTemplate, spelled_out
from focus_env.regular_files import open_regular
from focus_env.rewards.terms import TERMS, terms_help
from focus_env.rewards.weighted import WeightedReward
from focus_env.types import EpisodeDataset

if TYPE_CHECKING:
    from focus_agents.models.processing import VLMProcessor

DatasetName = Annotated[str, tyro.conf.arg(help=datasets_help())]
PolicyName = Annotated[str, tyro.conf.arg(help=policies_help())]
RewardText = Annotated[str, tyro.conf.arg(help=f"{terms_help()}\nOr a YAML file with a line `term: weight` for each.")]
PolicyNames = Annotated[tuple[str, ...], tyro.conf.arg(help=policies_help())]
TemplateName = Annotated[
    str | None,
    tyro.conf.arg(
        help="Prompt wording: questions (that of the small models), compact (few words), default (full sentences), "
        "thinking (the same, thoughts first), iploc (a baseline that names the object); native (the form in which the "
        "model's family writes boxes); that of a published policy or a family, see docs/templates.md; or your own: a "
        "YAML, JSON or TOML file, or package.module:NAME. Default: the one that a model was trained on, else full "
        "sentences."
    ),
]
FrameName = Annotated[
    CoordinateFrame | None,
    tyro.conf.arg(
        help="Unit in which boxes are written; default: the template's where it has one of its own, else the one that "
        "a model was trained on, else its family's."
    ),
]


@dataclass(frozen=True, kw_only=True)
class DataArguments(Settings):
    """Which episodes."""

    dataset: DatasetName = "synthetic"
    data_root: Path | None = None
    """Folder of a data set on disk, the one that holds its splits; iploc_json: the file; several data sets: a folder
    with one for each, by its name."""
    image_root: Path | None = None
    """Folder of the pictures that an iploc_json names."""
    split: str = "train"
    """Split to use."""
    protocol: SamplingProtocol = "random"
    """How episodes are cut from videos: random frames, or focus and iploc, as these papers evaluate."""
    episodes_per_track: Annotated[int, Ge(1)] | None = None
    """Random episodes of each track; default: 100."""
    min_gap: Annotated[int, Ge(1)] = 1
    """Least distance of two frames of a random episode, in frames that show the object."""
    absent: AbsentPolicy = "skip"
    """Frames of videos without the object: skip them, keep them as queries, or go to the nearest that shows it."""
    on_bad: BadPolicy = "raise"
    """A track or picture that cannot be read is an error, or is left out and counted."""
    max_pixels: Annotated[int, Ge(1)] | None = None
    """Most pixels of a picture; larger ones are decoded smaller, which is faster. Default: as they are."""
    level: int = 3
    """Difficulty of synthetic scenes, from 1 (one object) to 5 (many, occluded); 3 has four objects."""
    num_objects: int | None = None
    """Objects in each synthetic picture, the target included; default: as the level has it."""
    distractors: Literal["near", "same_shape", "any"] = "any"
    """What synthetic scenes show beside the target from level 2 on: any objects in other paints, objects of its shape
    in other paints, or (near) objects almost like it, by far the hardest."""
    shuffle_supports: bool = False
    """Show the supports of other episodes, a control that shows what can be earned without them."""
    image_size: Annotated[int, Ceiling(4096)] = 64
    """Side of synthetic pictures in pixels."""
    data_seed: Seed = 0
    """Seed of the data set."""

    def load(self, *, shots: int) -> EpisodeDataset:
        """Load the episodes.

        Args:
            shots: Supports per episode.

        Raises:
            ValueError: If an argument is out of its range, or no episode is left.
            DatasetError: If files are missing or malformed.
        """
        check_root(self)
        options: dict[str, Any] = {}
        if "synthetic" in self.dataset:
            options |= {name: getattr(self, name) for name in ("level", "image_size", "num_objects", "distractors")}
        # Those of tracks and files, where they differ from what these do by themselves.
        if self.image_root is not None:
            options["image_root"] = self.image_root
        if self.on_bad != "raise":
            options["on_bad"] = self.on_bad
        if self.protocol == "random" and self.episodes_per_track is not None:
            options["episodes_per_track"] = self.episodes_per_track
        if self.protocol == "random" and self.min_gap != 1:
            options["min_gap"] = self.min_gap
        loaded = load_dataset(
            self.dataset,
            split=self.split,
            root=None if self.data_root is None else Path(os.path.realpath(os.path.expanduser(self.data_root))),
            shots=shots,
            seed=self.data_seed,
            protocol=self.protocol,
            absent=self.absent,
            max_pixels=self.max_pixels,
            **options,
        )
        episodes = not_empty(loaded, self.split)
        return ShuffledSupports(episodes) if self.shuffle_supports else episodes

    def check_given(self, given: Collection[str]) -> None:
        """Refuse flags of a command line that have no effect; see `focus_agents.cli.data_checks`."""
        check_given(self, given)


@dataclass(frozen=True, kw_only=True)
class TrainingDataArguments(DataArguments):
    """Which episodes to train and to validate on."""

    shots: Annotated[int, Ceiling(256)] = 4
    """Support pictures per episode, at least 1."""
    validation_root: Path | None = None
    """--data-root of validation; default: the same. A store is one split, so it needs another."""
    validation_split: str = "val"
    """Split to validate on."""

    def load_training(self) -> EpisodeDataset:
        """Load the episodes to train on."""
        episodes = self.load(shots=self.shots)
        check_shots(self, episodes, default=type(self).shots)
        return episodes

    def check_places(self) -> None:
        """See that there is something at the paths that are given, before large libraries are imported.

        Raises:
            ValueError: If not.
        """
        for name in ("data_root", "validation_root", "image_root"):
            if (path := getattr(self, name)) is not None and not path.exists():
                raise ValueError(f"{name}: expected a path at which there is something, got {path}; correct the path")

    def load_validation(self) -> EpisodeDataset:
        """Load the episodes to validate on: those of the paper's protocols, with their own supports.

        Raises:
            ValueError: If they would be those to train on.
            DatasetError: As `load` does.
        """
        check_validation(self)
        validation = dataclasses.replace(
            self,
            split=self.validation_split,
            data_root=self.validation_root or self.data_root,
            protocol="iploc" if self.protocol == "iploc" else "focus",
            shuffle_supports=False,
        )
        try:
            return validation.load(shots=self.shots)
        except DatasetError as error:
            if self.validation_root is None:
                raise
            raise DatasetError(str(error).replace("`root`", "`validation_root`")) from error


@dataclass(frozen=True, kw_only=True)
class ModelArguments(Settings):
    """Which model, and how it is asked."""

    model: str = "focus-small"
    """Model: focus-small-base, focus-small-sft, focus-small-grpo or focus-small, the best of these (they come with the
    package); tiny or small (new weights); a saved policy's folder; or a name on the hub, with @REVISION if not the
    newest. An adapter in PEFT's format goes by its folder or name, one of several with :NAME behind it."""
    init_from: Path | None = None
    """Policy to start from, e.g. runs/my-sft/checkpoints/final; stands in for --model."""
    base_model: str | None = None
    """Model below the adapter that --model or --init-from names; default: the one that the adapter names."""
    template: TemplateName = None
    frame: FrameName = None
    max_image_tokens: Annotated[int, Ge(1)] | None = None
    """Most tokens per picture, larger ones are scaled down; default: what the model's image processor says."""

    @property
    def source(self) -> str:
        """What `load_model` is given; folders by their absolute path, since other processes may work elsewhere."""
        if self.init_from is None:
            return self.model if self.base_model is None else absolute_reference(on_base(self.model, self.base_model))
        return absolute_reference(on_base(os.path.expanduser(self.init_from), self.base_model))

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
        """Load the prompt template."""
        from focus_agents.models.loading import load_template

        return load_template(
            self.source,
            name=self.template,
            frame=None if self.frame is None else CoordinateFrame(self.frame),
            max_image_tokens=self.max_image_tokens,
        )

    def load_processor(self) -> VLMProcessor:
        """Load the model's processor, with the picture budget set."""
        from focus_agents.models.loading import load_processor

        return load_processor(self.source, max_image_tokens=self.max_image_tokens)


@dataclass(frozen=True, kw_only=True)
class PolicyArguments(Settings):
    """How a policy is asked, and where it computes."""

    template: TemplateName = None
    frame: FrameName = None
    max_image_tokens: Annotated[int, Ge(1)] | None = None
    """Most tokens per picture of a vlm, larger ones are scaled down; default: what its image processor says."""
    base_model: str | None = None
    """Model below the adapter that a policy names; default: the one that the adapter names."""
    device: str = "cpu"
    """Where to compute, e.g. cuda."""
    precision: Precision = "fp32"
    """bf16 computes in bfloat16."""
    engine: Engine = "transformers"
    """What answers for a vlm: transformers, or vllm, which needs the extra vllm and a GPU."""
    engine_memory: Annotated[float, Gt(0), Le(1)] = 0.9
    """Share of the GPU that vllm may fill."""
    api_concurrency: Annotated[int, Ge(1), Ceiling(4096)] = 8
    """Requests to an openai_api at a time, of each process."""
    api_timeout: Annotated[float, Gt(0)] = 120.0
    """Seconds after which a request to it is given up."""
    api_retries: Annotated[int, Ge(0)] = 3
    """How often a request to it is repeated."""
    api_token_budget: Annotated[int, Ge(1), Ceiling(2**63 - 1)] | None = None
    """Tokens after which a process asks it no more, and further answers fail; default: no limit."""
    api_cache: Path | None = None
    """Folder in which its answers are kept, so that no question is paid for twice; default: none."""

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
        if self.device == "cpu":
            return
        import torch

        if not torch.cuda.is_available():
            raise ValueError(
                f"--device {self.device}: this machine has no CUDA device that torch can use; leave it out"
            )


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
        raise ValueError(f"reward {text}: expected YAML, got {error}") from error
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    if not pairs or not all(isinstance(part, yaml.ScalarNode) for pair in pairs for part in pair):
        raise ValueError(f"reward {text}: expected lines such as 'iou: 1' and 'iou_at(0.5): 0.5', got something else")
    terms = [term.value for term, _ in pairs]
    if twice := sorted({term for term in terms if terms.count(term) > 1}):
        raise ValueError(f"reward {text}: the term {twice[0]!r} stands twice; give it one weight")
    try:
        return _worth_something(WeightedReward.from_mapping({term.value: weight.value for term, weight in pairs}), text)
    except ValueError as error:
        raise ValueError(f"{text}: {error}") from error


def _worth_something(reward: WeightedReward, text: str) -> WeightedReward:
    """The reward, if an answer can earn anything by it."""
    if all(weight == 0 for _, weight in reward.terms.values()):
        raise ValueError(f"reward {text!r}: expected a weight other than 0, got none; nothing can be learned from it")
    if all(name.partition("(")[0] in TERMS.built_in and weight <= 0 for name, (_, weight) in reward.terms.items()):
        raise ValueError(f"reward {text!r}: expected a weight above 0, got none; the worst answers would earn most")
    return reward
