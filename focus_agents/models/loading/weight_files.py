"""Check that the files of a model's weights are all there and whole, before gigabytes are read; and digest them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from focus_agents.errors import CheckpointError
from focus_agents.models.loading.places import NEW_MODELS, ModelFiles, not_loaded
from focus_agents.models.loading.sources import ADAPTER_WEIGHTS, find_source

WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
_HEADER_BYTES = 8
_NUM_REQUESTS = 8
"""At a time, to the hub."""
_LONGEST_HEADER = 100_000_000
"""As safetensors has it."""


class StoredTensor(NamedTuple):
    """A tensor in a file of weights, by the file's header.

    Attributes:
        file: Name of the file.
        shape: Of the tensor.
        kind: Type of its numbers, by the names of safetensors.
        num_bytes: In the file.
    """

    file: str
    shape: tuple[int, ...]
    kind: str
    num_bytes: int


def weights_fault(files: ModelFiles) -> str | None:
    """Return what is wrong with the files of a model's weights, and what to do; None: nothing.

    Where one file lies beside an index of several, transformers reads the one file, so that alone is looked into. Files
    that are still to be downloaded are not.

    Args:
        files: The model's.

    Raises:
        CheckpointError: If the index of its shards is no JSON.
    """
    if files.has(INDEX_FILE):
        shards = files.read_json(INDEX_FILE).get("weight_map")
        if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
            return f"{INDEX_FILE}: expected the files of the weights under 'weight_map'; take the model's own file"
        names = sorted(set(shards.values()))
        if outside := [name for name in names if not _is_inside(name)]:
            return (
                f"{INDEX_FILE}: expected files of safetensors in the model's own folder, got {outside[0]!r}; take the "
                "model's own file, and the weights that it names"
            )
        if files.has(WEIGHTS_FILE):
            names = [WEIGHTS_FILE]
        elif missing := [name for name in names if not files.has(name)]:
            return (
                f"{len(missing)} of {len(names)} files that {INDEX_FILE} names are missing, e.g. {missing[0]}; the "
                "download is not complete, so do it again"
            )
    elif files.has(WEIGHTS_FILE):
        names = [WEIGHTS_FILE]
    else:
        pickles = [name for name in files.names if name.endswith((".bin", ".pt", ".pth"))]
        if not pickles:
            return f"there is no {WEIGHTS_FILE} and no {INDEX_FILE}"
        return (
            f"expected weights in {WEIGHTS_FILE}, got {pickles[0]}, a pickle, which can run any code as it is loaded; "
            "take a model in safetensors, or convert it where you trust it"
        )
    paths = [path for name in names if (path := _on_disk(files, name)) is not None]
    return next((fault for path in paths if (fault := _cut(path))), None)


def weight_bytes(stored: Mapping[str, StoredTensor]) -> int:
    """Return the bytes of a model's weights in its files."""
    return sum(tensor.num_bytes for tensor in stored.values())


def stored_tensors(files: ModelFiles) -> dict[str, StoredTensor]:
    """Return the tensors in the files of a model's weights by name, by the files' headers alone.

    Of a file that is still to be downloaded the hub is asked for the header.

    Args:
        files: The model's, in which `weights_fault` finds nothing.

    Raises:
        CheckpointError: If the hub does not give it, or a file there is none of safetensors.
    """
    names = sorted(_names_of(files))
    with ThreadPoolExecutor(_NUM_REQUESTS) as pool:
        headers = list(pool.map(lambda name: _header(files, name), names))
    return {tensor: stored for header in headers for tensor, stored in header.items()}


def stored_types(files: ModelFiles) -> Counter[str]:
    """Return how many tensors a model's files hold of each type, by the names of safetensors, such as "F8_E4M3".

    Args:
        files: The model's, whose weights were loaded.
    """
    return Counter(tensor.kind for tensor in stored_tensors(files).values())


def _header(files: ModelFiles, name: str) -> dict[str, StoredTensor]:
    """Return the tensors of one file."""
    path = _on_disk(files, name)
    if path is None:
        assert files.hub is not None
        try:
            found = files.hub.fetch_header(name)
        except CheckpointError as error:
            raise CheckpointError(not_loaded(files.text, error)) from error
        return {
            tensor: StoredTensor(name, tuple(info.shape), info.dtype, info.data_offsets[1] - info.data_offsets[0])
            for tensor, info in found.items()
        }
    entries = _read_header(path)
    return {
        tensor: StoredTensor(name, tuple(entry["shape"]), entry["dtype"], end - start)
        for tensor, entry in entries.items()
        for start, end in [entry["data_offsets"]]
    }


def _read_header(file: Path) -> dict[str, Any]:
    """Return the entries of a file of safetensors in which `_cut` finds nothing."""
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(_HEADER_BYTES), "little")))
    header.pop("__metadata__", None)
    return dict(header)


def _names_of(files: ModelFiles) -> set[str]:
    """Return the files of weights in which nothing is wrong, as transformers chooses them."""
    return {WEIGHTS_FILE} if files.has(WEIGHTS_FILE) else set(files.read_json(INDEX_FILE)["weight_map"].values())


def _on_disk(files: ModelFiles, name: str) -> Path | None:
    """Return a file's path on this machine; None: it is still to be downloaded."""
    return files.path(name) if files.hub is None else files.hub.cached(name)


def _is_inside(name: str) -> bool:
    """Return whether a file that an index names lies beside it."""
    path = PurePosixPath(name.replace("\\", "/"))
    return name.endswith(".safetensors") and not path.is_absolute() and ".." not in path.parts


def _cut(file: Path) -> str | None:
    """Return the fault of a file of safetensors, as far as its header and its length tell; None: there is none."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(_HEADER_BYTES), "little")
        if size < _HEADER_BYTES or length > min(size - _HEADER_BYTES, _LONGEST_HEADER):
            return f"{file.name} is cut off or is no file of safetensors ({size:,} bytes); copy or download it again"
        header = stream.read(length)
    try:
        entries = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        return f"{file.name} is no file of safetensors ({error}); copy or download it again"
    whole = _HEADER_BYTES + length + max(ends, default=0)
    if size < whole:
        return f"{file.name} is cut off at {size:,} of {whole:,} bytes; copy or download it again"
    if size > whole:
        return (
            f"{file.name} has {size - whole:,} bytes behind the {whole:,} that its header tells of; copy or download "
            "it again"
        )
    try:
        with safe_open(file, framework="pt"):
            return None
    except (OSError, SafetensorError) as error:
        return f"{file.name} is no file of safetensors ({error}); copy or download it again"


def weights_digest(name_or_path: str) -> str | None:
    """Return what tells a model's weights from others of its name.

    Args:
        name_or_path: As for `load_model`.

    Returns:
        SHA-256 in hex of the weights of a folder, all files in the order of their names; of a model on the hub its
        commit. An adapter's goes over its own weights and the digest of its base. None: the weights are made here, or
        there is no such model.
    """
    try:
        source = find_source(name_or_path)
    except CheckpointError:
        return None
    base = None if source.place in NEW_MODELS else digest_of_weights(source.files)
    if source.adapter is None:
        return base
    weights = source.adapter.files.path(source.adapter.name_of(ADAPTER_WEIGHTS))
    return hashlib.sha256(f"{_digest_of([weights])} on {base}".encode()).hexdigest() if weights.is_file() else None


def digest_of_weights(files: ModelFiles) -> str | None:
    """Return what tells whole weights from others of their name; see `weights_digest`."""
    if files.hub is not None:
        return files.revision
    own = sorted(file for file in Path(files.place).glob("*.safetensors") if file.name != ADAPTER_WEIGHTS)
    return _digest_of(own) if own else None


def _digest_of(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)
    return digest.hexdigest()
