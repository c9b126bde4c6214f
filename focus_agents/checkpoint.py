"""Policies on disk, in transformers' format: safetensors, configuration, tokenizer, image processor."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

import focus_env
from focus_agents.processing import VLMProcessor


def save_policy(directory: Path, model: Any, processor: VLMProcessor) -> Path:
    """Write a model and its processor so that the folder is either whole or as it was before.

    Args:
        directory: The new folder; an older policy there is replaced once the new one is whole.
        model: A transformers model.
        processor: Its processor.

    Returns:
        `directory`.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as scratch:
        fresh, old = Path(scratch) / "new", Path(scratch) / "old"
        model.save_pretrained(fresh)
        processor.save_pretrained(fresh)
        versions = {
            "focus": focus_env.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
        (fresh / "focus.json").write_text(json.dumps({"versions": versions}, indent=2) + "\n")
        if directory.exists():
            shutil.move(directory, old)
        shutil.move(fresh, directory)
    return directory
