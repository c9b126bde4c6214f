"""Messages to token ids and pixels, and tokens back to text."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from focus_agents.models.loading import load_processor
from focus_agents.models.processing import VLMProcessor
from focus_env.env import observe
from focus_env.parsing import write_answer
from focus_env.prompts import TEMPLATES, get_template
from focus_env.types import Box, ImagePart, Message, TextPart
from tests.fakes import make_episode
from tests.focus_agents.models.families import picture_inputs
from tests.focus_agents.models.messages import ask, num_image_tokens, picture, pixels

GREYS = (0, 90, 200)


class TestEncode:
    """`encode`: one conversation."""

    @pytest.mark.parametrize(
        ("height", "width", "num_tokens"),
        [
            (1, 1, None),
            (5, 5, 4),  # scaled up to the least, 2 x 2 tokens
            (16, 16, 4),
            (32, 32, 4),
            (64, 64, 16),
            (64, 32, 8),
            (128, 128, 64),
            (60, 80, 20),  # 60 rounds to 64
            (1000, 1000, 64),
            (3000, 2000, None),
        ],
    )
    def test_number_of_image_tokens(
        self, processor: VLMProcessor, height: int, width: int, num_tokens: int | None
    ) -> None:
        prompt = processor.encode(ask(picture(height, width)))
        ((rows, columns),) = prompt.grids.tolist()
        assert num_image_tokens(prompt, processor) == rows * columns
        assert len(prompt.images["pixel_values"]) == 4 * rows * columns
        assert 4 <= num_image_tokens(prompt, processor) <= 64
        if num_tokens is not None:
            assert num_image_tokens(prompt, processor) == num_tokens

    @pytest.mark.parametrize(("height", "width"), [(3, 90), (1, 60), (4, 90), (20, 90)])
    def test_a_flat_picture_stays_flat(self, processor: VLMProcessor, height: int, width: int) -> None:
        """A height of 1, 3 or 4 pixels looks like the number of channels, and is none."""
        ((rows, columns),) = processor.encode(ask(picture(height, width))).grids.tolist()
        assert rows < columns

    def test_several_pictures_keep_their_order(self, processor: VLMProcessor) -> None:
        images = [picture(32, 32 + 16 * n, grey=grey) for n, grey in enumerate(GREYS)]
        prompt = processor.encode(ask(*images))
        alone = [processor.encode(ask(image)) for image in images]
        assert prompt.grids.tolist() == [p.grids[0].tolist() for p in alone]
        np.testing.assert_array_equal(pixels(prompt), np.concatenate([pixels(p) for p in alone]))
        counts = [num_image_tokens(p, processor) for p in alone]
        assert len(set(counts)) == 3
        runs = processor.tokenizer.decode(prompt.input_ids).split("<|vision_start|>")[1:]
        assert [run.count("<|image_pad|>") for run in runs] == counts

    def test_types(self, processor: VLMProcessor) -> None:
        prompt = processor.encode(ask(picture(32, 32), picture(48, 32)))
        assert prompt.input_ids.dtype == prompt.grids.dtype == np.int64
        assert pixels(prompt).dtype == np.float32
        assert pixels(prompt).shape == (16 + 24, 3 * 2 * 8 * 8)

    def test_the_text_of_a_conversation(self, processor: VLMProcessor) -> None:
        image = ImagePart(picture(32, 32))
        messages = [
            Message("system", [TextPart("Look.")]),
            Message("user", [image, TextPart("[1, 2]"), image, TextPart("Answer:")]),
            Message("assistant", [TextPart("here")]),
            Message("user", [TextPart("Sure?")]),
        ]
        seen = "<|vision_start|>" + "<|image_pad|>" * 4 + "<|vision_end|>"
        assert processor.tokenizer.decode(processor.encode(messages).input_ids) == (
            "<|im_start|>system\nLook.<|im_end|>\n"
            f"<|im_start|>user\n{seen}[1, 2]{seen}Answer:<|im_end|>\n"
            "<|im_start|>assistant\nhere<|im_end|>\n"
            "<|im_start|>user\nSure?<|im_end|>\n"
            "<|im_start|>assistant\n"
        )

    @pytest.mark.parametrize("messages", [[], [Message("user", [TextPart("Where?")])], [Message("user", [])]])
    def test_no_picture_is_refused(self, processor: VLMProcessor, messages: list[Message]) -> None:
        with pytest.raises(ValueError, match="messages: expected at least one picture, got none; a prompt needs a"):
            processor.encode(messages)

    @pytest.mark.parametrize("name", sorted(TEMPLATES))
    @pytest.mark.parametrize("allow_absent", [False, True])
    def test_no_prompt_holds_a_category(self, processor: VLMProcessor, name: str, allow_absent: bool) -> None:
        template = processor.fit_template(dataclasses.replace(get_template(name), allow_absent=allow_absent))
        episode = make_episode(shots=3)
        text = processor.tokenizer.decode(processor.encode(template.render(observe(episode))).input_ids)
        assert episode.category == "secret category"
        for word in ("secret", "category", episode.identity, episode.episode_id, episode.query_frame.name):
            assert word not in text
        assert text.count("<|vision_start|>") == 4

    def test_the_picture_is_left_as_it_was(self, processor: VLMProcessor) -> None:
        image = np.random.default_rng(0).integers(256, size=(40, 50, 3), dtype=np.uint8)
        before = image.copy()
        processor.encode(ask(image))
        np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("max_image_tokens", [4, 9, 16, 40, 100])
@pytest.mark.parametrize(("height", "width"), [(600, 600), (300, 500), (640, 480), (64, 64)])
def test_larger_pictures_are_scaled_down(max_image_tokens: int, height: int, width: int) -> None:
    small = load_processor("tiny", max_image_tokens=max_image_tokens)
    natural = (height // 16) * (width // 16)
    count = num_image_tokens(small.encode(ask(picture(height, width))), small)
    assert count <= max_image_tokens
    assert count >= min(natural, max_image_tokens) / 2, "no smaller than needed"


def test_max_image_tokens_leaves_small_pictures_alone() -> None:
    limited, free = (load_processor("tiny", max_image_tokens=limit) for limit in (16, None))
    for size in (20, 40, 64):
        image = picture(size, size)
        np.testing.assert_array_equal(
            pixels(limited.encode(ask(image))), pixels(free.encode(ask(image))), err_msg=str(size)
        )


class TestText:
    """Answers to tokens and back."""

    @pytest.mark.parametrize(
        "text",
        [
            "",
            " ",
            "  two  spaces ,  kept .",
            "é 日本 \N{GRINNING FACE} \x00",
            "\n\n<answer>\t[1, 2",
            "I do n't know .",
            write_answer(None, frame=get_template("compact").frame, image_wh=(64, 64)),
            write_answer(Box(0, 0, 64, 64), frame=get_template("compact").frame, image_wh=(64, 64)),
            "<answer>[9, 98, 987, 1000]</answer>",
        ],
    )
    def test_decode_gives_an_encoded_answer_back(self, processor: VLMProcessor, text: str) -> None:
        ids = processor.encode_answer(text)
        assert ids[-1] == processor.eos_token_id
        assert processor.eos_token_id not in ids[:-1]
        assert processor.decode(ids) == text
        assert processor.decode([*ids, *[processor.pad_token_id] * 3]) == text

    def test_every_box_answer_comes_back(self, processor: VLMProcessor) -> None:
        for value in range(0, 1001, 7):
            text = f"<answer>[{value}, {1000 - value}, 1000, {value // 2}]</answer>"
            assert processor.decode(processor.encode_answer(text)) == text

    def test_banned_tokens_are_those_of_pictures(self, processor: VLMProcessor) -> None:
        assert len(set(processor.banned_token_ids)) == 5
        tokens = ["<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
        assert processor.tokenizer.convert_ids_to_tokens(list(processor.banned_token_ids)) == tokens
        assert processor.image_token_id in processor.banned_token_ids
        assert not {processor.eos_token_id, processor.pad_token_id} & set(processor.banned_token_ids)


def test_a_processor_travels_between_processes(processor: VLMProcessor) -> None:
    twin = pickle.loads(pickle.dumps(processor))
    first, second = (p.encode(ask(picture(40, 64))) for p in (processor, twin))
    np.testing.assert_array_equal(first.input_ids, second.input_ids)
    np.testing.assert_array_equal(pixels(first), pixels(second))


@pytest.mark.parametrize("order", [(1, 0, 2), (0, 2, 1), (2, 1, 0)])
def test_what_the_model_predicts_depends_on_which_picture_stands_where(
    processor: VLMProcessor, model: Any, order: tuple[int, ...]
) -> None:
    """Pictures of one size, so that nothing but their pixels changes places."""
    images = [picture(48, 48, grey=grey) for grey in GREYS]
    batches = [processor.collate([processor.encode(ask(*(images[n] for n in o)))]) for o in ((0, 1, 2), order)]
    assert torch.equal(batches[0].input_ids, batches[1].input_ids)
    with torch.no_grad():
        first, second = (
            model(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                **picture_inputs(batch),
            )
            .logits[0, -1]
            .log_softmax(-1)
            for batch in batches
        )
    assert (first - second).abs().max() > 1e-2
