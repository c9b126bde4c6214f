"""Policies without words, and policies by name."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from focus_agents.evaluation.answers import evaluate
from focus_agents.policies.focus import FocusPolicy
from focus_agents.policies.localizers import FLOORS, LocalizerPolicy
from focus_agents.policies.registry import PolicySpec
from focus_agents.rollout.records import Generation, Sampling
from focus_env.boxes import CoordinateFrame, box_iou
from focus_env.env import observe
from focus_env.metrics import summarize
from focus_env.prompts import TEMPLATES, get_template, read_observation
from focus_env.spaces import Observation
from focus_env.types import Box, Message, ParseStatus, TextPart
from tests.fakes import make_episode
from tests.focus_env.environments import make_env

TEMPLATE = get_template("default")
QUERY_WH = (80, 60)


def question(shots: int = 2) -> Observation:
    return observe(make_episode(1, shots=shots, query_wh=QUERY_WH))


def answer(locate: Any, *, num_completions: int = 1, seed: int = 0, shots: int = 2) -> list[Box | None]:
    policy = LocalizerPolicy(locate, TEMPLATE)
    prompt = TEMPLATE.render(question(shots))
    (generation,) = policy.generate([prompt], num_completions=num_completions, sampling=Sampling(), seeds=[seed])
    parses = [TEMPLATE.parse(completion.text, QUERY_WH) for completion in generation.completions]
    assert all(parse.is_strict for parse in parses)
    return [parse.box for parse in parses]


@pytest.mark.parametrize("name", TEMPLATES)
def test_an_observation_comes_back_from_its_prompt(name: str) -> None:
    seen = question()
    seen["support_boxes"] = seen["support_boxes"] + 1 / 3  # what no text in thousandths can hold
    template = dataclasses.replace(TEMPLATES[name], image_to_input_wh=lambda image_wh: image_wh)
    back = read_observation(template.render(seen))
    np.testing.assert_array_equal(back["support_boxes"], seen["support_boxes"])
    np.testing.assert_array_equal(back["query_image"], seen["query_image"])
    assert len(back["support_images"]) == 2
    for image, expected in zip(back["support_images"], seen["support_images"], strict=True):
        np.testing.assert_array_equal(image, expected)


def test_other_messages_are_refused() -> None:
    with pytest.raises(ValueError, match="a picture for each support box and one more, got 0 pictures and 0 boxes"):
        read_observation([Message("user", [TextPart("[1, 2, 3, 4]")])])


@pytest.mark.parametrize("name", FLOORS)
def test_floors_answer_with_a_box_inside_the_picture(name: str) -> None:
    for seed in range(20):
        (box,) = answer(FLOORS[name], seed=seed)
        assert box is not None
        assert 0 <= box.x1 < box.x2 <= QUERY_WH[0]
        assert 0 <= box.y1 < box.y2 <= QUERY_WH[1]


def test_random_boxes_depend_on_the_seed_alone() -> None:
    first, again, other = (answer(FLOORS["random"], num_completions=4, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other
    assert len(set(first)) == 4


def test_center_has_the_mean_size_of_the_supports() -> None:
    (box,) = answer(FLOORS["center"])  # 40x32 with (5, 6, 20, 22), 48x32 with (5, 6, 20, 23)
    assert box is not None
    width, height = 80 * (15 / 40 + 15 / 48) / 2, 60 * (16 / 32 + 17 / 32) / 2
    expected = (40 - width / 2, 30 - height / 2, 40 + width / 2, 30 + height / 2)
    assert tuple(box) == pytest.approx(expected, abs=0.05)


def test_copies_keep_the_place_relative_to_the_picture() -> None:
    (box,) = answer(FLOORS["copy_support:last"])
    assert box is not None
    assert tuple(box) == pytest.approx((80 * 5 / 48, 60 * 6 / 32, 80 * 20 / 48, 60 * 23 / 32), abs=0.05)


def test_the_nearest_support_is_the_one_that_looks_like_the_query() -> None:
    seen = question(shots=3)
    seen["query_image"] = np.repeat(np.repeat(seen["support_images"][1], 2, axis=0), 2, axis=1)
    box = FLOORS["copy_support:nearest"](seen, np.random.default_rng())
    assert box is not None
    assert tuple(box) == pytest.approx(tuple(2 * seen["support_boxes"][1]))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(None, None, id="absent"),
        pytest.param(Box(-5, -5, 40, 30), Box(0, 0, 40, 30), id="reaches beyond the picture"),
        pytest.param((-5, -5, 40, 30), Box(0, 0, 40, 30), id="a tuple"),
        pytest.param(np.array([-5, -5, 40, 30]), Box(0, 0, 40, 30), id="an array"),
        pytest.param([np.float32(-5), -5, 40.0, 30], Box(0, 0, 40, 30), id="a list"),
    ],
)
def test_boxes_of_localizers_are_cut_to_the_picture(found: Any, expected: Box | None) -> None:
    (box,) = answer(lambda question, rng: found)
    assert box == expected
    policy = LocalizerPolicy(lambda question, rng: found, TEMPLATE)
    (generation,) = policy.generate([TEMPLATE.render(question())], num_completions=1, sampling=Sampling(), seeds=[0])
    status = TEMPLATE.parse(generation.completions[0].text, QUERY_WH).status
    assert status is (ParseStatus.ABSENT if expected is None else ParseStatus.OK)
    assert generation.completions[0].error is None


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        pytest.param((math.nan,) * 4, "not all finite", id="nan"),
        pytest.param((1, 2, math.inf, 4), "not all finite", id="infinite"),
        pytest.param((30, 30, 10, 40), "x2 <= x1", id="reversed"),
        pytest.param((40, 40, 10, 10), "xywh_to_xyxy", id="x, y, width, height"),
        pytest.param((10, 10, 10, 20), "x2 <= x1", id="no area"),
        pytest.param((0.1, 0.2, 0.5, 0.6), "look like shares", id="shares"),
        pytest.param((0.0, 0.0, 1.0, 1.0), "look like shares", id="shares of the whole"),
        pytest.param((1, 2, 30, 40, 0.9), "or None, got \\(1, 2, 30, 40, 0.9\\)", id="five numbers"),
        pytest.param((1, 2, 30), "or None, got \\(1, 2, 30\\)", id="three numbers"),
        pytest.param((), "or None, got \\(\\)", id="nothing"),
        pytest.param((1, 2, None, 40), "or None, got \\(1, 2, None, 40\\)", id="None in a box"),
        pytest.param("1234", "or None, got '1234'", id="a text"),
        pytest.param({1: 2, 3: 4, 5: 6, 7: 8}, "or None, got {1: 2", id="a dictionary"),
        pytest.param(0, "or None, got 0", id="zero"),
        pytest.param(np.full((1, 4), 9.0), "or None, got array", id="a row of boxes"),
        pytest.param((90, 10, 95, 20), "which lies outside", id="outside"),
        pytest.param((-9, -9, -1, -1), "which lies outside", id="before the picture"),
    ],
)
def test_a_localizer_that_gives_no_box_has_not_said_that_the_object_is_absent(found: Any, reason: str) -> None:
    policy = LocalizerPolicy(lambda question, rng: found, TEMPLATE)
    episodes = [make_episode(index, target_box=box) for index, box in enumerate([None, Box(20, 10, 60, 40)])]
    answers = evaluate(make_env(dataset=episodes), policy, [0, 1])
    assert [scored.status for scored in answers] == [ParseStatus.NO_BOX] * 2
    metrics = summarize(answers)
    assert (metrics["miou_all"], metrics["parse_rate"], metrics["absent_recall"]) == (0, 0, 0)
    prompt = TEMPLATE.render(question())
    (generation,) = policy.generate([prompt], num_completions=1, sampling=Sampling(), seeds=[0])
    assert re.search(
        f"expected a box x1, y1, x2, y2 in pixels of the picture.*{reason}", generation.completions[0].error
    )


class OwnPolicy:
    """A user's policy."""

    def __init__(self, word: str = "nothing") -> None:
        self.word = word

    def generate(
        self, prompts: Sequence[Sequence[Message]], *, num_completions: int, sampling: Sampling, seeds: Sequence[int]
    ) -> list[Generation]:
        return [Generation(()) for _ in prompts]


class NoPolicy:
    """Has nothing that a policy needs."""


def own_localizer(question: Observation, rng: np.random.Generator) -> Box:
    return Box(1, 2, 30, 40)


class TestByName:
    @pytest.mark.parametrize("text", ["random", "center", "copy_support", "copy_support:", *FLOORS])
    def test_floors(self, text: str) -> None:
        policy = PolicySpec(text=text).build()
        assert isinstance(policy, LocalizerPolicy)
        key = {"copy_support": "copy_support:last", "copy_support:": "copy_support:last"}.get(text, text)
        assert policy.localizer is FLOORS[key]

    def test_a_vlm_brings_its_prompt(self) -> None:
        policy = PolicySpec(text="vlm").build()
        assert isinstance(policy, FocusPolicy)
        assert policy.template == PolicySpec(text="vlm").load_template()
        assert policy.template.frame is CoordinateFrame.NORM_100

    def test_the_prompt_can_be_chosen(self) -> None:
        assert PolicySpec(text="random").load_template() == TEMPLATE
        assert PolicySpec(text="random", template="compact", frame="pixel").load_template().frame == "pixel"
        assert PolicySpec(text="vlm", template="compact").load_template().name == "compact"

    def test_ones_own_by_import_path(self) -> None:
        policy = PolicySpec(text=f"{__name__}:OwnPolicy").build()
        assert isinstance(policy, OwnPolicy)
        assert policy.word == "nothing"
        policy = PolicySpec(text=f"{__name__}:OwnPolicy:a:b").build()
        assert isinstance(policy, OwnPolicy)
        assert policy.word == "a:b"

    def test_a_function_is_a_localizer(self) -> None:
        policy = PolicySpec(text=f"{__name__}:own_localizer").build()
        assert isinstance(policy, LocalizerPolicy)
        assert box_iou(answer(policy.localizer)[0], Box(1, 2, 30, 40)) > 0.99

    def test_a_module_in_the_folder_of_the_call(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "policy_of_this_test.py").write_text("def locate(question, rng): return None\n")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.path", [])
        assert isinstance(PolicySpec(text="policy_of_this_test:locate").build(), LocalizerPolicy)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "policy '': no such policy. Known are random, center"),
            ("randon", "policy 'randon': no such policy. Did you mean 'random'\\? Known are random, .*openai_api"),
            ("dino_mtach:some/model", "Did you mean 'dino_match'\\?"),
            ("no_such_module:Policy", "importing 'no_such_module' raised ModuleNotFoundError: No module named"),
            (f"{__name__}:Missing", "has no 'Missing'"),
            (f"{__name__}:NoPolicy", "expected an object with a method `generate`.*got NoPolicy"),
            ("copy_support:first", "expected copy_support:last or copy_support:nearest"),
            ("random:1", "policy 'random:1': expected random"),
            ("template_match:1", "template_match takes no argument"),
        ],
    )
    def test_wrong_names(self, text: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            PolicySpec(text=text).build()


class Unsure:
    """A localizer that says how sure it is."""

    def __init__(self, score: float) -> None:
        self.score = score

    def __call__(self, question: Observation, rng: np.random.Generator) -> Box:
        raise AssertionError("it is asked with its score")

    def scored(self, question: Observation, rng: np.random.Generator) -> tuple[Box, float]:
        return Box(1, 2, 30, 40), self.score


@pytest.mark.parametrize(("score", "expected"), [(0.25, 0.25), (-0.5, 0.0), (1.5, 1.0), (np.float32(0.5), 0.5)])
def test_a_localizer_may_say_how_sure_it_is(score: float, expected: float) -> None:
    template = get_template("default")
    messages = template.render(observe(make_episode()))
    for localizer, wanted in ((Unsure(score), expected), (lambda question, rng: Box(1, 2, 30, 40), None)):
        (generation,) = LocalizerPolicy(localizer, template).generate(
            [messages], num_completions=1, sampling=Sampling(), seeds=[0]
        )
        assert generation.completions[0].score == wanted
        assert "<answer>[" in generation.completions[0].text
