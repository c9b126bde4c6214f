"""Policies on disk, in transformers' format, and states of a training to go on from. No pickle is ever loaded."""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import focus_env
from focus_agents.errors import CheckpointError
from focus_agents.models.adapters import ADAPTER, has_adapters, merge_adapters
from focus_agents.models.loading import POLICY_FILE, weights_digest
from focus_agents.models.pictures import PictureBudget
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.references import ModelReference
from focus_agents.models.settings import SavedForm
from focus_agents.models.sharding import share_of
from focus_agents.models.weights import is_finite
from focus_agents.runs.target import ADAPTER_FOLDER, keep_others
from focus_env.files import fresh_folder, remove_unfinished
from focus_env.prompts import PromptTemplate, describe_template

T = TypeVar("T")


def save_policy(
    directory: Path,
    model: Any,
    processor: VLMProcessor,
    *,
    template: PromptTemplate | None = None,
    pictures: PictureBudget | None = None,
    documents: Mapping[str, str] | None = None,
    form: SavedForm = "merged",
    complete: Callable[[Path], object] | None = None,
    warn: Callable[[str], None] = warnings.warn,
) -> Path:
    """Write a model and its processor so that the folder is either whole or as it was before.

    Args:
        directory: The new folder; an older policy there is replaced once the new one is whole, and nothing else: see
            `keep_others`.
        model: A transformers model, or PEFT's around one.
        processor: Its processor.
        template: The prompt that it was trained on, if it was; whoever loads the policy asks in the same words.
        pictures: How large it saw pictures in training and in validation; None: up to the model's own limit. Whoever
            loads the policy shows them as large as in its validation.
        documents: Further text files by name, such as a card.
        form: What is written of a model with adapters. Whole weights use the adapters up.
        complete: Called with the new folder before it gets its name, to add files.
        warn: Told of what was moved out of the way.

    Returns:
        `directory`.

    Raises:
        CheckpointError: If a weight is not finite, and an older policy is there.
        StorageError: If the folder cannot be written.
    """
    if directory.exists() and isinstance(model, torch.nn.Module):
        check_finite(model.state_dict(), what=f"policy {directory}")
    with fresh_folder(directory) as fresh:
        if form == "adapter" and has_adapters(model):
            _write_adapter(fresh, model, processor, template, pictures)
        else:
            if form == "both" and has_adapters(model):
                _write_adapter(fresh / ADAPTER_FOLDER, model, processor, template, pictures)
            merge_adapters(model).save_pretrained(fresh)
            processor.save_pretrained(fresh)
            _describe(fresh, template, pictures, **_hub_base(model))
        for name, text in (documents or {}).items():
            (fresh / name).write_text(text, encoding="utf-8")
        if complete is not None:
            complete(fresh)
        keep_others(directory, fresh, warn)
    return directory


def _write_adapter(
    folder: Path, model: Any, processor: VLMProcessor, template: PromptTemplate | None, pictures: PictureBudget | None
) -> None:
    """Write the adapter of a model, with what it is asked by, and which base it is of."""
    model.save_pretrained(str(folder), selected_adapters=[ADAPTER], save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # a card of PEFT's that says nothing
    processor.save_pretrained(folder)
    settings = model.peft_config[ADAPTER]
    base = str(ModelReference(settings.base_model_name_or_path, settings.revision))
    _describe(folder, template, pictures, base={"model": base, "weights": weights_digest(base)})


def _hub_base(model: Any) -> dict[str, Any]:
    """Name the model on the hub that the weights were trained from; nothing if it was another one."""
    source = getattr(model, "hub_source", None)
    return {} if source is None else {"base": {"model": source, "weights": source.rpartition("@")[2]}}


def _describe(folder: Path, template: PromptTemplate | None, pictures: PictureBudget | None, **more: Any) -> None:
    """Write the file that says of a policy what transformers' files do not."""
    versions = {"focus": focus_env.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    prompt = {} if template is None else {"prompt": describe_template(template)}
    description = {"versions": versions, **prompt, **(pictures or PictureBudget()).entries(), **more}
    (folder / POLICY_FILE).write_text(json.dumps(description, indent=2) + "\n")


def check_finite(tensors: Mapping[str, Any], *, what: str) -> None:
    """Check that weights can be computed with, before they replace others on the disk.

    Args:
        tensors: By name, of torch or numpy; what is no tensor of floating-point numbers is left out.
        what: Whose they are, for the message.

    Raises:
        CheckpointError: If a number is NaN or infinite.
    """
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise CheckpointError(
                f"{what}: expected finite weights, got NaN or infinity in {name}; earlier checkpoints are unchanged. "
                "Continue from the last one, or train again with a lower `lr`"
            )


class Checkpoints:
    """The states that a run can go on from: folders named by a prefix and the steps behind them.

    Args:
        folder: Where they are.
        prefix: Before the number in their names.
        num_kept: So many of them stay, so that a damaged one does not end the run.
    """

    def __init__(self, folder: Path, prefix: str, *, num_kept: int = 2) -> None:
        self.folder, self.prefix, self.num_kept = folder, prefix, num_kept

    def path(self, number: int) -> Path:
        """Return the folder of a checkpoint."""
        return self.folder / f"{self.prefix}{number:06d}"

    def number(self, path: Path) -> int:
        """Return how many steps a checkpoint has behind it."""
        return int(path.name.removeprefix(self.prefix))

    def newest_first(self) -> list[Path]:
        """Return the checkpoints that are there, damaged ones too."""
        found = [
            path for path in self.folder.glob(f"{self.prefix}*") if path.name.removeprefix(self.prefix).isdecimal()
        ]
        return sorted(found, key=self.number, reverse=True)

    @contextlib.contextmanager
    def write(self, number: int, *, best: int | None = None) -> Iterator[Path]:
        """Write a checkpoint at once, then remove those that are not kept; one that fails leaves all as it was.

        Args:
            number: Steps that it has behind it.
            best: Of one that stays, however old it is.

        Yields:
            A path where no folder is yet; the caller makes it.

        Raises:
            StorageError: If it cannot be written.
        """
        remove_unfinished(self.folder, f"{self.prefix}*")
        with fresh_folder(self.path(number)) as fresh:
            yield fresh
        for path in self.newest_first():  # those after this one are of a past that has been gone back on
            if self.number(path) > number:
                shutil.rmtree(path)
        self.prune(self.num_kept, best=best)

    def prune(self, num_kept: int, *, best: int | None = None) -> None:
        """Keep the newest ones only, and the best."""
        for path in self.newest_first()[num_kept:]:
            if self.number(path) != best:
                shutil.rmtree(path)

    def describe_kept(self) -> str:
        """Return what there is to go on from, as the end of a sentence."""
        found = self.newest_first()
        return f"the last one, {found[0].name}, is kept" if found else "there is none yet"

    def restore(self, load: Callable[[Path], T], warn: Callable[[str], None]) -> tuple[int, T] | None:
        """Load the newest checkpoint that is not damaged.

        Args:
            load: Loads one, and raises an error if it is damaged.
            warn: Told of each that is.

        Returns:
            How many steps it has behind it, and what `load` returned; None if there is no checkpoint.

        Raises:
            CheckpointError: If there are checkpoints, and none can be loaded.
        """
        errors: list[str] = []
        for path in self.newest_first():
            try:
                loaded = load(path)
            except MemoryError:
                raise
            except Exception as error:  # whatever the readers of damaged files raise
                errors.append(str(error) if isinstance(error, CheckpointError) else f"checkpoint {path}: {error!r}")
                continue
            for message in errors:
                warn(f"{message}; going on from {path.name}")
            return self.number(path), loaded
        if errors:
            raise CheckpointError(f"{'; '.join(errors)}; no other checkpoint is left, so start a new run")
        return None


def save_training_state(
    directory: Path,
    parameters: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer | Mapping[str, Any],
    progress: Mapping[str, Any],
) -> None:
    """Write what a training needs to go on.

    Args:
        directory: Where to write; exists.
        parameters: The trained ones, by name, whole.
        optimizer: Over these parameters, in this order; or its state.
        progress: Plain numbers and texts.

    Raises:
        CheckpointError: If a parameter, or a mean of the optimizer's, is not finite.
    """
    state = optimizer if isinstance(optimizer, Mapping) else optimizer.state_dict()
    _check_state(parameters, state, what=f"checkpoint {directory}")
    save_file({name: p.detach().contiguous() for name, p in parameters.items()}, directory / "parameters.safetensors")
    torch.save(state, directory / "optimizer.pt")
    (directory / "progress.json").write_text(json.dumps(dict(progress)) + "\n")


def read_training_state(directory: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any], dict[str, Any]]:
    """Read what `save_training_state` wrote; little of it is in memory at a time.

    Returns:
        The parameters by name, the optimizer's state, and the progress.

    Raises:
        CheckpointError: If a file is missing or damaged, or a number is not finite.
    """
    try:
        stored = load_file(directory / "parameters.safetensors")
        optimizer_state = torch.load(directory / "optimizer.pt", weights_only=True, map_location="cpu", mmap=True)
        progress: dict[str, Any] = json.loads((directory / "progress.json").read_text())
    except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {directory}: could not be read ({error})") from error
    if not isinstance(progress, dict) or not isinstance(optimizer_state, dict) or "state" not in optimizer_state:
        raise CheckpointError(f"checkpoint {directory}: expected the state of a training, got something else")
    _check_state(stored, optimizer_state, what=f"checkpoint {directory}")
    return stored, optimizer_state, progress


def load_training_state(
    directory: Path, parameters: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer | None = None
) -> dict[str, Any]:
    """Read what `save_training_state` wrote into the parameters and the optimizer.

    Args:
        directory: Where it wrote.
        parameters: The trained ones, by name; of those that are sharded, this process's shares are filled.
        optimizer: Over these parameters, in this order; None: only they are read.

    Returns:
        The progress.

    Raises:
        CheckpointError: If a file is missing or damaged, or the parameters are another model's, or not finite.
    """
    stored, optimizer_state, progress = read_training_state(directory)
    shapes = {name: tuple(p.shape) for name, p in parameters.items()}
    for name in sorted(shapes.keys() | stored.keys()):
        found = tuple(stored[name].shape) if name in stored else None
        if shapes.get(name) != found:
            raise CheckpointError(
                f"checkpoint {directory}: expected the parameters of the model that is trained, with {name} of shape "
                f"{shapes.get(name)}, got {found}; it belongs to another model or other adapters"
            )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(share_of(stored[name], parameter))
    if optimizer is not None:
        for number, parameter in enumerate(parameters.values()):
            means = optimizer_state["state"].get(number, {})
            means.update({key: share_of(value, parameter) for key, value in means.items()})
        optimizer.load_state_dict(optimizer_state)
    return progress


def _check_state(parameters: Mapping[str, torch.Tensor], optimizer_state: Mapping[str, Any], *, what: str) -> None:
    """Check parameters and what the optimizer remembers of each."""
    check_finite(parameters, what=what)
    for number, state in optimizer_state["state"].items():
        check_finite({f"{key} of the optimizer's parameter {number}": value for key, value in state.items()}, what=what)
