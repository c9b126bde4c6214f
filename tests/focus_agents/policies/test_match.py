"""Finding an object by its edges, pixels and colours together."""

from __future__ import annotations

import pickle
import sys
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from focus_agents.policies.appearance import NUM_DIRECTIONS, colour_evidence, cut_out, directions, look, shrunken_wh
from focus_agents.policies.localizers import FLOORS, Localizer, copy_last_support
from focus_agents.policies.match import (
    AppearanceMatcher,
    contrast,
    correlations,
    cosines,
    expected_ious,
    sizes,
    windows,
)
from focus_agents.policies.registry import PolicySpec
from focus_env.boxes import box_iou, iou
from focus_env.datasets import load_dataset
from focus_env.env import observe
from focus_env.errors import MissingDependencyError
from focus_env.spaces import Observation
from focus_env.types import Box, ImageArray
from tests.places import NO_REAL_FRAMES, REAL_FRAMES

# Not installed, or without the system's libGL, which the build that other packages bring asks for.
pytest.importorskip("cv2", reason="OpenCV cannot be loaded", exc_type=ImportError)

RNG = np.random.default_rng(0)


def background(image_wh: tuple[int, int], seed: int) -> Image.Image:
    """Soft blobs of dull colours."""
    small = np.random.default_rng(seed).integers(60, 170, size=(image_wh[1] // 12 + 1, image_wh[0] // 12 + 1, 3))
    return Image.fromarray(small.astype(np.uint8)).resize(image_wh, Image.Resampling.BICUBIC)


def mug(width: int, height: int) -> Image.Image:
    """A red and white thing with a handle, nothing else in its picture."""
    large = Image.new("RGBA", (200, 160))
    draw = ImageDraw.Draw(large)
    draw.ellipse((110, 30, 199, 120), outline=(190, 40, 40, 255), width=18)
    draw.rectangle((0, 0, 140, 159), fill=(210, 50, 40, 255))
    draw.rectangle((0, 50, 140, 85), fill=(240, 240, 230, 255))
    draw.polygon([(30, 159), (70, 90), (110, 159)], fill=(30, 40, 120, 255))
    return large.resize((width, height), Image.Resampling.LANCZOS)


def scene(
    centre: tuple[int, int],
    *,
    seed: int,
    size: tuple[int, int] = (60, 48),
    angle: float = 0,
    image_wh: tuple[int, int] = (320, 240),
) -> tuple[ImageArray, Box]:
    """A picture with the mug in it, and its box."""
    picture = background(image_wh, seed)
    thing = mug(*size).rotate(angle, expand=True, resample=Image.Resampling.BICUBIC)
    corner = (centre[0] - thing.width // 2, centre[1] - thing.height // 2)
    picture.paste(thing, corner, thing)
    left, top, right, bottom = thing.getchannel("A").point(lambda a: 255 * (a > 127)).getbbox() or (0, 0, 1, 1)
    shown = picture.filter(ImageFilter.GaussianBlur(0.7))
    return np.asarray(shown), Box(corner[0] + left, corner[1] + top, corner[0] + right, corner[1] + bottom)


def ask(query: ImageArray, *supports: tuple[ImageArray, Box]) -> Observation:
    return {
        "support_images": tuple(image for image, _ in supports),
        "support_boxes": np.array([box for _, box in supports], np.float64),
        "query_image": query,
    }


def find(question: Observation) -> tuple[Box, float]:
    return AppearanceMatcher().scored(question, RNG)


SUPPORT = scene((80, 70), seed=1)


@pytest.mark.parametrize(
    ("change", "least"),
    [
        pytest.param({}, 0.85, id="moved"),
        pytest.param({"centre": (31, 25)}, 0.85, id="moved to the corner"),
        pytest.param({"size": (34, 27)}, 0.75, id="smaller"),
        pytest.param({"size": (105, 84)}, 0.75, id="larger"),
        pytest.param({"size": (50, 60)}, 0.75, id="narrower"),
        pytest.param({"angle": 12}, 0.6, id="turned a little"),
        pytest.param({"angle": 90}, 0.5, id="turned to its side"),
        pytest.param({"angle": 180}, 0.5, id="turned over"),
        pytest.param({"size": (120, 96), "centre": (400, 300), "image_wh": (640, 480)}, 0.85, id="a larger picture"),
        pytest.param({"size": (40, 32), "centre": (40, 100), "image_wh": (120, 240)}, 0.75, id="another shape"),
    ],
)
def test_an_object_is_found_where_it_is(change: dict[str, Any], least: float) -> None:
    query, truth = scene(**{"centre": (230, 150), "seed": 2, **change})
    box, score = find(ask(query, SUPPORT))
    assert box_iou(box, truth) > least
    assert 0 < score <= 1


def test_a_small_object_in_a_large_picture() -> None:
    """It gets a finer grid."""
    support = scene((300, 200), seed=1, size=(17, 14), image_wh=(1280, 720))
    query, truth = scene((1000, 500), seed=2, size=(17, 14), image_wh=(1280, 720))
    assert box_iou(find(ask(query, support))[0], truth) > 0.5


def test_a_small_support_and_a_large_query() -> None:
    """Sizes are shares of the picture, whatever their grids."""
    support = scene((12, 14), seed=1, size=(15, 12), image_wh=(32, 32))
    query, truth = scene((400, 300), seed=2, size=(281, 225), image_wh=(600, 600))
    assert box_iou(find(ask(query, support))[0], truth) > 0.75


def test_the_support_that_fits_decides_in_any_order() -> None:
    query, truth = scene((230, 150), seed=2)
    other = background((320, 240), 7), Box(100, 80, 160, 130)
    supports = [(np.asarray(other[0]), other[1]), SUPPORT]
    for order in (supports, supports[::-1]):
        assert box_iou(find(ask(query, *order))[0], truth) > 0.8


def test_a_query_without_the_object_is_less_sure() -> None:
    query, _ = scene((230, 150), seed=2)
    empty = np.asarray(background((320, 240), 2).filter(ImageFilter.GaussianBlur(0.7)))
    assert find(ask(empty, SUPPORT))[1] < find(ask(query, SUPPORT))[1]


def test_the_place_in_the_support_plays_no_part() -> None:
    query, truth = scene((230, 150), seed=2)
    for centre in ((60, 50), (260, 60), (160, 190)):
        assert box_iou(find(ask(query, scene(centre, seed=1)))[0], truth) > 0.85


def test_it_is_a_function_of_the_question() -> None:
    question = ask(scene((230, 150), seed=2)[0], SUPPORT, scene((100, 100), seed=3))
    before = question["query_image"].copy()
    assert find(question) == AppearanceMatcher().scored(question, np.random.default_rng(5)) == find(question)
    assert pickle.loads(pickle.dumps(AppearanceMatcher())) == AppearanceMatcher()
    np.testing.assert_array_equal(question["query_image"], before)


def flat(width: int, height: int) -> ImageArray:
    return np.full((height, width, 3), 90, np.uint8)


@pytest.mark.parametrize(
    ("support", "box", "query"),
    [
        pytest.param(SUPPORT[0], SUPPORT[1], flat(1, 1), id="a query of one pixel"),
        pytest.param(SUPPORT[0], Box(-9, 0, -5, 5), SUPPORT[0], id="a box outside its picture"),
        pytest.param(flat(300, 4), Box(0, 0, 300, 4), flat(4, 300), id="a crop wider than the query"),
    ],
)
def test_without_a_candidate_the_answer_is_a_copy(support: ImageArray, box: Box, query: ImageArray) -> None:
    question = ask(query, (support, box))
    assert find(question) == (copy_last_support(question, RNG), 0.0)


@pytest.mark.parametrize(
    ("support", "query"), [(flat(80, 60), flat(80, 60)), (flat(80, 60), SUPPORT[0]), (SUPPORT[0], flat(80, 60))]
)
def test_flat_pictures_have_an_answer(support: ImageArray, query: ImageArray) -> None:
    with np.errstate(all="raise", under="ignore"):
        box, score = find(ask(query, (support, Box(10, 10, 40, 30))))
    assert np.isfinite([*box, score]).all()
    assert 0 <= box.x1 < box.x2 <= query.shape[1]
    assert 0 <= box.y1 < box.y2 <= query.shape[0]


def test_a_large_picture_takes_well_under_a_second() -> None:
    support = scene((300, 200), seed=1, size=(240, 190), image_wh=(1280, 720))
    question = ask(scene((800, 400), seed=2, size=(240, 190), image_wh=(1280, 720))[0], support)
    started = time.process_time()
    find(question)
    assert time.process_time() - started < 1.0


def test_without_opencv_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingDependencyError, match=r"match need OpenCV.*focus-localization\[baselines\]"):
        PolicySpec(text="match").build()


def test_real_frames() -> None:
    """On the clips that its weights were chosen on; those it was tested on are in experiments/LOG.md."""
    if not (REAL_FRAMES / "train" / "list.txt").is_file():
        pytest.skip(NO_REAL_FRAMES)
    episodes = load_dataset("got10k", split="train", root=REAL_FRAMES, shots=1)
    assert len(episodes) == 8
    questions = [observe(episode) for episode in map(episodes.__getitem__, range(8))]
    truths = [episodes[index].target_box for index in range(8)]

    def miou(locate: Localizer) -> float:
        return float(
            np.mean([box_iou(locate(question, RNG), truth) for question, truth in zip(questions, truths, strict=True)])
        )

    assert miou(AppearanceMatcher()) > max(map(miou, FLOORS.values())) + 0.05


class TestFormulas:
    def test_grids(self) -> None:
        assert shrunken_wh((64, 48), 9216) == (64, 48)
        assert shrunken_wh((384, 216), 9216) == (128, 72)
        seen = look(SUPPORT[0], 1200)
        assert seen.colours.shape == (30, 40, 3)
        assert seen.edges.shape == (30, 40, NUM_DIRECTIONS)

    def test_an_edge_has_its_direction_whichever_side_is_light(self) -> None:
        step = np.zeros((8, 8, 3), np.uint8)
        step[:, 4:] = 200
        for image in (step, 255 - step):
            found = directions(image)[4, 3:5]
            assert (found[:, 0] > 0).all()
            assert found[:, 1:].max() < 1e-3
        assert directions(np.ascontiguousarray(step.transpose(1, 0, 2)))[3:5, 4].argmax(axis=1).tolist() == [4, 4]

    def test_cutting_out_the_whole_changes_nothing(self) -> None:
        cells = RNG.random((6, 9, 5), dtype=np.float32)
        np.testing.assert_allclose(cut_out(cells, (0, 0, 9, 6), (9, 6)), cells, atol=1e-6)
        np.testing.assert_allclose(cut_out(cells, (2, 1, 7, 4), (5, 3)), cells[1:4, 2:7], atol=1e-6)

    def test_likely_colours(self) -> None:
        support = np.full((10, 10, 3), 128, np.float32)
        support[2:6, 3:8] = 220, 150, 100
        evidence = colour_evidence(support, (3, 2, 8, 6), support)
        assert evidence[3, 5] > 2
        assert evidence[8, 1] < -2

    def test_windows_and_rings(self) -> None:
        values = np.zeros((12, 15), np.float32)
        values[3:7, 5:10] = 1
        assert windows(values, (5, 4)).shape == (9, 11)
        assert windows(values, (5, 4))[3, 5] == pytest.approx(1)
        found = contrast(values, (5, 4))
        assert np.unravel_index(found.argmax(), found.shape) == (3, 5)
        assert found[3, 5] == pytest.approx(1)

    @pytest.mark.parametrize("size", [(4, 3), (5, 2), (12, 15)])
    def test_cosines_and_correlations_by_hand(self, size: tuple[int, int]) -> None:
        height, width = size
        cells = RNG.normal(size=(12, 15, 3)).astype(np.float32)
        template = cells[12 - height :, 15 - width :].copy() + RNG.normal(size=(*size, 3)).astype(np.float32)
        places = [(y, x) for y in range(13 - height) for x in range(16 - width)]
        patches = [cells[y : y + height, x : x + width] for y, x in places]
        plain = [(p * template).sum() / np.sqrt((p**2).sum() * (template**2).sum()) for p in patches]
        np.testing.assert_allclose(cosines(cells, (cells**2).sum(axis=2), template).ravel(), plain, atol=1e-4)
        centred = template - template.mean(axis=(0, 1))
        patches = [p - p.mean(axis=(0, 1)) for p in patches]
        plain = [(p * centred).sum() / np.sqrt((p**2).sum() * (centred**2).sum()) for p in patches]
        np.testing.assert_allclose(correlations(cells, template).ravel(), plain, atol=1e-4)

    def test_sizes_fit_and_come_once(self) -> None:
        found = list(sizes((0, 0, 8, 6), (10, 9), 1.0))
        assert ((8, 6), 0.0) in found
        assert all(2 <= w <= 10 and 2 <= h <= 9 for (w, h), _ in found)
        assert len({wh for wh, _ in found}) == len(found)
        assert ((16, 12), 0.0) in list(sizes((0, 0, 8, 6), (90, 90), 2.0))

    def test_a_box_between_two_likely_ones_is_expected_to_share_most(self) -> None:
        boxes = np.array([[0, 0, 10, 10], [4, 0, 14, 10], [2, 0, 12, 10], [50, 50, 60, 60.0]])
        log_odds = np.array([0, 0, -1, 0.5])
        odds = np.exp(log_odds) / np.exp(log_odds).sum()
        expected = expected_ious(boxes, log_odds)
        assert expected == pytest.approx([sum(odds[j] * iou(boxes[i], boxes[j]) for j in range(4)) for i in range(4)])
        assert expected.argmax() == 2
        assert expected_ious(boxes, log_odds + 900) == pytest.approx(expected)
