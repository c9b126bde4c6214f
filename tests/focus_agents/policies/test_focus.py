"""A localizer to call: its answers in pixels, and where it says that it looked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForImageTextToText

from focus_agents.errors import CheckpointError
from focus_agents.models.inputs import EncodedPrompt
from focus_agents.models.loading import load_model, load_processor, load_template
from focus_agents.models.settings import Precision
from focus_agents.policies.focus import FocusPolicy, Localization, locate
from focus_agents.rollout.records import MAX_COMPLETION_TOKENS, Completion, Generation, Policy, Sampling
from focus_agents.runs.checkpoint import save_policy
from focus_env.boxes import CoordinateFrame
from focus_env.env import observe
from focus_env.prompts import PromptTemplate, get_template
from focus_env.types import Box, ImageArray, ImagePart, Message, ParseStatus, TextPart
from tests.fakes import make_episode
from tests.focus_agents.models.families import picture_inputs

QUERY_WH = (80, 48)
ANSWER = Box(8.0, 12.0, 40.0, 36.0)


def noise(image_wh: tuple[int, int], seed: int) -> ImageArray:
    return np.random.default_rng(seed).integers(256, size=(image_wh[1], image_wh[0], 3), dtype=np.uint8)


SUPPORTS = [(noise((64, 32), 1), Box(4.0, 8.0, 32.0, 24.0)), (noise((48, 48), 2), Box(0.0, 12.0, 48.0, 36.0))]
QUERY = noise(QUERY_WH, 3)


@pytest.fixture(scope="module", params=["tiny", "small"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved policy with weights that are wide enough to make attention uneven."""
    name, model = request.param, load_model(request.param, seed=1)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "layers" in key and parameter.ndim > 1:
                parameter.mul_(4)
    place = tmp_path_factory.mktemp("policies") / name
    return save_policy(place, model, load_processor(name), template=load_template(name))


@pytest.fixture(scope="module")
def policy(folder: Path) -> FocusPolicy:
    return FocusPolicy.from_pretrained(str(folder))


def say(policy: FocusPolicy, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let a policy answer with this text, whatever it is asked."""

    def generate(prompts: Sequence[Sequence[Message]], **options: Any) -> list[Generation]:
        ids = np.array(policy.processor.encode_answer(text))
        completion = Completion(text, ids, np.zeros(len(ids), dtype=np.float32), is_finished=True)
        return [Generation((completion,), policy.processor.encode(prompt)) for prompt in prompts]

    monkeypatch.setattr(policy, "generate", generate)


def expected_attention(folder: Path, policy: FocusPolicy, prompt: EncodedPrompt, text: str) -> np.ndarray:
    """[positions, tokens] by transformers' eager attention, averaged over layers and heads."""
    model = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager").eval()
    batch = policy.processor.collate([prompt])
    answer = torch.tensor([policy.processor.encode_answer(text)])
    ids = torch.cat([batch.input_ids, answer], dim=1)
    mask = torch.ones_like(ids)
    with torch.no_grad():
        attentions = model(
            input_ids=ids,
            attention_mask=mask,
            **picture_inputs(batch, answer.shape[1]),
            use_cache=False,
            output_attentions=True,
        ).attentions
    return torch.stack(attentions).mean((0, 2))[0].numpy()


class TestLoading:
    """From a folder, with the prompt that belongs to it."""

    def test_it_asks_as_it_was_trained(self, folder: Path, policy: FocusPolicy) -> None:
        assert policy.template == load_template(folder.name)
        assert not policy.model.training
        assert policy.precision == "fp32"

    @pytest.mark.parametrize("name", ["tiny", "small"])
    def test_new_models_have_theirs(self, name: str) -> None:
        assert FocusPolicy.from_pretrained(name).template == load_template(name)

    def test_another_prompt_that_a_folder_names(self, folder: Path, tmp_path: Path) -> None:
        template = dataclasses.replace(get_template("default"), frame=CoordinateFrame.PIXEL)
        place = save_policy(tmp_path / "p", load_model(str(folder)), load_processor(str(folder)), template=template)
        assert FocusPolicy.from_pretrained(str(place)).template == template

    def test_its_weights_are_those_of_the_folder(self, folder: Path, policy: FocusPolicy) -> None:
        saved = load_model(str(folder)).state_dict()
        assert all(torch.equal(value, saved[name]) for name, value in policy.model.state_dict().items())

    @pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
    def test_weights_are_in_the_precision_asked_for_and_have_no_gradients(
        self, folder: Path, precision: Precision, dtype: torch.dtype
    ) -> None:
        parameters = dict(FocusPolicy.from_pretrained(folder, precision=precision).model.named_parameters())
        assert {parameter.dtype for parameter in parameters.values()} == {dtype}
        assert not any(parameter.requires_grad for parameter in parameters.values())

    def test_no_second_copy_of_a_weight_is_made(self, folder: Path) -> None:
        """Autocast keeps one in bfloat16 of each weight in float32 that has a gradient."""
        question = get_template("compact").render(observe(make_episode(0, shots=3)))
        ask: dict[str, Any] = {"num_completions": 1, "sampling": Sampling(0.0, 3), "seeds": [0]}
        policy = FocusPolicy.from_pretrained(folder, precision="bf16")
        shapes = {tuple(p.shape) for p in policy.model.parameters() if p.ndim == 2 and p.shape[0] != p.shape[1]}
        made = []

        class Copies(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                result = func(*args, **(kwargs or {}))
                if func is torch.ops.aten._to_copy.default and tuple(result.shape) in shapes:
                    made.append(tuple(result.shape))
                return result

        with Copies():
            policy.generate([question], **ask)
        assert made == []
        policy.model.float().requires_grad_()
        with Copies():
            policy.generate([question], **ask)
        assert made, "the test would see them"

    def test_a_picture_budget(self, folder: Path) -> None:
        thrifty = FocusPolicy.from_pretrained(str(folder), max_image_tokens=4)
        found = thrifty.locate([(noise((64, 64), 0), Box(0, 0, 9, 9))], noise((64, 64), 1), with_attention=True)
        assert [part.shape for part in found.attention] == [(2, 2), (2, 2)]

    def test_its_folder_may_be_a_path(self, folder: Path, policy: FocusPolicy) -> None:
        again = FocusPolicy.from_pretrained(folder)
        assert again.template == policy.template
        assert load_template(folder) == load_template(str(folder))
        assert len(load_processor(folder).tokenizer) == len(policy.processor.tokenizer)

    @pytest.mark.parametrize("name", [None, 3, "", b"focus-small"])
    def test_what_names_no_model(self, name: Any) -> None:
        for load in (FocusPolicy.from_pretrained, load_model, load_processor, load_template):
            with pytest.raises(CheckpointError, match="model: expected the name of one, or the path of its folder"):
                load(name)

    def test_a_model_that_is_not_there(self) -> None:
        with pytest.raises(CheckpointError, match="no-such-model"):
            FocusPolicy.from_pretrained("no-such-model")

    def test_the_tokenizer_of_another_model(self, tmp_path: Path) -> None:
        place = save_policy(tmp_path / "p", load_model("tiny"), load_processor("small"))
        with pytest.raises(CheckpointError, match="the folder holds the tokenizer of another model"):
            FocusPolicy.from_pretrained(str(place))


class TestLocate:
    """Pictures with boxes in, a box out."""

    @pytest.mark.parametrize(
        ("box", "message"),
        [
            (Box(0, 0, 49, 40), r"box of support 2 must lie inside the image of \(48, 48\)"),
            (Box(0, 0, 40, 48.5), "box of support 2 must lie inside the image"),
            (Box(-1, 0, 40, 40), "box of support 2 must lie inside the image"),
            (Box(20, 0, 10, 40), "box of support 2 must be xyxy with x1 < x2"),
            (Box(20, 10, 30, 10), "box of support 2 must be xyxy with x1 < x2"),
            (Box(math.nan, 0, 10, 10), "box of support 2 must be four finite numbers"),
        ],
    )
    def test_a_box_that_is_none_is_refused(self, policy: FocusPolicy, box: Box, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            policy.locate([SUPPORTS[0], (SUPPORTS[1][0], box)], QUERY)

    def test_a_box_is_measured_by_its_own_picture(self, policy: FocusPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
        """One of 64 x 32 pixels: 60 is inside along x, outside along y."""
        say(policy, monkeypatch, "nothing")
        policy.locate([(SUPPORTS[0][0], Box(0, 0, 60, 30))], QUERY)
        with pytest.raises(ValueError, match="box of support 1 must lie inside"):
            policy.locate([(SUPPORTS[0][0], Box(0, 0, 30, 60))], QUERY)

    def test_supports_are_needed(self, policy: FocusPolicy) -> None:
        with pytest.raises(ValueError, match="supports: expected at least one picture with a box, got none"):
            policy.locate([], QUERY)

    def test_the_answer_is_in_pixels_of_the_query(self, policy: FocusPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
        """8 of 80 along x, and 12 of 48 along y."""
        whole = int(policy.template.frame.extent(image_wh=QUERY_WH)[0])
        assert whole in (100, 1000)
        text = "<answer>[{}, {}, {}, {}]</answer>".format(*(share * whole // 100 for share in (10, 25, 50, 75)))
        say(policy, monkeypatch, text)
        assert policy.locate(SUPPORTS, QUERY) == Localization(ANSWER, ParseStatus.OK, text)

    @pytest.mark.parametrize(
        ("text", "status"),
        [
            ("<answer>none</answer>", ParseStatus.ABSENT),
            ("<answer>[50, 10, 40, 20]</answer>", ParseStatus.REVERSED),
            ("<answer>[50, 10, 4000, 20]</answer>", ParseStatus.OUT_OF_RANGE),
            ("somewhere", ParseStatus.NO_BOX),
        ],
    )
    def test_an_answer_without_a_box(
        self, policy: FocusPolicy, monkeypatch: pytest.MonkeyPatch, text: str, status: ParseStatus
    ) -> None:
        say(policy, monkeypatch, text)
        assert policy.locate(SUPPORTS, QUERY) == Localization(None, status, text)

    def test_it_is_asked_in_its_templates_words(self, policy: FocusPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[Any] = []
        original = policy.generate

        def spy(prompts: Any, **options: Any) -> Any:
            asked.append((prompts, options))
            return original(prompts, **options)

        monkeypatch.setattr(policy, "generate", spy)
        found = policy.locate(SUPPORTS, QUERY)
        (([messages], options),) = asked
        assert options["sampling"] == Sampling(temperature=0.0, max_completion_tokens=MAX_COMPLETION_TOKENS)
        assert options["num_completions"] == 1
        content = [part for message in messages for part in message.content]
        images = [part.image for part in content if isinstance(part, ImagePart)]
        for image, expected in zip(images, [SUPPORTS[0][0], SUPPORTS[1][0], QUERY], strict=True):
            np.testing.assert_array_equal(image, expected)
        texts = [part.text for part in content if isinstance(part, TextPart)]
        boxes = [policy.template.write_box(box, (im.shape[1], im.shape[0])) for im, box in SUPPORTS]
        shown = [policy.template.support_text.format(box=box) for box in boxes]
        assert texts == ["Find the object.", *shown, policy.template.query_text]
        assert found.attention is None
        assert found.status == policy.template.parse(found.text, QUERY_WH).status

    def test_it_takes_what_people_have(self, policy: FocusPolicy, tmp_path: Path) -> None:
        """Paths, pictures of Pillow, arrays of shares; tuples, lists and arrays as boxes."""
        expected = policy.locate(SUPPORTS, QUERY)
        (first, box), (second, other) = SUPPORTS
        Image.fromarray(first).save(tmp_path / "first.png")
        Image.fromarray(QUERY).save(tmp_path / "query.bmp")
        for query in (tmp_path / "query.bmp", str(tmp_path / "query.bmp"), Image.fromarray(QUERY), QUERY / 255):
            supports = [(tmp_path / "first.png", tuple(box)), (Image.fromarray(second), np.array(other))]
            assert policy.locate(supports, query) == expected
        assert locate(policy, policy.template, [(first, list(box)), (second, other)], QUERY) == expected
        grey = policy.locate([(first[..., 0], box)], QUERY[..., :1], with_attention=True)
        assert grey.attention is not None

    def test_it_answers_the_same_again(self, policy: FocusPolicy) -> None:
        plain, looked = policy.locate(SUPPORTS, QUERY), policy.locate(SUPPORTS, QUERY, with_attention=True)
        assert plain == dataclasses.replace(looked, attention=None)
        assert plain.text

    def test_bf16(self, folder: Path) -> None:
        narrow = FocusPolicy.from_pretrained(str(folder), precision="bf16")
        found = narrow.locate(SUPPORTS, QUERY, with_attention=True)
        assert all(np.isfinite(part).all() for part in found.attention)


class TestAttention:
    """Where the answered place looked in the supports, and where the answer's coordinates looked in the query."""

    @pytest.mark.parametrize(
        ("text", "cells"),
        [("<answer>[10, 25, 50, 75]</answer>", [5, 6, 7]), ("not there", ...), ("", ...), ("no. 7", ...)],
    )
    def test_it_is_that_of_eager_attention(
        self, folder: Path, policy: FocusPolicy, monkeypatch: pytest.MonkeyPatch, text: str, cells: Any
    ) -> None:
        """A token is predicted at the position before it; without any coordinate, the answer's first token counts."""
        whole = int(policy.template.frame.extent(image_wh=QUERY_WH)[0])
        text = text.replace("10, 25, 50, 75", ", ".join(str(share * whole // 100) for share in (10, 25, 50, 75)))
        say(policy, monkeypatch, text)
        seen: list[EncodedPrompt] = []
        encode = policy.processor.encode
        monkeypatch.setattr(policy.processor, "encode", lambda messages: seen.append(encode(messages)) or seen[-1])
        attention = policy.locate(SUPPORTS, QUERY, with_attention=True).attention
        (prompt,) = seen
        pieces = [policy.processor.decode([token]) for token in policy.processor.encode_answer(text)]
        places = [place for place, piece in enumerate(pieces) if piece.strip().isdigit()] or [0]
        num_digits = sum(character.isdigit() for character in text)
        per_token = 2 if folder.name == "small" and num_digits > 1 else 1
        assert len(places) == max(1, num_digits // per_token)
        paid = expected_attention(folder, policy, prompt, text)
        pictures = np.flatnonzero(prompt.input_ids == policy.processor.image_token_id)
        supports, query = pictures[:-15], pictures[-15:]  # the query has 3 x 5 cells
        by_query = paid[query[cells]].reshape(-1, paid.shape[1]).mean(0)[supports]
        by_answer = paid[[len(prompt.input_ids) - 1 + place for place in places]].mean(0)[query]
        expected = np.concatenate([by_query, by_answer])
        np.testing.assert_allclose(np.concatenate([part.ravel() for part in attention]), expected, atol=1e-5)

    @pytest.mark.parametrize("shots", [1, 2])
    def test_a_map_for_each_picture(self, policy: FocusPolicy, shots: int) -> None:
        attention = policy.locate(SUPPORTS[:shots], QUERY, with_attention=True).attention
        # A cell is 16 x 16 pixels; the small model sees pictures of at most 16 cells.
        query_shape = (3, 5)
        assert [part.shape for part in attention] == [*[(2, 4), (3, 3)][:shots], query_shape]
        for part in attention:
            assert part.dtype == np.float32
            assert (part >= 0).all()
        assert 0 < sum(float(part.sum()) for part in attention[:-1]) < 1
        assert 0 < float(attention[-1].sum()) < 1
        assert np.ptp(np.concatenate([part.ravel() for part in attention])) > 0


class TestProtocol:
    """It is a policy as any other."""

    def test_records_hold_what_was_asked_for(self, policy: FocusPolicy) -> None:
        one: Policy = policy
        questions = [policy.template.render(observe(make_episode(index, shots=1 + index))) for index in range(2)]
        ask: dict[str, Any] = {"num_completions": 3, "sampling": Sampling(1.0, 6)}
        generations = one.generate(questions, seeds=[8, 9], **ask)
        assert len(generations) == 2
        for generation, question, seed in zip(generations, questions, [8, 9], strict=True):
            expected = policy.processor.encode(question)
            np.testing.assert_array_equal(generation.prompt.input_ids, expected.input_ids)
            np.testing.assert_array_equal(generation.prompt.images["pixel_values"], expected.images["pixel_values"])
            assert len(generation.completions) == 3
            assert len({completion.text for completion in generation.completions}) > 1
            # A prompt's answers depend on its seed, not on its neighbours.
            (alone,) = one.generate([question], seeds=[seed], **ask)
            for completion, other in zip(generation.completions, alone.completions, strict=True):
                assert completion.token_ids.tolist() == other.token_ids.tolist()
                assert 1 <= len(completion.token_ids) == len(completion.logprobs) <= 6
                assert (completion.logprobs <= 0).all()
                assert completion.text == policy.processor.decode(completion.token_ids.tolist())
                ends = completion.token_ids[-1] == policy.processor.eos_token_id
                assert completion.is_finished == ends

    def test_a_template_of_ones_own(self, policy: FocusPolicy) -> None:
        """What the constructor is given."""
        template: PromptTemplate = dataclasses.replace(get_template("default"), frame=CoordinateFrame.PIXEL)
        own = FocusPolicy(policy.model, policy.processor, template)
        assert own.template is template
        assert own.locate(SUPPORTS[:1], QUERY).text is not None
