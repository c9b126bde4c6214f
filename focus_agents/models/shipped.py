"""The models that come with the package."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).parent.parent / "weights"
SHIPPED_MODELS = ("focus-small-grpo", "focus-small-sft", "focus-small-base")
"""Trained by this project, in folders of `WEIGHTS`."""
BEST_MODEL = {"focus-small": "focus-small-grpo"}
"""The name by which to ask for the best of them."""
