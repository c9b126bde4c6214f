"""Asking the hub for a model by name: its commit and its files, and in plain words why it cannot be had.

With HF_HUB_OFFLINE=1 nothing is asked, and without a network the cache says what was downloaded before. A process
asks once for each name and revision, so that all parts that it loads are of one commit.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    SafetensorsParsingError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils._safetensors import TensorInfo

from focus_agents.errors import CheckpointError
from focus_agents.models.loading.hub_faults import hub_fault, is_of_disk, one_line

TIMEOUT_S = 20.0
CONFIGURATIONS = ("config.json", "adapter_config.json")
"""Of a model and of an adapter; fetching one shows whether the files may be read."""


@dataclass(frozen=True)
class HubModel:
    """A model on the hub at one commit.

    Attributes:
        name: `owner/name`.
        commit: Hash of the commit; None where the cache does not know it.
        files: Paths of its files, sorted. Offline, those that were downloaded.
    """

    name: str
    commit: str | None
    files: tuple[str, ...]

    def fetch(self, file: str) -> Path:
        """Return a file on this machine, downloaded if it is not there yet.

        Raises:
            CheckpointError: If it cannot be had.
        """
        try:
            return Path(hf_hub_download(self.name, file, revision=self.commit))
        except Exception as error:  # of the library, of its HTTP client, of the disk
            raise CheckpointError(_reason(self.name, self.commit, error)) from error

    def cached(self, file: str) -> Path | None:
        """Return a file that is on this machine already; None: it is not."""
        found = try_to_load_from_cache(self.name, file, revision=self.commit)
        return Path(found) if isinstance(found, str) else None

    def fetch_header(self, file: str) -> dict[str, TensorInfo]:
        """Return what a file of safetensors says of its tensors by name; its beginning alone is asked for.

        Raises:
            CheckpointError: If it cannot be had, or is no such file.
        """
        return _fetch_header(self.name, self.commit, file, constants.ENDPOINT)


@functools.lru_cache(maxsize=1024)
def _fetch_header(name: str, commit: str | None, file: str, endpoint: str) -> dict[str, TensorInfo]:
    try:
        api = HfApi(endpoint=endpoint)
        return api.parse_safetensors_file_metadata(name, file, revision=commit, timeout=TIMEOUT_S).tensors
    except SafetensorsParsingError as error:
        raise CheckpointError(f"{file} is no file of safetensors ({one_line(error)}); take another revision") from error
    except Exception as error:  # of the library, or whatever its HTTP client raises
        raise CheckpointError(_reason(name, commit, error)) from error


def find_on_hub(name: str, revision: str | None = None) -> HubModel:
    """Look a model up.

    Args:
        name: `owner/name`.
        revision: Commit, branch or tag; None: the newest.

    Raises:
        CheckpointError: If it cannot be had; the message says why and what to do.
    """
    return _find_on_hub(name, revision, constants.ENDPOINT, constants.HF_HUB_OFFLINE)


@functools.lru_cache(maxsize=64)
def _find_on_hub(name: str, revision: str | None, endpoint: str, is_offline: bool) -> HubModel:
    if is_offline:
        return _find_in_cache(name, revision)
    try:
        info = HfApi(endpoint=endpoint).model_info(name, revision=revision, timeout=TIMEOUT_S)
    except Exception as error:  # of the library, or whatever its HTTP client raises
        is_answer = isinstance(error, HfHubHTTPError | HFValidationError)
        if is_answer and not hub_fault(error).may_pass:
            raise CheckpointError(_reason(name, revision, error)) from error
        try:  # what was downloaded before will do, without a network as with a hub that is ill
            return _find_in_cache(name, revision)
        except CheckpointError:
            raise CheckpointError(_reason(name, revision, error)) from error
    found = HubModel(name, info.sha, tuple(sorted(file.rfilename for file in info.siblings or ())))
    small = [file for file in found.files if PurePosixPath(file).name in CONFIGURATIONS]
    if small:
        # A gated model shows its files to all, and gives them to few. Asked for by the revision as it was written, the
        # cache notes which commit that is, for times without a network.
        HubModel(name, revision or constants.DEFAULT_REVISION, found.files).fetch(small[0])
    return found


def _find_in_cache(name: str, revision: str | None) -> HubModel:
    """Find files that were downloaded before, in the layout of the hub's cache; one that was cut off does not count."""
    cache = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
    branch = cache / "refs" / (revision or "main")
    commit = branch.read_text().strip() if branch.is_file() else revision
    folder = None if commit is None else cache / "snapshots" / commit
    if folder is None or not folder.is_dir():
        raise CheckpointError(_reason(name, revision, LocalEntryNotFoundError(name)))
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return HubModel(name, commit, tuple(files))


def _reason(name: str, revision: str | None, error: Exception) -> str:
    """Say why the hub does not give a model, and what to do."""
    code = getattr(getattr(error, "response", None), "status_code", None)
    page = f"{constants.ENDPOINT}/{name}"
    token = "log in by `hf auth login`, or set HF_TOKEN to a token that may read it"
    if isinstance(error, GatedRepoError) or code == 403:
        return f"{name} is gated: ask for access on {page}, then {token}"
    if isinstance(error, RevisionNotFoundError):
        return f"{name} has no revision {revision!r}; {page}/commits/main lists those that there are"
    if isinstance(error, RepositoryNotFoundError) or code in (401, 404):
        return f"the hub has no model {name}, or it is private: correct the name, or {token}"
    if isinstance(error, HFValidationError):
        return f"{name!r} is no name that the hub could have ({one_line(error)})"
    if isinstance(error, LocalEntryNotFoundError | EntryNotFoundError) or constants.HF_HUB_OFFLINE:
        at = "" if revision is None else f" at {revision}"
        return (
            f"{name}{at} was not downloaded before, and the hub is not asked (HF_HUB_OFFLINE, or no network); download "
            f"it by `hf download {name}` where there is a network, or give its folder"
        )
    if is_of_disk(error):
        return f"{name} cannot be stored ({one_line(error)}); make room, or name another place by HF_HOME"
    fault = hub_fault(error)
    if code is not None and not fault.may_pass:
        return f"{name}: the hub at {constants.ENDPOINT} {fault.what}; {fault.advice}"
    return (
        f"the hub at {constants.ENDPOINT} {fault.what}, and {name} was not downloaded before; {fault.advice}, or give "
        "its folder"
    )
