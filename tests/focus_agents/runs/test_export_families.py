"""What is exported of each family answers in plain transformers as it does here, without this package's code."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from focus_agents.engine.forward import image_inputs
from focus_agents.engine.generation import sample_completions
from focus_agents.models.processing import VLMProcessor
from focus_agents.rollout.records import Sampling
from focus_agents.runs.checkpoint import save_policy
from focus_agents.runs.export import export_policy
from focus_env.env import observe
from focus_env.types import ImagePart
from tests.focus_agents.models.cases import EPISODES, MODEL_TYPES, TEMPLATE, Case, make_case

FAMILIES = [name for name in MODEL_TYPES if name != "llava"]
HAS_TORCHVISION = importlib.util.find_spec("torchvision") is not None
NUM_TOKENS = 8
NEVER = 511
"""A token that ends no answer, so that all answers are of one length."""


@pytest.fixture(scope="module", params=FAMILIES)
def exported(
    request: pytest.FixtureRequest, processor: VLMProcessor, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Case, Path]:
    """A tiny model of a family, and the folder of its export."""
    case, place = make_case(request.param, processor), tmp_path_factory.mktemp(request.param)
    save_policy(place / "policy", case.model, case.processor)
    return case, export_policy(str(place / "policy"), place / "exported")


def our_answer(case: Case) -> list[int]:
    """The tokens of a greedy answer to the first episode."""
    found = sample_completions(
        case.model,
        case.processor.collate(case.prompts[:1]),
        num_completions=1,
        sampling=Sampling(0.0, NUM_TOKENS),
        seeds=range(1),
        eos_token_id=NEVER,
        pad_token_id=case.processor.pad_token_id,
    )
    return found.token_ids[0, 0].tolist()


def their_answer(model: Any, inputs: Any, case: Case) -> list[int]:
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": NUM_TOKENS, "eos_token_id": NEVER}
    tokens = model.generate(**inputs, **options, pad_token_id=case.processor.pad_token_id)
    return tokens[0, inputs["input_ids"].shape[1] :].tolist()


def load_plain(folder: Path) -> Any:
    model, told = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(model).__module__.startswith("transformers.")
    assert "focus" not in json.dumps(json.loads((folder / "config.json").read_text())).lower()
    assert "focus" not in str(model.config._attn_implementation)
    return model


def test_the_model_answers_the_same(exported: tuple[Case, Path]) -> None:
    case, folder = exported
    model, alone = load_plain(folder), case.processor.collate(case.prompts[:1])
    inputs = {
        "input_ids": alone.input_ids,
        "attention_mask": alone.attention_mask,
        **image_inputs(case.model, alone),
    }
    assert their_answer(model, inputs, case) == our_answer(case)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.get_vocab() == case.processor.tokenizer.get_vocab()
    assert tokenizer.chat_template == case.processor.tokenizer.chat_template
    images = AutoImageProcessor.from_pretrained(folder)
    assert type(images) is type(case.processor.own_image_processor)
    assert images.to_dict() == case.processor.own_image_processor.to_dict()


def test_the_processor_asks_the_same(exported: tuple[Case, Path]) -> None:
    """From the messages on, by transformers' own processor and chat template."""
    case, folder = exported
    kind = PROCESSOR_MAPPING[type(case.model.config)]
    if "video_processor" in kind.get_attributes() and not HAS_TORCHVISION:
        pytest.skip("transformers wants torchvision for the videos that this family could see")
    processor = AutoProcessor.from_pretrained(folder)
    assert type(processor) is kind
    if processor.chat_template is None:
        pytest.skip("the family has no chat template in transformers")
    messages = [
        {
            "role": message.role,
            "content": [
                {"type": "image", "image": Image.fromarray(np.asarray(part.image))}
                if isinstance(part, ImagePart)
                else {"type": "text", "text": part.text}
                for part in message.content
            ],
        }
        for message in TEMPLATE.render(observe(EPISODES[0]))
    ]
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert inputs["input_ids"][0].tolist() == case.prompts[0].input_ids.tolist()
    with torch.no_grad():
        assert their_answer(load_plain(folder), inputs, case) == our_answer(case)
