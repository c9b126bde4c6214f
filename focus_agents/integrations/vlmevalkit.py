"""A data set of VLMEvalKit (https://github.com/open-compass/VLMEvalKit) that serves our episodes; for its version 0.2.

    python -m focus_agents.integrations.vlmevalkit runs/harness VLMEvalKit/run.py --model Qwen2-VL-7B-Instruct

VLMEvalKit has no place for data sets of others, so this adds one to its table, under the folder's name, and then
starts its `run.py` with `--data` set to that name. Pictures stand between the texts, as `focus evaluate` asks.
VLMEvalKit takes one user turn, so the turns of a prompt that has several are joined, a system message in front.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from focus_agents.integrations.harness import EPISODES_FILE, METRICS, metrics_of, served
from focus_env.errors import MissingDependencyError
from focus_env.types import ImagePart


def register(folder: Path, name: str) -> type:
    """Make a data set of VLMEvalKit of a folder that `harness.write_request` has written, and add it to its table.

    Args:
        folder: Of the episodes.
        name: By which `--data` finds it.

    Returns:
        The class of the data set.

    Raises:
        MissingDependencyError: If VLMEvalKit is not installed.
    """
    try:
        import vlmeval.dataset
        from vlmeval.dataset.image_base import ImageBaseDataset
    except ImportError as error:
        raise MissingDependencyError(
            f"VLMEvalKit is not installed, or not whole ({error}); clone https://github.com/open-compass/VLMEvalKit "
            "and run pip install -e . there"
        ) from error
    made = _dataset_class(ImageBaseDataset, folder.absolute(), name)
    vlmeval.dataset.DATASET_CLASSES.append(made)
    vlmeval.dataset.SUPPORTED_DATASETS.append(name)
    return made


def _dataset_class(base: Any, folder: Path, name: str) -> type:
    """Return the class of a data set whose episodes lie in a folder."""
    import pandas as pd  # here and below: VLMEvalKit brings it

    class FocusEpisodes(base):
        """In-context object localization: find the object of the supports in the query."""

        TYPE = "VQA"
        MODALITY = "IMAGE"
        force_use_dataset_prompt = True

        @classmethod
        def supported_datasets(cls) -> list[str]:
            return [name]

        def load_data(self, dataset: str) -> Any:
            rows = pd.read_json(folder / EPISODES_FILE, lines=True)
            ids = [served(str(folder)).episodes[int(index)].episode_id for index in rows["index"]]
            return pd.DataFrame({"index": rows["index"], "question": ids})

        def build_prompt(self, line: Any) -> list[dict[str, str]]:
            index = int(self.data.iloc[line]["index"] if isinstance(line, int) else line["index"])
            pictures, parts = Path(self.img_root), []
            pictures.mkdir(parents=True, exist_ok=True)
            contents = [part for message in served(str(folder)).messages(index) for part in message.content]
            for number, part in enumerate(contents):
                if isinstance(part, ImagePart):
                    file = pictures / f"{index}_{number}.png"
                    Image.fromarray(part.image).save(file)
                    parts.append({"type": "image", "value": str(file)})
                else:
                    parts.append({"type": "text", "value": part.text})
            return parts

        @classmethod
        def evaluate(cls, eval_file: str, **judge_kwargs: Any) -> Any:
            from vlmeval.smp import load

            answers = load(eval_file)
            scored = [
                metrics_of(served(str(folder)).score(int(index), str(text)))
                for index, text in zip(answers["index"], answers["prediction"], strict=True)
            ]
            return {metric: sum(score[metric] for score in scored) / len(scored) for metric in METRICS}

        @classmethod
        def report_primary_metric(cls, metrics: dict[str, Any] | None) -> dict[str, float]:
            return {"miou": metrics["miou"]} if metrics else {}

    return FocusEpisodes


def main(words: Sequence[str]) -> None:
    """Start VLMEvalKit's `run.py` on a folder of episodes.

    Args:
        words: The folder, the path of `run.py`, and its flags without `--data`.

    Raises:
        SystemExit: With a message if the folder or the file is not there.
    """
    if len(words) < 2 or not (Path(words[0]) / EPISODES_FILE).exists() or not Path(words[1]).is_file():
        raise SystemExit(f"error: expected a folder of focus harness and VLMEvalKit's run.py, got {list(words)}")
    name = Path(words[0]).absolute().name
    register(Path(words[0]), name)
    sys.argv = [words[1], "--data", name, *words[2:]]
    sys.path.insert(0, str(Path(words[1]).absolute().parent))
    runpy.run_path(words[1], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
