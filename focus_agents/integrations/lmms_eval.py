"""A task of lmms-eval (https://github.com/EvolvingLMMs-Lab/lmms-eval) that serves our episodes; for version 0.7.

    lmms_eval --model qwen2_vl --model_args pretrained=Qwen/Qwen2-VL-7B-Instruct --tasks focus_lasot_4_shot \
        --include_path runs/harness

lmms-eval reads a YAML file of the folder, which names the functions below by their import path. Models of its kind
"chat" get the pictures between the texts, as `focus evaluate` asks them; those of its kind "simple" get all pictures,
and a text with `<image>` in the place of each. lmms-eval is not imported here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from focus_agents.integrations.harness import EPISODES_FILE, METRICS, check_replaceable, metrics_of, served
from focus_env.types import ImagePart

PLACE = "<image>"
"""In place of a picture, for models that are given a text."""
Row = Mapping[str, Any]
"""A line of `episodes.jsonl`."""


class _Function(str):
    """An import path, which lmms-eval's YAML marks."""


class _Dumper(yaml.SafeDumper):
    """Writes `_Function`."""


_Dumper.add_representer(_Function, lambda dumper, value: dumper.represent_scalar("!function", str(value)))


def task_file(folder: Path, name: str) -> Path:
    """Return the YAML file that `write_task` is going to write.

    Args:
        folder: Of the episodes.
        name: Of the task.

    Raises:
        DatasetError: If there is another file of this name.
    """
    file = folder / f"{name}.yaml"
    check_replaceable(file, *_task(folder, name, max_completion_tokens=1))
    return file


def write_task(folder: Path, name: str, *, max_completion_tokens: int) -> Path:
    """Write the YAML file of a task beside the episodes that `harness.write_request` has written.

    Args:
        folder: Of the episodes.
        name: Of the task.
        max_completion_tokens: Where an answer is cut.

    Raises:
        DatasetError: If there is another file of this name.
    """
    file = task_file(folder, name)
    task = _task(folder, name, max_completion_tokens=max_completion_tokens)
    file.write_text(yaml.dump(task, Dumper=_Dumper, sort_keys=False), encoding="utf-8")
    return file


def _task(folder: Path, name: str, *, max_completion_tokens: int) -> dict[str, Any]:
    """Return a task as lmms-eval reads it."""
    functions = {
        key: _Function(f"{__name__}.{key}")
        for key in ("doc_to_visual", "doc_to_text", "doc_to_messages", "doc_to_target", "process_results")
    }
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str((folder / EPISODES_FILE).absolute())}},
        "test_split": "test",
        "output_type": "generate_until",
        **functions,
        "generation_kwargs": {"max_new_tokens": max_completion_tokens, "temperature": 0, "do_sample": False},
        "metric_list": [
            {"metric": f"focus_{metric}", "aggregation": "mean", "higher_is_better": True} for metric in METRICS
        ],
        "metadata": [{"version": 1.0}],
    }


def doc_to_messages(doc: Row, lmms_eval_specific_kwargs: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return the prompt as messages with pictures between the texts."""
    return [
        {
            "role": message.role,
            "content": [
                {"type": "image", "url": Image.fromarray(part.image)}
                if isinstance(part, ImagePart)
                else {"type": "text", "text": part.text}
                for part in message.content
            ],
        }
        for message in served(doc["folder"]).messages(doc["index"])
    ]


def doc_to_visual(doc: Row) -> list[Image.Image]:
    """Return the pictures in the order of the prompt."""
    messages = served(doc["folder"]).messages(doc["index"])
    return [
        Image.fromarray(part.image) for message in messages for part in message.content if isinstance(part, ImagePart)
    ]


def doc_to_text(doc: Row, lmms_eval_specific_kwargs: Mapping[str, Any] | None = None) -> str:
    """Return the prompt as one text, `<image>` in the place of each picture."""
    messages = served(doc["folder"]).messages(doc["index"])
    texts = [
        "".join(PLACE if isinstance(part, ImagePart) else part.text for part in message.content) for message in messages
    ]
    return "\n".join(texts)


def doc_to_target(doc: Row) -> str:
    """Return the right box in pixels, for logs; nothing is compared with it."""
    return str(served(doc["folder"]).episodes[doc["index"]].target_box)


def process_results(doc: Row, results: Sequence[str]) -> dict[str, float]:
    """Return the metrics of an answer, which lmms-eval averages."""
    answer = served(doc["folder"]).score(doc["index"], results[0] if results else "")
    return {f"focus_{name}": value for name, value in metrics_of(answer).items()}
