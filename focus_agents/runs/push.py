"""Sending a policy to the hub, by huggingface_hub and the token that it finds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token

from focus_agents.errors import CheckpointError
from focus_agents.models.loading.hub_faults import hub_fault, is_of_disk, patiently
from focus_agents.models.loading.sources import find_source
from focus_agents.models.references import is_hub_name

CARD = "README.md"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle")


def check_name(name: str) -> None:
    """Check that a model may be called so on the hub.

    Raises:
        ValueError: If it may not.
    """
    if not is_hub_name(name):
        raise ValueError(
            f"to: expected OWNER/NAME in letters, digits, '-', '_' and '.', got {name!r}; OWNER is your name on the "
            "hub, or an organization's"
        )


def files_to_push(name_or_path: str) -> dict[str, Path]:
    """Return the files of a policy's folder by their names on the hub, sorted; its card is written anew.

    Args:
        name_or_path: The folder, or a model that comes with the package.

    Raises:
        CheckpointError: If there is no such folder, or it holds a pickle.
    """
    source = find_source(name_or_path)
    files = source.files if source.adapter is None else source.adapter.files
    if files.hub is not None:
        raise CheckpointError(
            f"model {name_or_path!r}: expected a folder to push, got a model that is on the hub already"
        )
    top = Path(files.place) / ("" if source.adapter is None else source.adapter.folder)
    found = {path.relative_to(top).as_posix(): path for path in sorted(top.rglob("*")) if path.is_file()}
    kept = {name: path for name, path in found.items() if name != CARD and not name.startswith(".")}
    if pickled := [name for name in kept if name.endswith(PICKLES)]:
        raise CheckpointError(
            f"model {name_or_path!r}: expected no pickles to share, got {pickled[0]}; push the folder that "
            "`focus export` writes"
        )
    return kept


def base_of_this_machine(name_or_path: str) -> str | None:
    """Return the folder of an adapter's base, which nobody else could load; None: there is none.

    Args:
        name_or_path: As for `files_to_push`.
    """
    source = find_source(name_or_path)
    return source.files.place if source.adapter is not None and source.files.hub is None else None


def push_files(
    files: Mapping[str, Path],
    name: str,
    *,
    card: str,
    is_public: bool = False,
    revision: str | None = None,
    message: str = "A policy",
) -> str:
    """Make a model on the hub, if it is not there yet, and write its files in one commit.

    Args:
        files: By their names on the hub.
        name: The model's, `owner/name`.
        card: Its `README.md`.
        is_public: Whether everybody may see a model that is new.
        revision: The branch; None: main.
        message: Of the commit.

    Returns:
        The address of the model's page.

    Raises:
        CheckpointError: If there is no token, or the hub refuses, cannot be reached, or gives answers that are none of
            the hub's; what may pass by itself was tried three times.
        OSError: If a file cannot be read.
    """
    if get_token() is None:
        raise CheckpointError(
            f"push to {name}: expected a token of the hub, found none; log in by `hf auth login`, or set HF_TOKEN"
        )
    if constants.HF_HUB_OFFLINE:
        raise CheckpointError(f"push to {name}: HF_HUB_OFFLINE is set, so the hub is not asked; unset it")
    api = HfApi(endpoint=constants.ENDPOINT)
    operations = [CommitOperationAdd(path_in_repo=path, path_or_fileobj=str(file)) for path, file in files.items()]
    operations.append(CommitOperationAdd(path_in_repo=CARD, path_or_fileobj=card.encode()))
    try:
        url = patiently(lambda: api.create_repo(name, private=not is_public, exist_ok=True))
        if revision is not None:
            patiently(lambda: api.create_branch(name, branch=revision, exist_ok=True))
        patiently(lambda: api.create_commit(name, operations, commit_message=message, revision=revision))
    except Exception as error:  # of the library, of its HTTP client, of the disk
        if is_of_disk(error):
            raise
        fault = hub_fault(error)
        raise CheckpointError(
            f"push to {name}: the hub at {constants.ENDPOINT} {fault.what}; {fault.advice}"
        ) from error
    return str(url)
