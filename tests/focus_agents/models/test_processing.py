"""Messages to token ids and pixels, and tokens back to text."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from focus_agents.models.inputs import EncodedPrompt
from focus_agents.models.loading import load_processor
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.qwen import keeps_size
from focus_env.env import observe
from focus_env.parsing import write_answer
from focus_env.prompts import TEMPLATES, get_template
from focus_env.types import Box, ImageArray, ImagePart, Message, TextPart
from tests.fakes import make_episode
from tests.focus_agents.models.families import patch_grid, picture_inputs

GREYS = (0, 90, 200)


def picture(height: int, width: int, *, grey: int = 120) -> ImageArray:
    return np.full((height, width, 3), grey, dtype=np.uint8)


def ask(*images: ImageArray) -> list[Message]:
    """One user turn: a text before each picture, and one at the end."""
    parts = [part for n, image in enumerate(images) for part in (TextPart(f"{n}:"), ImagePart(image))]
    return [Message("user", [*parts, TextPart("Answer:")])]


def num_image_tokens(prompt: EncodedPrompt, processor: VLMProcessor) -> int:
    return int((prompt.input_ids == processor.image_token_id).sum())


def pixels(prompt: EncodedPrompt) -> np.ndarray:
    return prompt.images["pixel_values"]


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
        template = dataclasses.replace(get_template(name), allow_absent=allow_absent)
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


class TestCollate:
    """Prompts of different lengths in one batch."""

    def test_pads_on_the_left(self, processor: VLMProcessor, prompts: list[EncodedPrompt]) -> None:
        batch = processor.collate(prompts)
        longest = max(len(p.input_ids) for p in prompts)
        assert batch.input_ids.shape == batch.attention_mask.shape == (3, longest)
        for row, prompt in enumerate(prompts):
            num_padding = longest - len(prompt.input_ids)
            padding = [processor.pad_token_id] * num_padding
            assert batch.input_ids[row].tolist() == [*padding, *prompt.input_ids]
            assert batch.attention_mask[row].tolist() == [0] * num_padding + [1] * len(prompt.input_ids)

    def test_marks_image_tokens_and_joins_pictures(self, processor: VLMProcessor, prompts: list[EncodedPrompt]) -> None:
        batch = processor.collate(prompts)
        assert torch.equal(batch.image_mask, batch.input_ids == processor.image_token_id)
        assert batch.image_mask.sum(1).tolist() == [num_image_tokens(p, processor) for p in prompts]
        assert batch.grids.tolist() == [row for p in prompts for row in p.grids.tolist()]
        np.testing.assert_array_equal(batch.images["pixel_values"], np.concatenate([pixels(p) for p in prompts]))
        assert batch.image_rows == {"pixel_values": tuple(len(pixels(p)) for p in prompts)}
        kinds = [batch.input_ids, batch.attention_mask, batch.grids]
        assert {tensor.dtype for tensor in kinds} == {torch.int64}
        assert (batch.image_mask.dtype, batch.images["pixel_values"].dtype) == (torch.bool, torch.float32)

    @pytest.mark.parametrize("has_features", [False, True])
    def test_moves_to_a_device_whole(
        self, processor: VLMProcessor, prompts: list[EncodedPrompt], has_features: bool
    ) -> None:
        batch = processor.collate(with_random_features(prompts, processor) if has_features else prompts)
        moved = batch.to("meta")
        for field in dataclasses.fields(batch):
            before, after = getattr(batch, field.name), getattr(moved, field.name)
            if field.name == "num_images":
                assert after == before == (2, 4, 3)
            elif field.name == "image_rows":
                assert after == before
            elif field.name == "image_features" and not has_features:
                assert after is before is None
            else:
                parts = [(before, after)]
                if field.name == "image_features":
                    parts = list(zip(before, after, strict=True))
                elif field.name == "images":
                    assert list(before) == list(after) == ([] if has_features else ["pixel_values"])
                    parts = [(before[name], after[name]) for name in before]
                for left, right in parts:
                    assert (left.device.type, right.device.type) == ("cpu", "meta")
                    assert (right.shape, right.dtype) == (left.shape, left.dtype)

    def test_joins_image_features(self, processor: VLMProcessor, prompts: list[EncodedPrompt]) -> None:
        """In the order of the prompts, layer by layer; the pixels are gone."""
        given = with_random_features(prompts, processor)
        batch = processor.collate(given)
        assert batch.image_features is not None
        assert len(batch.image_features) == 3
        for layer, joined in enumerate(batch.image_features):
            start = 0
            for row, prompt in enumerate(given):
                assert prompt.image_features is not None
                stop = start + int(batch.image_mask[row].sum())
                assert torch.equal(joined[start:stop], prompt.image_features[layer])
                start = stop
            assert start == len(joined)
        assert batch.images == {}
        assert batch.grids.tolist() == processor.collate(prompts).grids.tolist()
        assert processor.collate(prompts).image_features is None

    @pytest.mark.parametrize("which", [[0], [2], [0, 1]])
    def test_image_features_of_some_are_refused(
        self, processor: VLMProcessor, prompts: list[EncodedPrompt], which: list[int]
    ) -> None:
        given = with_random_features(prompts, processor)
        mixed = [given[n] if n in which else prompts[n] for n in range(3)]
        message = f"prompts: expected image features of all 3 or of none, got {len(which)}"
        with pytest.raises(ValueError, match=message):
            processor.collate(mixed)


def with_random_features(prompts: list[EncodedPrompt], processor: VLMProcessor) -> list[EncodedPrompt]:
    """As if a vision tower with two deepstack layers had seen the pictures."""
    generator = torch.Generator().manual_seed(0)
    return [
        dataclasses.replace(
            prompt,
            images={},
            image_features=tuple(torch.randn(3, num_image_tokens(prompt, processor), 5, generator=generator)),
        )
        for prompt in prompts
    ]


class TestRepeat:
    """Each prompt several times, copies next to each other."""

    @pytest.mark.parametrize("times", [1, 2, 5])
    @pytest.mark.parametrize("has_features", [False, True])
    def test_is_what_collating_copies_gives(
        self, processor: VLMProcessor, prompts: list[EncodedPrompt], has_features: bool, times: int
    ) -> None:
        given = with_random_features(prompts, processor) if has_features else prompts
        repeated = processor.collate(given).repeat(times)
        expected = processor.collate([prompt for prompt in given for _ in range(times)])
        assert repeated.num_images == expected.num_images
        assert repeated.image_rows == expected.image_rows
        assert (repeated.image_features is None) == (expected.image_features is None)
        for ours, right in zip(repeated.image_features or (), expected.image_features or (), strict=True):
            assert torch.equal(ours, right)
        assert len(expected.tensors()) == (4 if has_features else 5)
        assert repeated.tensors().keys() == expected.tensors().keys()
        for name, right in expected.tensors().items():
            ours = repeated.tensors()[name]
            assert ours.dtype == right.dtype
            assert torch.equal(ours, right), name

    def test_by_hand(self, processor: VLMProcessor, prompts: list[EncodedPrompt]) -> None:
        batch = processor.collate(prompts[:2])
        repeated = batch.repeat(2)
        assert repeated.num_images == (2, 2, 4, 4)
        first, second = batch.grids.split([2, 4])
        assert repeated.grids.tolist() == torch.cat([first, first, second, second]).tolist()
        assert [row.tolist() for row in repeated.input_ids] == [batch.input_ids[n].tolist() for n in (0, 0, 1, 1)]


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


@pytest.mark.parametrize(
    ("sizes", "is_short"),
    [
        ([(64, 64)] * 5, True),
        ([(32, 48)], True),
        ([(64, 64), (48, 64)], False),
        ([(60, 60)] * 2, False),
        ([(16, 16)], False),
        ([(144, 128)], False),
        ([(4800, 16)], False),
    ],
)
def test_patches_of_equal_small_pictures_are_what_the_image_processor_makes(
    processor: VLMProcessor, sizes: list[tuple[int, int]], is_short: bool
) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    assert keeps_size(processor.image_processor, images) == is_short
    if max(sizes[0]) > 200 * min(sizes[0]):
        return  # the image processor refuses it
    grids, arrays = processor.family.preprocess(processor.image_processor, images)
    theirs = processor.image_processor(images=images, input_data_format="channels_last", return_tensors="np")
    np.testing.assert_array_equal(patch_grid(grids), theirs["image_grid_thw"])
    np.testing.assert_array_equal(arrays["pixel_values"], theirs["pixel_values"])
    assert arrays["pixel_values"].dtype == np.float32
