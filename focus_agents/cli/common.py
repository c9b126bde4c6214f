"""Command-line arguments that several experiments share, checked before anything expensive starts."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import ray
import torch
import transformers
import yaml
from rich.console import Console

from focus_agents.models.loading import Precision, load_processor, load_template
from focus_agents.models.processing import VLMProcessor
from focus_agents.policies.registry import DEFAULT_MODELS, PolicySpec
from focus_agents.runs.folder import RunDirectory
from focus_env.boxes import CoordinateFrame
from focus_env.datasets import load_dataset
from focus_env.datasets.sampler import AbsentPolicy, BadPolicy, SamplingProtocol
from focus_env.datasets.transforms import ShuffledSupports
from focus_env.errors import FocusError
from focus_env.prompts import PromptTemplate
from focus_env.rewards.weighted import WeightedReward
from focus_env.types import EpisodeDataset


@dataclass(frozen=True, kw_only=True)
class DataArguments:
    """Which episodes."""

    dataset: str = "synthetic"
    """Data set: synthetic (drawn on the fly); got10k, lasot, tao, perseg, iploc_json or store (they need --data-root);
    or several with weights, e.g. tao:0.5,got10k:0.5."""
    data_root: Path | None = None
    """Folder of a data set on disk, the one that holds its splits; iploc_json: the file; several data sets: a folder
    with one for each, by its name."""
    validation_root: Path | None = None
    """The same for validation; default: --data-root. A store is one split, so it needs another."""
    image_root: Path | None = None
    """Folder of the pictures that an iploc_json names."""
    split: str = "train"
    """Split to train on."""
    validation_split: str = "val"
    """Split to validate on."""
    shots: int = 4
    """Support pictures per episode, at least 1."""
    protocol: SamplingProtocol = "random"
    """How training episodes are cut from videos: random frames, or focus and iploc, as these papers evaluate."""
    episodes_per_track: int | None = None
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
    """Train on the supports of other episodes, a control that shows what can be earned without them."""
    image_size: int = 64
    """Side of synthetic pictures in pixels."""
    data_seed: int = 0
    """Seed of the data set."""

    def load(self, split: str, *, protocol: SamplingProtocol, root: Path | None) -> EpisodeDataset:
        """Load one split.

        Raises:
            ValueError: If an argument is out of its range.
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
        if protocol == "random" and self.episodes_per_track is not None:
            options["episodes_per_track"] = self.episodes_per_track
        if protocol == "random" and self.min_gap != 1:
            options["min_gap"] = self.min_gap
        return load_dataset(
            self.dataset,
            split=split,
            root=None if root is None else root.expanduser().resolve(),
            shots=self.shots,
            seed=self.data_seed,
            protocol=protocol,
            absent=self.absent,
            max_pixels=self.max_pixels,
            **options,
        )

    def load_training(self) -> EpisodeDataset:
        """The episodes to train on."""
        loaded = self.load(self.split, protocol=self.protocol, root=self.data_root)
        episodes = _not_empty(loaded, self.split)
        return ShuffledSupports(episodes) if self.shuffle_supports else episodes

    def load_validation(self) -> EpisodeDataset:
        """The episodes to validate on."""
        protocol: SamplingProtocol = "iploc" if self.protocol == "iploc" else "focus"
        root = self.validation_root or self.data_root
        return _not_empty(self.load(self.validation_split, protocol=protocol, root=root), self.validation_split)


@dataclass(frozen=True, kw_only=True)
class ModelArguments:
    """Which model, and how it is asked."""

    model: str = "focus-small"
    """Model: focus-small-base, focus-small-sft, focus-small-grpo or focus-small, the best of these (they come with the
    package); tiny or small (new weights); a saved policy's folder; or a name on the hub."""
    init_from: Path | None = None
    """Folder of a policy to start from, e.g. runs/my-sft/checkpoints/final; stands in for --model."""
    template: str | None = None
    """Prompt wording: questions (that of the small models), compact (few words), default (full sentences), or iploc (a
    baseline that names the object); default: the one that the model was trained on, for a hub model full sentences."""
    frame: Literal["pixel", "norm_1", "norm_100", "norm_1000"] | None = None
    """Unit in which boxes are written; default: the one that the model was trained on, for a hub model thousandths."""
    max_image_tokens: int | None = None
    """Most tokens per picture, larger ones are scaled down; default: what the model's image processor says."""

    @property
    def source(self) -> str:
        """What `load_model` is given; a folder by its absolute path, since other processes may work elsewhere."""
        return self.model if self.init_from is None else str(self.init_from.expanduser().resolve())

    def load_template(self) -> PromptTemplate:
        """The prompt template."""
        return load_template(
            self.source,
            name=self.template,
            frame=None if self.frame is None else CoordinateFrame(self.frame),
            max_image_tokens=self.max_image_tokens,
        )

    def load_processor(self) -> VLMProcessor:
        """The model's processor, with the picture budget set."""
        return load_processor(self.source, max_image_tokens=self.max_image_tokens)


@dataclass(frozen=True, kw_only=True)
class PolicyArguments:
    """Which policy answers, and how it is asked."""

    policy: str = "vlm:focus-small"
    """random, center, copy_support[:last|nearest], template_match, dino_match[:MODEL], owlv2[:MODEL], vlm[:MODEL],
    openai_api:MODEL@URL, or your own as package.module:Name. MODEL is one that comes with the package, a saved policy's
    folder, or a name on the hub."""
    template: str | None = None
    """Prompt wording: questions (that of the small models), compact (few words), default (full sentences), or iploc (a
    baseline that names the object); default: the one that a model was trained on, else full sentences."""
    frame: Literal["pixel", "norm_1", "norm_100", "norm_1000"] | None = None
    """Unit in which boxes are written; default: the one that a model was trained on, else thousandths."""
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
        """A policy with these options; a folder by its absolute path, since other processes may work elsewhere.

        Raises:
            ValueError: If there is no such policy, or an option is wrong.
            FocusError: If its model or a package is missing.
        """
        name, _, argument = text.partition(":")
        if name in DEFAULT_MODELS and "/" in argument and Path(argument).expanduser().is_dir():
            text = f"{name}:{Path(argument).expanduser().resolve()}"
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
            api=api if name == "openai_api" else {},
        )
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
class RayArguments:
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
            console.print(f"dashboard: http://{context.dashboard_url}", highlight=False)


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


A = TypeVar("A")


def part_of(args: Any, part: type[A]) -> A:
    """The fields of a dataclass out of arguments that inherit from it."""
    return part(**{field.name: getattr(args, field.name) for field in dataclasses.fields(part)})  # type: ignore[arg-type]


def restore_arguments(args: A, run: RunDirectory, *, keep: Sequence[str]) -> A:
    """The arguments of an interrupted run.

    Args:
        args: Those of this call, a dataclass.
        run: The interrupted run.
        keep: Which arguments are this call's.

    Raises:
        CheckpointError: If there is no such run.
    """
    stored = run.config()
    fields = {field.name: field for field in dataclasses.fields(args)}  # type: ignore[arg-type]
    changes = {name: value for name, value in stored.items() if name in fields and name not in keep}
    paths = {name: Path(value) for name, value in changes.items() if value and "Path" in str(fields[name].type)}
    return dataclasses.replace(args, **(changes | paths))  # type: ignore[type-var]


def run_path(output_dir: Path, name: str | None, prefix: str) -> Path:
    """Folder of a run: by its name, or by the time at which it starts."""
    return output_dir / (name or f"{prefix}-{datetime.datetime.now():%Y%m%d-%H%M%S}")


def quiet_libraries() -> None:
    """Keep other packages' start-up chatter out of an experiment's output; their errors still show."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # Tune's other output prints a table even where it is told not to
    for name in ("ray.rllib", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Around the checks of an experiment: a wrong argument ends it with its message and exit code 2, no traceback."""
    try:
        yield
    except (ValueError, OSError, FocusError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


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
