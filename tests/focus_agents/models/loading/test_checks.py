"""Models that cannot be used are said so by all commands, before weights are read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForImageTextToText

from focus_agents.errors import CheckpointError
from focus_agents.grpo.plan import GRPOPlan
from focus_agents.grpo.settings import GRPOSchedule, GRPOSettings
from focus_agents.models.loading import check_model, load_processor
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.settings import ModelSettings
from focus_agents.policies.focus import FocusPolicy
from focus_agents.policies.registry import PolicySpec
from focus_agents.runs.checkpoint import save_policy
from focus_agents.runs.export import export_policy
from focus_agents.sft.plan import SFTPlan
from focus_agents.sft.settings import SFTConfig, SFTSchedule
from focus_agents.sft.train import Workers, check_plan
from focus_env.prompts import get_template
from focus_env.rewards.weighted import WeightedReward
from tests.fakes import make_episode
from tests.focus_agents.models.families import make_model

WEIGHTS = "model.safetensors"
Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, processor: VLMProcessor) -> Path:
    return save_policy(tmp_path_factory.mktemp("checks") / "whole", make_model("qwen2_5_vl", processor), processor)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def change_json(name: str, **changes: Any) -> Damage:
    def change(folder: Path) -> None:
        file = folder / name
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def index_of(*shards: str) -> Damage:
    def write(folder: Path) -> None:
        (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
        weight_map = {f"w{number}": shard for number, shard in enumerate(shards)}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return write


def cut(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


def template_in(name: str, *, is_there: bool = True) -> Damage:
    def move(folder: Path) -> None:
        template = load_processor(str(folder)).tokenizer.chat_template
        (folder / "chat_template.jinja").unlink(missing_ok=True)
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        settings.pop("chat_template", None)
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        if is_there:
            text = json.dumps({"chat_template": template}) if name.endswith(".json") else template
            (folder / name).write_text(text)

    return move


def other_image_token(folder: Path) -> None:
    text = (folder / "config.json").read_text()
    config = json.loads(text)
    change_json("config.json", image_token_id=config["image_token_id"] + 1)(folder)


def another_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace("<|image_pad|>", "<image_soft_token>"))


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


DAMAGES: dict[str, tuple[Damage, str]] = {
    "a text model": (
        lambda f: (f / "config.json").write_text(json.dumps({"model_type": "qwen2"})),
        "it sees no pictures, so take a vision-language model: model type 'qwen2'",
    ),
    "a VLM without a family": (
        lambda f: (f / "config.json").write_text(json.dumps({"model_type": "idefics2", "vision_config": {}})),
        "it is of a family that is not known here, so serve it by vLLM .* openai_api: model type 'idefics2'",
    ),
    "config of []": (
        lambda f: (f / "config.json").write_text("[]"),
        "expected an object in braces, got list",
    ),
    "config of null": (lambda f: (f / "config.json").write_text("null"), "expected an object in braces, got null"),
    "config of 3": (lambda f: (f / "config.json").write_text("3"), "expected an object in braces, got int"),
    "cut config": (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read as JSON"),
    "no config": (lambda f: (f / "config.json").unlink(), "there is no config.json with a model_type"),
    "AWQ": (
        change_json("config.json", quantization_config={"quant_method": "awq", "bits": 4}),
        "its weights are quantized by awq, which cannot be used here .*; take the model as it was before, or serve it",
    ),
    "GPTQ": (
        change_json("config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
        "its weights are quantized by gptq, which cannot be used here",
    ),
    "an unknown quantization": (
        change_json("config.json", quantization_config={"quant_method": "magic"}),
        "its weights are quantized by magic, which cannot be used here",
    ),
    "an image token of another id": (
        other_image_token,
        r"in which <\|image_pad\|> is \d+, as config.json has it, got one in which it is \d+; .* of another model",
    ),
    "a tokenizer without the image token": (
        another_tokenizer,
        r"got one without the image token <\|image_pad\|>; the folder holds the tokenizer of another model",
    ),
    "an image processor with other patches": (
        change_json("preprocessor_config.json", patch_size=16),
        "expected its own image processor, with patch_size 8 by config.json, got one with 16",
    ),
    "an image processor of another class": (
        lambda f: (f / "preprocessor_config.json").write_text(
            json.dumps({"image_processor_type": "CLIPImageProcessor"})
        ),
        "expected the image processor of a qwen2_5_vl, Qwen2VLImageProcessor.*, got CLIPImageProcessor",
    ),
    "no chat template": (
        template_in("", is_there=False),
        "chat template: expected one in tokenizer_config.json, chat_template.jinja or chat_template.json, got none",
    ),
    "a shard is missing": (
        index_of("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
        "1 of 2 files that model.safetensors.index.json names are missing, e.g. model-00002",
    ),
    "an index of nothing": (
        lambda f: (f / "model.safetensors.index.json").write_text("{}"),
        "model.safetensors.index.json: expected the files of the weights under 'weight_map'",
    ),
    "cut weights": (cut, r"model.safetensors is cut off at [\d,]+ of [\d,]+ bytes; copy or download it again"),
    "empty weights": (lambda f: (f / WEIGHTS).write_bytes(b""), r"is cut off or is no file of safetensors \(0 bytes\)"),
    "no header": (lambda f: (f / WEIGHTS).write_bytes(b"\2" + bytes(7) + b"[]"), "is no file of safetensors"),
    "pickles": (pickled, "got pytorch_model.bin, a pickle, which can run any code"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "there is no model.safetensors"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_what_is_said_before_weights_are_read(what: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage, message = DAMAGES[what]
    damage(folder)
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", None)
    with pytest.raises(CheckpointError, match=message):
        check_model(str(folder))


@pytest.mark.parametrize("name", ["chat_template.json", "chat_template.jinja", "tokenizer_config.json"])
def test_a_template_in_any_of_its_places(name: str, folder: Path, whole: Path) -> None:
    expected = load_processor(str(whole)).tokenizer.chat_template
    if name == "tokenizer_config.json":
        template_in("chat_template.jinja", is_there=False)(folder)
        change_json(name, chat_template=expected)(folder)
    else:
        template_in(name)(folder)
    assert check_model(str(folder)).tokenizer.chat_template == expected


def grpo(text: str) -> None:
    GRPOPlan(
        model=ModelSettings(model=text),
        template=get_template("compact"),
        reward=WeightedReward.from_spec("iou:1"),
        training_episodes=[make_episode(0)],
        validation_episodes=[make_episode(0)],
        settings=GRPOSettings(),
        schedule=GRPOSchedule(),
    ).config()


def sft(text: str) -> None:
    plan = SFTPlan(
        model=text,
        template=get_template("compact"),
        training_episodes=[make_episode(0)],
        validation_episodes=[make_episode(0)],
        config=SFTConfig(),
        schedule=SFTSchedule(),
        run_path=Path("/no/run"),
    )
    check_plan(plan, Workers(num_workers=1))


COMMANDS: dict[str, Callable[[str], object]] = {
    "grpo": grpo,
    "sft": sft,
    "evaluate": lambda text: PolicySpec(text=f"vlm:{text}").check(),
    "demo": FocusPolicy.from_pretrained,
    "export": lambda text: export_policy(text, Path("/no/export")),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_all_commands_check_alike(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(folder)
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", None)
    with pytest.raises(CheckpointError, match="is cut off at"):
        COMMANDS[command](str(folder))


def test_code_of_a_model_is_never_run(folder: Path) -> None:
    (folder / "modeling.py").write_text("raise SystemExit('code of the hub was run')\n")
    change_json("config.json", auto_map={"AutoConfig": "modeling.Config", "AutoModel": "modeling.Model"})(folder)
    check_model(str(folder))
    FocusPolicy.from_pretrained(str(folder))
