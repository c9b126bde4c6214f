"""Folders that a policy may be written to: nothing that is read for it, and nothing that is no policy's, is lost."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from focus_agents.errors import CheckpointError
from focus_agents.models.loading.places import POLICY_FILE, ModelFiles
from focus_agents.models.loading.sources import ModelSource
from focus_env.errors import StorageError
from focus_env.files import UNFINISHED, find_folder, named_errors

ADAPTER_FOLDER = "adapter"
"""Where the adapter lies below whole weights that it is a part of, too."""
CARD = "README.md"
"""Of a policy's own only where it is written with one."""
TEMPLATES_FOLDER = "additional_chat_templates"
"""Where tokenizers of transformers write what they have beside their own template."""
_WRITTEN = re.compile(
    r"README\.md|(config|generation_config|focus|adapter_config)\.json"
    r"|(model(-\d+-of-\d+)?|adapter_model)\.safetensors|model\.safetensors\.index\.json"
    r"|(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|merges\.txt|vocab\.txt"
    r"|(tokenizer|spiece|sentencepiece\.bpe)\.model"
    r"|chat_template\.(jinja|json)|((video_)?preprocessor|processor)_config\.json"
)
"""Names of files that a saved policy has, by what transformers, PEFT and this package write."""


def check_target(directory: Path, *sources: ModelSource) -> None:
    """Check that a policy can be written to a folder, before anything is loaded.

    Args:
        directory: Where it shall be written.
        sources: The models that it is made of.

    Raises:
        CheckpointError: If something would be lost by it: files of a model that is read, or other things than a policy.
        StorageError: If nothing can be written there.
    """
    for source in sources:
        check_apart(directory, source)
    check_replaceable(directory, also=[name for source in sources for name in source.files.names])
    _check_writable(directory)


def check_apart(directory: Path, source: ModelSource) -> None:
    """Check that a folder neither is, holds, nor lies inside one that a model is read from.

    Raises:
        CheckpointError: If it does.
    """
    target = find_folder(directory)
    around = _identities(target)
    own = next(iter(_identities(target, parents=False)), None)
    for folder in _folders_read(source):
        if around & _identities(folder, parents=False) or own in _identities(folder):
            raise CheckpointError(
                f"export {directory}: expected another folder than the model's own, or its adapter's or base's, and "
                f"none that holds it or lies in it; {folder} is read; name a folder apart from that"
            )


def check_replaceable(directory: Path, *, also: Iterable[str] = ()) -> None:
    """Check that nothing but an older policy is replaced.

    Args:
        directory: Where a policy shall be written.
        also: Names of files at its top that may be there beside those of each policy, such as those of its base.

    Raises:
        CheckpointError: If a file lies there, or a folder with other things in it.
    """
    if not os.path.lexists(directory):
        return
    expected = f"export {directory}: expected a new folder, an empty one, or that of an older policy"
    if not directory.is_dir():
        raise CheckpointError(f"{expected}, got a file, which would be lost; name another folder")
    found = sorted(path.name for path in directory.iterdir())
    if found and not (directory / POLICY_FILE).is_file():
        raise CheckpointError(
            f"{expected}, got one that holds {_listed(found)} and no {POLICY_FILE}; these files would be lost, so "
            "name another folder"
        )
    if found and not _describes_policy(directory / POLICY_FILE):
        raise CheckpointError(
            f"{expected}, got one whose {POLICY_FILE} has no versions of a policy; these files would be lost, so "
            "name another folder"
        )
    if foreign := foreign_files(directory, also=also):
        raise CheckpointError(
            f"{expected}, got one that also holds {_listed(foreign)}, of no policy; that would be lost, so move it "
            "away, or name another folder"
        )


def foreign_files(directory: Path, *, also: Iterable[str] = ()) -> list[str]:
    """Return the files and folders in a policy's folder that no saved policy writes, sorted.

    Args:
        directory: The folder.
        also: Names of further files, relative to the folder, that are a policy's.
    """
    known = set(also)

    def is_foreign(path: Path, name: str) -> bool:
        return not (path.is_symlink() or path.is_file()) or not (_WRITTEN.fullmatch(path.name) or name in known)

    def look(folder: Path, prefix: str) -> Iterator[str]:
        for path in folder.iterdir():
            name = prefix + path.name
            is_folder = path.is_dir() and not path.is_symlink()
            if is_folder and path.name == ADAPTER_FOLDER and not prefix:
                yield from look(path, f"{name}/")
            elif is_folder and path.name == TEMPLATES_FOLDER:
                yield from (f"{name}/{file.name}" for file in path.iterdir() if file.suffix != ".jinja")
            elif is_foreign(path, name):
                yield name

    return sorted(look(directory, ""))


def keep_others(directory: Path, fresh: Path, warn: Callable[[str], None]) -> None:
    """Keep what somebody has laid where a policy is about to be replaced.

    Beside the files of an older policy, such as notes, it goes into the new folder. What is no policy is moved aside.

    Args:
        directory: Where the policy will be.
        fresh: The new folder, whole.
        warn: Told of what is moved.
    """
    place = Path(os.path.realpath(directory))
    if not os.path.lexists(place) or (place.is_dir() and not any(place.iterdir())):
        return
    if not _describes_policy(place / POLICY_FILE):
        aside = _free_name(place)
        os.rename(place, aside)
        warn(f"{directory}: what lay there is of no policy, and is in {aside} now")
        return
    cards = [name for name in (CARD, f"{ADAPTER_FOLDER}/{CARD}") if (place / name).is_file()]
    for name in (*foreign_files(place), *cards):
        source, target = place / name, fresh / name
        if not os.path.lexists(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir() and not source.is_symlink():
                shutil.copytree(source, target, symlinks=True)
            else:
                shutil.copy2(source, target, follow_symlinks=False)


def _free_name(place: Path) -> Path:
    """Return a name beside a folder or file that nothing has yet."""
    names = (
        place.with_name(f"{place.name}-moved{f'-{number}' if number > 1 else ''}") for number in itertools.count(1)
    )
    return next(name for name in names if not os.path.lexists(name))


def _describes_policy(file: Path) -> bool:
    """Return whether a file is one in which `save_policy` has described a policy; other programs name files alike."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and isinstance(found.get("versions"), dict)


def _folders_read(source: ModelSource) -> list[Path]:
    """Return the folders on this machine that a model is read from, those behind links of single files included."""
    folders = [_folder_of(source.files)]
    if source.adapter is not None:
        top = _folder_of(source.adapter.files, source.adapter.name_of("adapter_config.json"))
        folders.append(top if top is None or source.adapter.files.hub is not None else top / source.adapter.folder)
    there = [folder for folder in folders if folder is not None and folder.is_dir()]
    behind = {Path(os.path.realpath(file)).parent for folder in there for file in folder.iterdir() if file.is_file()}
    return list(dict.fromkeys([*there, *sorted(behind)]))


def _folder_of(files: ModelFiles, name: str = "config.json") -> Path | None:
    """Return the folder of a model's files; of the hub that of the cache; None: there is none yet."""
    if files.hub is None:
        return Path(files.place)
    return files.path(name).parent if files.has(name) else None


def _identities(path: Path, *, parents: bool = True) -> set[tuple[int, int]]:
    """Device and number of a folder and of those that it lies in, as far as they are there, links resolved."""
    place, found = Path(os.path.realpath(path)), set()
    for folder in (place, *place.parents) if parents else (place,):
        try:
            status = folder.stat()
        except OSError:
            continue
        found.add((status.st_dev, status.st_ino))
    return found


def _check_writable(directory: Path) -> None:
    """See that the folder, and what lies above it, can be made; nothing of the trial stays."""
    place = Path(os.path.realpath(directory))
    if os.path.ismount(place):
        raise StorageError(
            f"{directory}: expected a folder that can be replaced at once, got the top of a mounted disk; name a "
            "folder below it"
        )
    trial = place.parent / f".{place.name}{UNFINISHED}"
    for folder in place.parents:
        if os.path.lexists(folder):
            break
        trial = folder
    with named_errors(directory):
        if not os.path.lexists(trial):
            trial.mkdir()
            trial.rmdir()


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" and more" if len(names) > 3 else "")
