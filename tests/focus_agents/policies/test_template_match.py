"""Finding a support's crop again by correlation."""

from __future__ import annotations

import math
import pickle
import sys
import time
from typing import Any

import gymnasium
import numpy as np
import pytest

from focus_agents.evaluation import evaluate
from focus_agents.policies.localizers import FLOORS, Localizer, LocalizerPolicy, copy_last_support
from focus_agents.policies.registry import PolicySpec
from focus_agents.policies.template_match import TemplateMatcher, evidence, find_template, make_templates, shrink
from focus_agents.rollout.records import Sampling
from focus_env.boxes import box_iou
from focus_env.datasets import load_dataset
from focus_env.env import ENV_ID, observe
from focus_env.errors import MissingDependencyError
from focus_env.metrics import summarize
from focus_env.prompts import get_template
from focus_env.spaces import Observation
from focus_env.types import Box, EpisodeDataset, ImageArray
from tests.fakes import make_episode
from tests.places import NO_REAL_FRAMES, REAL_FRAMES

# Not installed, or without the system's libGL, which the build that other packages bring asks for.
pytest.importorskip("cv2", reason="OpenCV cannot be loaded", exc_type=ImportError)

RNG = np.random.default_rng(0)


def noise(width: int, height: int, seed: int = 0) -> ImageArray:
    """Blocks of 2x2 pixels, so that half a picture still shows them."""
    small = np.random.default_rng(seed).integers(256, size=((height + 1) // 2, (width + 1) // 2, 3), dtype=np.uint8)
    return np.repeat(np.repeat(small, 2, axis=0), 2, axis=1)[:height, :width]


def flat(width: int, height: int, value: int = 90) -> ImageArray:
    return np.full((height, width, 3), value, np.uint8)


def ask(query: ImageArray, *supports: tuple[ImageArray, Box]) -> Observation:
    return {
        "support_images": tuple(image for image, _ in supports),
        "support_boxes": np.array([box for _, box in supports], np.float64),
        "query_image": query,
    }


def find(question: Observation, **options: Any) -> Box:
    return TemplateMatcher(**options)(question, RNG)


def paste(crop: ImageArray, place: tuple[int, int], *, query_wh: tuple[int, int], factor: int = 1) -> ImageArray:
    """A crop, `factor` times as large, in other noise."""
    query = noise(*query_wh, seed=99)
    enlarged = np.repeat(np.repeat(crop, factor, axis=0), factor, axis=1)
    x, y = place
    query[y : y + enlarged.shape[0], x : x + enlarged.shape[1]] = enlarged
    return query


class TestGeometry:
    @pytest.mark.parametrize("place", [(0, 0), (1, 3), (37, 22), (80 - 20, 60 - 14)])
    @pytest.mark.parametrize("box_place", [(5, 6), (0, 0), (60, 46)])
    def test_a_crop_of_the_same_size_is_found_exactly(self, place: tuple[int, int], box_place: tuple[int, int]) -> None:
        support, (x, y) = noise(80, 60), box_place
        query = paste(support[y : y + 14, x : x + 20], place, query_wh=(80, 60))
        box = find(ask(query, (support, Box(x, y, x + 20, y + 14))))
        assert box == Box(place[0], place[1], place[0] + 20, place[1] + 14)

    @pytest.mark.parametrize(
        ("factor", "query_wh", "scales"),
        [
            pytest.param(2, (80, 60), (1.0,), id="as the picture"),
            pytest.param(3, (120, 90), (0.7, 1.0, 1.4), id="as the picture, among other scales"),
            pytest.param(2, (60, 45), (0.5, 1.0, 4 / 3), id="more than the picture"),
        ],
    )
    def test_one_enlarged_is_found_exactly(
        self, factor: int, query_wh: tuple[int, int], scales: tuple[float, ...]
    ) -> None:
        support = noise(40, 30)
        query = paste(support[8:22, 4:24], (11, 9), query_wh=query_wh, factor=factor)
        box = find(ask(query, (support, Box(4, 8, 24, 22))), scales=scales)
        assert box == Box(11, 9, 11 + 20 * factor, 9 + 14 * factor)

    def test_one_shrunk_is_found_exactly(self) -> None:
        support = noise(80, 60)
        query = paste(support[8:36:2, 4:44:2], (7, 5), query_wh=(40, 30))
        assert find(ask(query, (support, Box(4, 8, 44, 36)))) == Box(7, 5, 27, 19)

    def test_a_box_between_pixels_keeps_its_place_in_the_crop(self) -> None:
        support = noise(80, 60)
        query = paste(support[6:20, 5:25], (30, 40), query_wh=(80, 60))
        box = find(ask(query, (support, Box(5.25, 6.5, 24.5, 19.75))))
        assert tuple(box) == pytest.approx((30.25, 40.5, 49.5, 53.75))

    def test_the_best_of_supports_of_several_sizes(self) -> None:
        right = noise(48, 32, seed=5)
        query = paste(right[6:26, 8:32], (40, 20), query_wh=(96, 64), factor=2)
        supports = [
            (noise(40, 32, seed=1), Box(4, 4, 20, 20)),
            (right, Box(8, 6, 32, 26)),
            (noise(9, 50, seed=2), Box(0, 0, 9, 9)),
        ]
        for order in (supports, supports[::-1]):
            assert find(ask(query, *order)) == Box(40, 20, 88, 60)

    def test_colours_tell_objects_apart(self) -> None:
        red, green = flat(24, 20, 0), flat(24, 20, 0)
        red[5:15, 6:18, 0] = green[5:15, 6:18, 1] = 255
        query = np.concatenate([green, flat(24, 20, 0), red, flat(24, 20, 0)], axis=1)
        box = find(ask(query, (red, Box(4, 3, 20, 17))), scales=(0.5,))  # of a query that is twice as large
        assert tuple(box) == (48 + 4, 3, 48 + 20, 17)

    def test_a_large_query_is_exact_to_its_shrunken_pixels(self) -> None:
        support = noise(160, 90).repeat(8, axis=0).repeat(8, axis=1)
        query = flat(1280, 720)
        query[200:440, 320:720] = support[240:480, 400:800]
        question = ask(query, (support, Box(400, 240, 800, 480)))
        box = find(question)
        shrunken_wh = shrink(query, 320 * 240).shape[1::-1]
        assert abs(math.prod(shrunken_wh) / (320 * 240) - 1) < 0.01
        pixel = 1280 / shrunken_wh[0]
        np.testing.assert_allclose(box, (320, 200, 720, 440), atol=pixel)
        assert find(question, max_pixels=1280 * 720, scales=(1.0,)) == Box(320, 200, 720, 440)

    def test_a_large_query_takes_well_under_a_second(self) -> None:
        question = ask(noise(1280, 720), *((noise(1280, 720, seed), Box(300, 200, 700, 500)) for seed in range(1, 5)))
        started = time.process_time()
        find(question)
        assert time.process_time() - started < 1.0


class TestWithoutAMatch:
    """The answer is then the last support's box at its place."""

    BOX = Box(4, 8, 24, 22)

    @pytest.mark.parametrize(
        ("support", "box", "query"),
        [
            pytest.param(flat(40, 30), BOX, noise(40, 30), id="flat crop"),
            pytest.param(flat(40, 30), BOX, flat(40, 30), id="flat crop and query"),
            pytest.param(noise(40, 30), BOX, flat(40, 30), id="flat query"),
            pytest.param(noise(40, 30), BOX, flat(1, 1), id="query of one pixel"),
            pytest.param(noise(40, 30), Box(7, 8, 8, 9), noise(40, 30), id="crop of one pixel"),
            pytest.param(noise(40, 30), Box(0, 0, 40, 1), noise(2, 300), id="crop wider than the query"),
            pytest.param(noise(1, 1), Box(0, 0, 1, 1), noise(80, 60), id="support of one pixel"),
            pytest.param(noise(40, 30), Box(-9, 0, -5, 5), noise(40, 30), id="box outside its picture"),
        ],
    )
    def test_the_answer_is_a_copy(self, support: ImageArray, box: Box, query: ImageArray) -> None:
        question = ask(query, (support, box))
        assert find(question) == copy_last_support(question, RNG)

    def test_other_supports_still_count(self) -> None:
        support = noise(40, 30)
        question = ask(
            np.roll(support, 3, axis=1), (flat(40, 30), self.BOX), (support, self.BOX), (flat(40, 30), self.BOX)
        )
        assert find(question) == Box(7, 8, 27, 22)

    def test_larger_templates_are_left_out_alone(self) -> None:
        support = noise(40, 30)
        sizes = [
            t.pixels.shape
            for t in make_templates(support, Box(0, 0, 40, 30), query_wh=(40, 30), scales=(0.01, 0.5, 1, 1.1))
        ]
        assert sizes == [(15, 20, 3), (30, 40, 3)]

    def test_scores_that_are_no_numbers_do_not_win(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import cv2

        for row, expected in (
            ([np.nan, 0.3, np.inf, 0.5], (0.5, 3)),
            ([np.nan, np.inf, -np.inf, np.nan], None),
        ):
            scores = np.array([row], np.float32)
            monkeypatch.setattr(cv2, "matchTemplate", lambda *_, scores=scores: scores.copy())
            match = find_template(noise(8, 8), noise(5, 8))
            assert (None if match is None else (match.score, match.x)) == expected


def test_evidence_grows_with_the_score_and_with_the_size() -> None:
    assert evidence(0.5, 1) == pytest.approx(math.atanh(0.5))
    assert evidence(0.5, 10_000) == pytest.approx(10 * math.atanh(0.5))
    assert evidence(0.4, 400) < evidence(0.5, 400) < evidence(0.5, 900)
    assert evidence(-0.5, 900) < 0
    assert evidence(0.99, 400) < evidence(1.0, 400) == evidence(1.0 + 1e-6, 400) < math.inf


def test_a_large_template_wins_over_a_small_one_of_a_slightly_better_score() -> None:
    def worn(crop: ImageArray, spread: float) -> ImageArray:
        return (crop + np.random.default_rng(3).normal(0, spread, crop.shape)).clip(0, 255).astype(np.uint8)

    small, large, query = noise(80, 60, 1), noise(80, 60, 2), noise(80, 60, 99)
    query[50:54, 8:12] = worn(small[10:14, 10:14], 15)
    query[5:25, 40:70] = worn(large[20:40, 20:50], 50)
    scores = [find_template(query, crop) for crop in (small[10:14, 10:14], large[20:40, 20:50])]
    assert scores[0] is not None
    assert scores[1] is not None
    assert 0.97 > scores[0].score > scores[1].score > 0.8
    question = ask(query, (small, Box(10, 10, 14, 14)), (large, Box(20, 20, 50, 40)))
    assert find(question, scales=(1.0,)) == Box(40, 5, 70, 25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": ()}, "scales: expected one or more positive factors"),
        ({"scales": (1.0, 0.0)}, "scales: expected"),
        ({"scales": (math.nan,)}, "scales: expected"),
        ({"scales": (math.inf,)}, "scales: expected"),
        ({"max_pixels": 0}, "max_pixels: expected a positive number, got 0"),
    ],
)
def test_wrong_options(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TemplateMatcher(**options)


def test_without_opencv_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'focus-localization\[baselines\]'"):
        PolicySpec(text="template_match").build()


def test_by_name_it_answers_a_prompt() -> None:
    policy = PolicySpec(text="template_match").build()
    template = get_template("default")
    (generation,) = policy.generate(
        [template.render(observe(make_episode(1)))], num_completions=2, sampling=Sampling(), seeds=[0]
    )
    boxes = [template.parse(completion.text, (80, 60)).box for completion in generation.completions]
    assert boxes[0] is not None
    assert boxes[0] == boxes[1]
    assert pickle.loads(pickle.dumps(policy)).localizer == TemplateMatcher()


def miou(localizer: Localizer, episodes: EpisodeDataset, num_episodes: int) -> float:
    template = get_template("default")
    env = gymnasium.make(ENV_ID, dataset=episodes, template=template)
    policy = LocalizerPolicy(localizer, template)
    return summarize(evaluate(env, policy, range(num_episodes), max_completion_tokens=50))["miou_all"]


def test_it_clearly_beats_the_floors_on_synthetic_scenes() -> None:
    episodes = load_dataset("synthetic", split="val", level=3, image_size=64, distractors="any")
    floor = max(miou(localizer, episodes, 40) for localizer in FLOORS.values())
    assert miou(TemplateMatcher(), episodes, 40) > floor + 0.25


def test_real_frames() -> None:
    """A frame's own crop is found in it again, in pictures with all that real ones have."""
    root = REAL_FRAMES
    if not (root / "val" / "list.txt").is_file():
        pytest.skip(NO_REAL_FRAMES)
    episodes = load_dataset("got10k", split="val", root=root, shots=1)
    for index in range(len(episodes)):
        support = episodes[index].support[0]
        image = support.frame.image()
        box = find(ask(image, (image, support.box)), max_pixels=image.shape[0] * image.shape[1])
        assert box_iou(box, support.box) > 0.999
