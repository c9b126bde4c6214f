"""Whole examinations: of the model that comes with the package, of tiny models of other families, of broken ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from focus_agents.diagnosis.examination import Examination, Request, examine
from focus_agents.diagnosis.findings import Verdict
from focus_agents.diagnosis.question import Kind
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.settings import FinetuningSettings
from focus_agents.runs.checkpoint import save_policy
from focus_env.boxes import CoordinateFrame
from focus_env.datasets import SyntheticDataset
from focus_env.prompts import get_template
from tests.fakes import FakeDataset
from tests.focus_agents.models.cases import make_case


def drawn() -> SyntheticDataset:
    return SyntheticDataset(split="test", level=1, image_size=64, shots=1)


def texts(found: Examination, name: str) -> str:
    return "\n".join(note.text for note in found.sections[name].notes)


@pytest.fixture(scope="module")
def small() -> Examination:
    return examine(Request(model="focus-small", load_episodes=drawn, max_completion_tokens=12))


def test_the_shipped_model_fits(small: Examination) -> None:
    assert (small.verdict, small.exit_status) == (Verdict.OK, 0), small.sentence
    assert {s.verdict for s in small.sections.values()} == {Verdict.OK}
    assert small.sentence == "the model, the data and the prompt fit together."
    facts = {name: section.facts for name, section in small.sections.items()}
    assert facts["model"]["family"] == "qwen3_vl"
    assert facts["pictures"]["largest_difference"] < 1
    assert facts["unit"]["iou"]["norm_100"] > 0.5 > 2 * facts["unit"]["iou"]["norm_1000"]
    assert facts["budget"]["step_seconds"] > 0
    assert facts["parity"]["greedy_tokens"] == facts["parity"]["transformers_tokens"]
    json.dumps(small.as_dict(), allow_nan=False)


def test_spans_of_the_prompt_are_the_episode_s(small: Examination) -> None:
    (box,) = small.sections["prompt"].facts["boxes"]
    by_kind = {kind: [p for p in small.pieces if p.kind is kind] for kind in Kind}
    assert "".join(box["tokens"]) == box["written"]
    assert "".join(p.text for p in small.pieces if p.kind in (Kind.BOX, Kind.DIGITS)) == box["written"]
    assert [int(p.text) for p in by_kind[Kind.DIGITS]] == json.loads(box["written"])
    assert [p.num_tokens for p in by_kind[Kind.SUPPORT] + by_kind[Kind.QUERY]] == [16, 16]
    assert by_kind[Kind.ANSWER][0].text == small.sections["unit"].facts["right_answer"]
    assert sum(p.num_tokens for p in small.pieces) == small.sections["budget"].facts["prompt_tokens"] + 10


@pytest.mark.parametrize(
    ("model_type", "num_views", "says"),
    [
        ("internvl", None, "shared and repeated prompts differ by"),
        ("qwen3_5", 1, "a hybrid model: prompts are repeated"),
        ("llava_onevision", 1, "shared and repeated prompts differ by"),
        ("qwen2_5_vl", 1, "shared and repeated prompts differ by"),
        ("glm4v", 1, "shared and repeated prompts differ by"),
        ("smolvlm", None, "shared and repeated prompts differ by"),
    ],
)
def test_families(model_type: str, num_views: int | None, says: str, processor: VLMProcessor, tmp_path: Path) -> None:
    case = make_case(model_type, processor)
    folder = save_policy(tmp_path / "policy", case.model, case.processor, template=get_template("compact"))
    settings = FinetuningSettings(lora_rank=2)
    found = examine(
        Request(
            model=str(folder), load_episodes=lambda: FakeDataset(2, shots=2), max_completion_tokens=4, settings=settings
        )
    )
    faults = [text for section in found.sections.values() for text in section.of(Verdict.FAULT)]
    assert faults == []
    assert found.sections["pictures"].facts["largest_difference"] < 24
    views = [picture["views"] for picture in found.sections["pictures"].facts["pictures"]]
    assert set(views) == {1} if num_views == 1 else max(views) > 2
    assert says in texts(found, "parity")
    assert "greedy tokens are those of transformers' own generate" in texts(found, "parity")
    assert found.sections["budget"].facts["gradient_norm"] > 0
    assert found.sheet is not None
    assert found.sheet.shape[0] > 300


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory, processor: VLMProcessor, model: Any) -> Path:
    return save_policy(tmp_path_factory.mktemp("doctor") / "policy", model, processor)


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _cut_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _other_type(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))


def _no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


@pytest.mark.parametrize("damage", [_no_weights, _cut_weights, _other_type, _no_json])
def test_a_broken_folder_is_a_fault_of_its_section(
    damage: Callable[[Path], None], policy: Path, tmp_path: Path
) -> None:
    import shutil

    folder = shutil.copytree(policy, tmp_path / "policy")
    damage(folder)
    found = examine(Request(model=str(folder), load_episodes=drawn))
    assert found.exit_status == 1
    assert found.sections["model"].verdict is Verdict.FAULT
    assert found.sentence.startswith("fault in the model: ")
    assert {found.sections[name].verdict for name in ("pictures", "prompt", "unit", "parity")} == {Verdict.SKIPPED}
    assert "not looked at, because of a fault in the model" in texts(found, "unit")


def test_a_data_set_that_raises_is_a_fault_of_the_pictures() -> None:
    def broken() -> Any:
        raise KeyError("frames")

    found = examine(Request(model="tiny", load_episodes=broken, measures_step=False))
    assert found.sections["model"].verdict is Verdict.OK
    assert found.sections["pictures"].of(Verdict.FAULT) == ["KeyError: 'frames'"]
    assert found.exit_status == 1


def test_an_episode_that_is_not_there() -> None:
    found = examine(Request(model="tiny", load_episodes=lambda: FakeDataset(2), episode=2))
    assert "episode: expected 0 to 1, got 2" in texts(found, "pictures")


def test_an_unknown_template_is_a_fault() -> None:
    found = examine(Request(model="tiny", load_episodes=drawn, template="no-such"))
    assert found.exit_status == 1
    assert "no-such" in texts(found, "pictures")


def test_a_prompt_beyond_the_context_is_a_fault_before_weights_are_read() -> None:
    wide = SyntheticDataset(split="test", level=1, image_size=768, shots=3)
    found = examine(Request(model="tiny", load_episodes=lambda: wide, max_image_tokens=4000))
    assert found.sections["budget"].verdict is Verdict.FAULT
    assert "the model's context; lower `max_image_tokens` or `shots`" in texts(found, "budget")
    assert "weights were loaded" not in texts(found, "model")
    assert found.sheet is not None
    assert isinstance(found.sheet, np.ndarray)


def test_an_object_smaller_than_a_token_is_a_warning() -> None:
    scenes = SyntheticDataset(split="test", level=3, image_size=64, shots=1)
    request = Request(
        model="focus-small",
        load_episodes=lambda: scenes,
        max_image_tokens=4,
        measures_step=False,
        max_completion_tokens=12,
    )
    found = examine(request)
    assert found.exit_status == 0
    assert "covers less than 0.25 of an image token" in found.sentence


def test_a_model_asked_in_another_unit_than_its_own_is_a_warning() -> None:
    """The model writes hundredths, whatever it is asked for."""
    request = Request(model="focus-small", load_episodes=drawn, frame=CoordinateFrame.NORM_1000, measures_step=False)
    found = examine(request)
    assert found.exit_status == 0
    assert "the answer fits norm_100 far better" in found.sentence
    assert "ask in that unit: `frame` norm_100" in found.sentence


def test_a_step_is_left_out_where_it_was_not_asked_for() -> None:
    request = Request(
        model="tiny", load_episodes=drawn, frame=CoordinateFrame.NORM_1, measures_step=False, max_completion_tokens=3
    )
    found = examine(request)
    assert "no forward and backward pass was run: it was not asked for" in texts(found, "budget")
    assert "step_seconds" not in found.sections["budget"].facts
    assert "answers are cut at 3; raise `max_completion_tokens`" in texts(found, "budget")
    assert "cut at 3 tokens; raise `max_completion_tokens`" in texts(found, "unit")
