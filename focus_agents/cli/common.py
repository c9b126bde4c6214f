"""Arguments that commands share, each group a box of their help, checked before anything expensive starts."""

from __future__ import annotations

import dataclasses
import datetime
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import ray
import torch
import tyro
import yaml
from annotated_types import Ge
from rich.console import Console

from focus_agents.cli.errors import print_warning
from focus_agents.models.loading import Precision, load_processor, load_template
from focus_agents.models.processing import VLMProcessor
from focus_agents.policies.registry import PolicySpec, policies_help
from focus_agents.runs.folder import RunDirectory
from focus_agents.settings import Settings
from focus_env.boxes import CoordinateFrame
from focus_env.datasets import datasets_help, load_dataset
from focus_env.datasets.sampler import AbsentPolicy, BadPolicy, SamplingProtocol
from focus_env.datasets.transforms import ShuffledSupports
from focus_env.prompts import PromptTemplate
from focus_env.rewards.terms import terms_help
from focus_env.rewards.weighted import WeightedReward
from focus_env.types import EpisodeDataset

DatasetName = Annotated[str, tyro.conf.arg(help=datasets_help())]
PolicyName = Annotated[str, tyro.conf.arg(help=policies_help())]
RewardText = Annotated[str, tyro.conf.arg(help=f"{terms_help()}\nOr a YAML file with a line `term: weight` for each.")]
PolicyNames = Annotated[tuple[str, ...], tyro.conf.arg(help=policies_help())]
TemplateName = Annotated[
    str | None,
    tyro.conf.arg(
        help="Prompt wording: questions (that of the small models), compact (few words), default (full sentences), or "
        "iploc (a baseline that names the object); default: the one that a model was trained on, else full sentences."
    ),
]
FrameName = Annotated[
    CoordinateFrame | None,
    tyro.conf.arg(
        help="Unit in which boxes are written; default: the one that a model was trained on, else its family's."
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
    min_gap: int = 1
    """Least distance of two frames of a random episode, in frames that show the object."""
    absent: AbsentPolicy = "skip"
    """Frames of videos without the object: skip them, keep them as queries, or go to the nearest that shows it."""
    on_bad: BadPolicy = "raise"
    """A track or picture that cannot be read is an error, or is left out and counted."""
    max_pixels: int | None = None
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
    image_size: int = 64
    """Side of synthetic pictures in pixels."""
    data_seed: int = 0
    """Seed of the data set."""

    def load(self, *, shots: int) -> EpisodeDataset:
        """Load the episodes.

        Args:
            shots: Supports per episode.

        Raises:
            ValueError: If an argument is out of its range, or no episode is left.
            DatasetError: If files are missing or malformed.
        """
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
            root=None if self.data_root is None else self.data_root.expanduser().resolve(),
            shots=shots,
            seed=self.data_seed,
            protocol=self.protocol,
            absent=self.absent,
            max_pixels=self.max_pixels,
            **options,
        )
        episodes = _not_empty(loaded, self.split)
        return ShuffledSupports(episodes) if self.shuffle_supports else episodes


@dataclass(frozen=True, kw_only=True)
class TrainingDataArguments(DataArguments):
    """Which episodes to train and to validate on."""

    shots: int = 4
    """Support pictures per episode, at least 1."""
    validation_root: Path | None = None
    """--data-root of validation; default: the same. A store is one split, so it needs another."""
    validation_split: str = "val"
    """Split to validate on."""

    def load_training(self) -> EpisodeDataset:
        """Load the episodes to train on."""
        return self.load(shots=self.shots)

    def load_validation(self) -> EpisodeDataset:
        """Load the episodes to validate on: those of the paper's protocols, with their own supports."""
        validation = dataclasses.replace(
            self,
            split=self.validation_split,
            data_root=self.validation_root or self.data_root,
            protocol="iploc" if self.protocol == "iploc" else "focus",
            shuffle_supports=False,
        )
        return validation.load(shots=self.shots)


@dataclass(frozen=True, kw_only=True)
class ModelArguments(Settings):
    """Which model, and how it is asked."""

    model: str = "focus-small"
    """Model: focus-small-base, focus-small-sft, focus-small-grpo or focus-small, the best of these (they come with the
    package); tiny or small (new weights); a saved policy's folder; or a name on the hub."""
    init_from: Path | None = None
    """Folder of a policy to start from, e.g. runs/my-sft/checkpoints/final; stands in for --model."""
    template: TemplateName = None
    frame: FrameName = None
    max_image_tokens: int | None = None
    """Most tokens per picture, larger ones are scaled down; default: what the model's image processor says."""

    @property
    def source(self) -> str:
        """What `load_model` is given; a folder by its absolute path, since other processes may work elsewhere."""
        return self.model if self.init_from is None else str(self.init_from.expanduser().resolve())

    def load_template(self) -> PromptTemplate:
        """Load the prompt template."""
        return load_template(
            self.source,
            name=self.template,
            frame=None if self.frame is None else CoordinateFrame(self.frame),
            max_image_tokens=self.max_image_tokens,
        )

    def load_processor(self) -> VLMProcessor:
        """Load the model's processor, with the picture budget set."""
        return load_processor(self.source, max_image_tokens=self.max_image_tokens)


@dataclass(frozen=True, kw_only=True)
class PolicyArguments(Settings):
    """How a policy is asked, and where it computes."""

    template: TemplateName = None
    frame: FrameName = None
    max_image_tokens: int | None = None
    """Most tokens per picture of a vlm, larger ones are scaled down; default: what its image processor says."""
    device: str = "cpu"
    """Where to compute, e.g. cuda."""
    precision: Precision = "fp32"
    """bf16 computes in bfloat16."""
    api_concurrency: int = 8
    """Requests to an openai_api at a time, of each process."""
    api_timeout: float = 120.0
    """Seconds after which a request to it is given up."""
    api_retries: int = 3
    """How often a request to it is repeated."""
    api_token_budget: int | None = None
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
            template=self.template,
            frame=self.frame,
            max_image_tokens=self.max_image_tokens,
            device=self.device,
            precision=self.precision,
            api=api,
        ).with_absolute_path()
        spec.check()
        return spec

    def check_device(self) -> None:
        """See that this process can compute where it is asked to.

        Raises:
            ValueError: If not.
        """
        if self.device != "cpu" and not torch.cuda.is_available():
            raise ValueError(
                f"--device {self.device}: this machine has no CUDA device that torch can use; leave it out"
            )


@dataclass(frozen=True, kw_only=True)
class RunArguments(Settings):
    """Where the run's folder is."""

    name: str | None = None
    """Name of the run's folder; default: the command and the time of the start."""
    output_dir: Path = Path("runs")
    """Where run folders go."""
    resume: Path | None = None
    """Folder of an interrupted run to go on with, with that run's own arguments; all but the cluster's are ignored."""

    def path(self, prefix: str) -> Path:
        """Return the run's folder: the one to go on with, by its name, or by the time at which it starts."""
        return self.resume or run_path(self.output_dir, self.name, prefix)

    def open(self, path: Path, arguments: Mapping[str, Any], *used: Any) -> RunDirectory:
        """Open the folder to go on with, or make a new one; `used` are objects that may be a user's own code.

        Raises:
            ValueError, OSError, CheckpointError: As `RunDirectory.open` does.
        """
        is_resumed = self.resume is not None
        return RunDirectory.open(path, arguments, is_resumed=is_resumed, used=used, warn=print_warning)


@dataclass(frozen=True, kw_only=True)
class RayArguments(Settings):
    """Where Ray runs."""

    ray_address: str | None = None
    """Ray cluster to join, e.g. auto; default: start Ray on this machine."""
    dashboard: bool = True
    """Serve the Ray dashboard, if this run starts Ray."""

    def start_ray(self, *, num_processes: int, console: Console) -> None:
        """Join the cluster, or start Ray with a CPU for each of the run's processes; on a small machine they share."""
        if self.ray_address is not None:
            ray.init(address=self.ray_address)
            return
        num_cpus = max(os.cpu_count() or 1, 1 + num_processes)
        context = ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=self.dashboard,
            logging_level="ERROR",
            log_to_driver=False,
        )
        if self.dashboard:
            console.print(f"dashboard: http://{context.dashboard_url}", highlight=False, markup=False)


def load_reward(text: str) -> WeightedReward:
    """Read a reward: text as `WeightedReward.from_spec` has it, or a YAML file with a line ``term: weight`` for each.

    Args:
        text: As ``"iou:1,format:0.5"``, or the path of a file that ends with .yaml or .yml.

    Raises:
        ValueError: If a term or weight is wrong, or the file is not such a mapping.
        OSError: If the file cannot be read.
    """
    path = Path(text).expanduser()
    if path.suffix not in (".yaml", ".yml"):
        return WeightedReward.from_spec(text)
    try:
        # Composed, not loaded: loading keeps the last of two equal terms in silence, and reads 1e-3 as a text.
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"reward {text}: expected YAML, got {error}") from error
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    if not pairs or not all(isinstance(part, yaml.ScalarNode) for pair in pairs for part in pair):
        raise ValueError(f"reward {text}: expected lines such as 'iou: 1' and 'iou_at(0.5): 0.5', got something else")
    terms = [term.value for term, _ in pairs]
    if twice := sorted({term for term in terms if terms.count(term) > 1}):
        raise ValueError(f"reward {text}: the term {twice[0]!r} stands twice; give it one weight")
    try:
        return WeightedReward.from_mapping({term.value: weight.value for term, weight in pairs})
    except ValueError as error:
        raise ValueError(f"{text}: {error}") from error


def run_path(output_dir: Path, name: str | None, prefix: str) -> Path:
    """Folder of a run: by its name, or by the time at which it starts."""
    return output_dir / (name or f"{prefix}-{datetime.datetime.now():%Y%m%d-%H%M%S}")


def _not_empty(episodes: EpisodeDataset, split: str) -> EpisodeDataset:
    """The episodes, if there are any; what was left out is said, never silent."""
    skipped = ", ".join(f"{reason}: {count}" for reason, count in getattr(episodes, "skipped", {}).items())
    if len(episodes) == 0:
        raise ValueError(
            f"split {split!r} has no episode with these arguments; fewer --shots need fewer frames. "
            f"Skipped: {skipped or 'nothing'}"
        )
    if skipped:
        print(f"split {split!r}: {len(episodes)} episodes; skipped: {skipped}", file=sys.stderr)
    return episodes
