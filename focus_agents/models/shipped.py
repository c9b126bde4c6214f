"""The models that come with the package."""

from __future__ import annotations

from pathlib import Path

from focus_agents.errors import CheckpointError
from focus_env.regular_files import require_possible

WEIGHTS = Path(__file__).parent.parent / "weights"
SHIPPED_MODELS = (
    "focus-small-grpo",
    "focus-small-sft",
    "focus-small-mixed",
    "focus-small-start",
    "focus-small-base",
    "focus-small-base-how",
    "focus-small-base-more",
)
"""Trained by this project, in folders of `WEIGHTS`."""
BEST_MODEL = {"focus-small": "focus-small-grpo"}
"""The name by which to ask for the best of them."""

TINY, SMALL = "tiny", "small"
"""Models that are built anew, with weights that a seed makes."""


def model_name(name_or_path: str | Path) -> str:
    """Return the name or the folder of a model as a text.

    Raises:
        CheckpointError: If it is neither, or no folder can have its path.
    """
    if not isinstance(name_or_path, str | Path) or not str(name_or_path):
        raise CheckpointError(f"model: expected the name of one, or the path of its folder, got {name_or_path!r:.80}")
    try:
        require_possible(name_or_path)
    except NotADirectoryError:
        pass  # beside a file named Qwen, Qwen/Qwen2-VL-7B-Instruct is still a name of the hub
    except OSError as error:
        raise CheckpointError(
            f"model {name_or_path}: expected a path that can be used, got: {error.strerror}; correct the path"
        ) from None
    return str(name_or_path)
