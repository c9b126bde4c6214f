"""Finding patterned objects by their features: turned or of another size."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw, ImageFilter

from focus_agents.policies import match
from focus_agents.policies.features import (
    Features,
    Pairs,
    box_around,
    excess,
    find_features,
    fit_transformation,
    is_plausible,
    is_upright,
    pair_features,
    see_again,
    turn_back,
)
from focus_agents.policies.match import NOTHING, AppearanceMatcher
from focus_env.boxes import box_iou
from focus_env.spaces import Observation
from focus_env.types import Box, ImageArray

# Not installed, or without the system's libGL, which the build that other packages bring asks for.
cv2 = pytest.importorskip("cv2", reason="OpenCV cannot be loaded", exc_type=ImportError)

RNG = np.random.default_rng(0)
CARD_WH = (180, 120)
SCENE_WH = (480, 360)
NOT_ON_THE_CARD = str.maketrans("0245", "1376")
"""Digits in common, in one font, are features in common."""


def card(words: str = "FRESH 40 TEA") -> ImageArray:
    """A printed card: words, shapes and a patch of noise."""
    picture = Image.new("RGB", CARD_WH, (225, 205, 120))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, 179, 119), outline=(120, 30, 30), width=4)
    draw.text((10, 8), words, fill=(20, 20, 90), font_size=24)
    draw.text((14, 84), "net 250 g, keep dry", fill=(0, 90, 30), font_size=13)
    draw.ellipse((12, 42, 62, 78), fill=(190, 40, 40))
    draw.polygon([(80, 80), (100, 44), (118, 74)], fill=(20, 70, 160))
    noise = np.random.default_rng(3).integers(0, 255, (9, 10, 3)).astype(np.uint8)
    picture.paste(Image.fromarray(noise).resize((46, 42), Image.Resampling.BICUBIC), (126, 40))
    return np.asarray(picture)


def clutter(seed: int, image_wh: tuple[int, int] = SCENE_WH) -> ImageArray:
    """Rectangles, ellipses and words over blobs."""
    rng = np.random.default_rng(seed)
    picture = Image.fromarray(rng.integers(40, 200, (9, 12, 3)).astype(np.uint8)).resize(image_wh)
    draw = ImageDraw.Draw(picture)
    for number in range(50):
        x, y = (int(rng.integers(side)) for side in image_wh)
        width, height = rng.integers(6, 60, 2).tolist()
        colour = tuple(rng.integers(0, 255, 3).tolist())
        (draw.rectangle, draw.ellipse)[number % 2]((x, y, x + width, y + height), fill=colour)
        draw.text((y, x), f"{number * 7919 % 1000}".translate(NOT_ON_THE_CARD), fill=colour, font_size=10 + number % 20)
    return np.asarray(picture)


def put(picture: ImageArray, thing: ImageArray, corners: npt.ArrayLike, share_shown: float = 1.0) -> ImageArray:
    """The picture with the thing on it; its left part, up to the share, is all that shows.

    Args:
        picture: [H, W, 3] uint8.
        thing: [h, w, 3] uint8.
        corners: [4, 2], where its upper left, upper right, lower right and lower left go.
        share_shown: Of its width.
    """
    height, width = thing.shape[:2]
    before = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    matrix = cv2.getPerspectiveTransform(before, np.asarray(corners, np.float32))
    if np.linalg.det(matrix[:2, :2]) < 1:
        thing = np.asarray(Image.fromarray(thing).filter(ImageFilter.GaussianBlur(0.5)))
    image_wh = (picture.shape[1], picture.shape[0])
    mask = np.zeros((height, width), np.float32)
    mask[:, : round(width * share_shown)] = 1
    warped, shown = (cv2.warpPerspective(layer, matrix, image_wh)[..., None] for layer in (thing, mask))
    return np.where(shown > 0.5, warped[..., 0], picture).astype(np.uint8)


def place(
    centre: tuple[float, float], *, angle: float = 0, size: float = 1, tilt: float = 0
) -> npt.NDArray[np.float64]:
    """The corners of the card there: turned by so many degrees, and narrower at its right side by `tilt`."""
    width, height = np.multiply(CARD_WH, size) / 2
    corners = np.array(
        [[-width, -height], [width, -height * (1 - tilt)], [width, height * (1 - tilt)], [-width, height]]
    )
    turn = np.deg2rad(angle)
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    moved: npt.NDArray[np.float64] = corners @ matrix + centre
    return moved


def box_of(corners: npt.NDArray[np.float64]) -> Box:
    return Box(*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist())


def ask(query: ImageArray, *supports: tuple[ImageArray, Box]) -> Observation:
    return {
        "support_images": tuple(image for image, _ in supports),
        "support_boxes": np.array([box for _, box in supports], np.float64),
        "query_image": query,
    }


def find(query: ImageArray, *supports: tuple[ImageArray, Box]) -> tuple[Box, float]:
    return AppearanceMatcher().scored(ask(query, *supports), RNG)


def find_upright(
    monkeypatch: pytest.MonkeyPatch, query: ImageArray, support: tuple[ImageArray, Box]
) -> tuple[Box, float]:
    """As the matcher without features does."""
    monkeypatch.setattr(match, "propose_turned", lambda *_: NOTHING)
    return find(query, support)


AT_HOME = place((240, 180))
SUPPORT = put(clutter(1), card(), AT_HOME), box_of(AT_HOME)


@pytest.mark.parametrize(
    ("corners", "image_wh"),
    [
        pytest.param(place((150, 200), angle=90), SCENE_WH, id="turned by 90 degrees"),
        pytest.param(place((300, 160), angle=180), SCENE_WH, id="turned by 180 degrees"),
        pytest.param(place((300, 160), angle=37), SCENE_WH, id="turned by 37 degrees"),
        pytest.param(place((330, 100), size=0.35), SCENE_WH, id="0.35 times the size"),
        pytest.param(place((560, 400), size=2.5), (1100, 800), id="2.5 times the size"),
        pytest.param(place((240, 180), size=2.3), SCENE_WH, id="2.3 times as large a part"),
        pytest.param(place((240, 180), angle=-40, tilt=0.15), SCENE_WH, id="seen from the side"),
        pytest.param(place((120, 500), angle=90), (240, 640), id="in a picture of another shape"),
    ],
)
def test_a_card_is_found_in_another_scene(corners: npt.NDArray[np.float64], image_wh: tuple[int, int]) -> None:
    box, score = find(put(clutter(2, image_wh), card(), corners), SUPPORT)
    assert box_iou(box, box_of(corners)) >= 0.8
    assert 0.8 < score < 0.95


@pytest.mark.parametrize("angle", [45, 90, 180])
def test_a_half_hidden_card_is_found_whole(angle: float) -> None:
    corners = place((220, 170), angle=angle)
    box, score = find(put(clutter(4), card(), corners, share_shown=0.5), SUPPORT)
    assert box_iou(box, box_of(corners)) >= 0.8
    assert score > 0.8


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_still_card_in_a_turned_picture_is_found(quarters: int) -> None:
    """All moves together, so the inliers alone do not count."""
    turned = np.ascontiguousarray(np.rot90(SUPPORT[0], quarters))
    box, _ = find(turned, SUPPORT)
    wh = CARD_WH if quarters == 2 else CARD_WH[::-1]
    middle = np.array(SCENE_WH if quarters == 2 else SCENE_WH[::-1])
    truth = Box(*((middle - wh) / 2).tolist(), *((middle + wh) / 2).tolist())
    assert box_iou(box, truth) >= 0.8


def test_a_card_that_moves_before_its_scene_is_not_sought_where_the_scene_is() -> None:
    """The box holds more of the scene than of the card; the scene stands still, and the card has moved."""
    small = place((240, 180), size=0.6)
    box = Box(120, 90, 360, 270)
    support = put(clutter(1), card(), small)
    moved = place((130, 110), size=0.6)
    query = put(clutter(1), card(), moved)
    sighting = see_again(support, box, query)
    assert sighting is not None
    assert sighting.matrix[:, 2] == pytest.approx([-110, -70], abs=3)
    assert sighting.log_odds > 10


@pytest.mark.parametrize(
    "place_in_query", [place((150, 200)), place((150, 200), angle=25), place((150, 200), size=0.6)]
)
def test_an_upright_card_is_left_to_boxes(
    place_in_query: npt.NDArray[np.float64], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features are often those of what is behind, which has not turned either."""
    query = put(clutter(2), card(), place_in_query)
    assert find(query, SUPPORT) == find_upright(monkeypatch, query, SUPPORT)


@pytest.mark.parametrize("seed", range(6))
def test_a_scene_without_the_card_is_left_as_it_was(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    query = clutter(10 + seed)
    answer = find(query, SUPPORT)
    assert answer[1] < 0.8
    assert answer == find_upright(monkeypatch, query, SUPPORT)


def test_another_card_of_the_same_make_is_not_the_card() -> None:
    """A frame and a font in common do not make two cards one."""
    other = np.asarray(Image.fromarray(card("SALT 9 kg")).transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert see_again(SUPPORT[0], SUPPORT[1], put(clutter(2), other, place((150, 200)))) is None


def plain(colour: int, image_wh: tuple[int, int] = (120, 90)) -> ImageArray:
    return np.full((image_wh[1], image_wh[0], 3), colour, np.uint8)


def with_disc(centre: tuple[int, int]) -> ImageArray:
    picture = Image.fromarray(plain(90))
    ImageDraw.Draw(picture).ellipse(
        (centre[0] - 15, centre[1] - 15, centre[0] + 15, centre[1] + 15), fill=(200, 60, 30)
    )
    return np.asarray(picture)


GREY = np.repeat(clutter(5)[..., :1], 3, axis=2)


@pytest.mark.parametrize(
    ("support", "box", "query"),
    [
        pytest.param(with_disc((30, 40)), Box(15, 25, 45, 55), with_disc((80, 50)), id="without a pattern"),
        pytest.param(plain(90), Box(10, 10, 60, 60), plain(90), id="one colour"),
        pytest.param(plain(90), Box(10, 10, 60, 60), clutter(2), id="one colour, and a scene"),
        pytest.param(SUPPORT[0], SUPPORT[1], plain(90), id="a card, and one colour"),
        pytest.param(SUPPORT[0], Box(200, 100, 201, 101), clutter(2), id="a box of a pixel"),
        pytest.param(SUPPORT[0], Box(-9, 0, -5, 5), clutter(2), id="a box outside its picture"),
        pytest.param(SUPPORT[0], SUPPORT[1], plain(90, (1, 1)), id="a query of a pixel"),
        pytest.param(plain(90, (1, 1)), Box(0, 0, 1, 1), clutter(2), id="a support of a pixel"),
        pytest.param(clutter(6, (3, 300)), Box(0, 0, 3, 300), clutter(6, (300, 3)), id="slim pictures"),
        pytest.param(GREY, Box(20, 20, 90, 90), GREY[::-1], id="a mirrored grey picture"),
    ],
)
def test_without_a_sighting_the_answer_is_that_of_before(
    support: ImageArray, box: Box, query: ImageArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = find(query, (support, box))
    assert np.isfinite([*answer[0], answer[1]]).all()
    assert answer == find_upright(monkeypatch, query, (support, box))


def test_a_grey_card_is_found() -> None:
    grey = [
        np.repeat(image[..., 1:2], 3, axis=2)
        for image in (SUPPORT[0], put(clutter(2), card(), place((150, 200), angle=90)))
    ]
    assert box_iou(find(grey[1], (grey[0], SUPPORT[1]))[0], box_of(place((150, 200), angle=90))) >= 0.8


def test_the_support_that_sees_it_decides_in_any_order() -> None:
    corners = place((150, 200), angle=90)
    query = put(clutter(2), card(), corners)
    other = clutter(7), Box(100, 80, 260, 230)
    for supports in ([other, SUPPORT], [SUPPORT, other]):
        assert box_iou(find(query, *supports)[0], box_of(corners)) >= 0.8


class TestFormulas:
    @pytest.mark.parametrize(
        ("inliers", "pairs", "believed"),
        [(7, 7, False), (8, 8, True), (10, 20, False), (11, 20, True), (27, 100, False), (28, 100, True)],
    )
    def test_so_many_inliers_are_believed(self, inliers: int, pairs: int, believed: bool) -> None:
        assert (excess(inliers, pairs) > 0) == believed == (inliers > 5.9 + 0.2195 * pairs)

    @pytest.mark.parametrize(
        ("linear", "plausible"),
        [
            ([[1, 0], [0, 1]], True),
            ([[0, -2], [2, 0]], True),
            ([[0.3, 0], [0, 0.2]], True),
            ([[-1, 0], [0, 1]], False),
            ([[1, 0], [0, 0]], False),
            ([[4, 0], [0, 1]], False),
            ([[11, 0], [0, 11]], False),
            ([[0.05, 0], [0, 0.05]], False),
            ([[np.nan, 0], [0, 1]], False),
        ],
    )
    def test_a_transformation_is_plausible(self, linear: list[list[float]], plausible: bool) -> None:
        assert is_plausible(np.column_stack([np.array(linear, np.float64), [5, 7]])) == plausible

    @pytest.mark.parametrize(
        ("angle", "factor", "upright"),
        [
            (0, 1, True),
            (29, 1.9, True),
            (-29, 0.55, True),
            (31, 1, False),
            (-31, 1, False),
            (0, 2.1, False),
            (180, 0.4, False),
        ],
    )
    def test_an_object_is_upright(self, angle: float, factor: float, upright: bool) -> None:
        turn = np.deg2rad(angle)
        linear = factor * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        assert is_upright(np.column_stack([linear, [5, 7]]), SCENE_WH, SCENE_WH) == upright
        larger = (SCENE_WH[0] * 3, SCENE_WH[1] * 3)  # what is three times as large in it is as large a part
        assert is_upright(np.column_stack([3 * linear, [5, 7]]), SCENE_WH, larger) == upright

    def test_a_box_turned_by_a_quarter(self) -> None:
        assert box_around(np.array([[0, -2, 100], [2, 0, 10.0]]), (1, 2, 4, 8)) == (84, 12, 96, 18)

    def test_a_transformation_is_found_among_strays(self) -> None:
        starts = RNG.uniform(0, 100, (40, 2))
        truth = np.array([[0.3, -0.8, 90], [0.8, 0.3, 5]])
        ends = starts @ truth[:, :2].T + truth[:, 2]
        ends[28:] = RNG.uniform(0, 100, (12, 2))
        found = fit_transformation(Pairs(starts, ends), 1.0)
        assert found is not None
        assert found.num_inliers >= 28
        np.testing.assert_allclose(found.matrix, truth, atol=1e-6)
        assert fit_transformation(Pairs(starts, RNG.uniform(0, 100, (40, 2))), 1.0) is None
        assert fit_transformation(Pairs(starts[:7], ends[:7]), 1.0) is None

    def test_each_feature_is_in_one_pair_at_most(self) -> None:
        known = Features(np.array([[1, 1], [2, 2], [3, 3.0]]), np.eye(3, 128, dtype=np.float32))
        seen = Features(np.array([[7, 7], [8, 8.0]]), np.eye(3, 128, dtype=np.float32)[[0, 2]])
        known.descriptors[1] = known.descriptors[0] * 0.9
        pairs = pair_features(known, seen)
        assert sorted(zip(pairs.starts.tolist(), pairs.ends.tolist(), strict=True)) == [
            ([1, 1], [7, 7]),
            ([3, 3], [8, 8]),
        ]
        assert len(pair_features(known, seen.some(np.array([True, False]), 9)).starts) == 0

    def test_features_are_thinned_evenly(self) -> None:
        features = Features(np.arange(40.0).reshape(20, 2), np.zeros((20, 128), np.float32))
        assert features.some(np.arange(20) % 2 == 0, 5).places[:, 0].tolist() == [0, 8, 16, 24, 32]

    def test_places_are_those_of_the_whole_picture(self) -> None:
        """Also of a large one, whose features are sought in a small copy."""
        dot = np.zeros((1200, 1600, 3), np.uint8)
        cv2.circle(dot, (1000, 700), 40, (255, 255, 255), -1)
        nearest = np.abs(find_features(dot).places - 1000.5 + np.array([0, 300])).max(axis=1).min()
        assert nearest < 2

    @pytest.mark.parametrize("support_wh", [(480, 360), (1920, 1440)])
    def test_what_is_turned_back_is_the_support(self, support_wh: tuple[int, int]) -> None:
        support = np.asarray(Image.fromarray(clutter(1)).resize(support_wh, Image.Resampling.BICUBIC))
        turned = np.ascontiguousarray(np.rot90(support))
        matrix = np.array([[0, 1, 0], [-1, 0, support_wh[0]]], np.float64)
        back = turn_back(turned, matrix, support_wh, (480, 360))
        expected = np.asarray(Image.fromarray(support).resize((480, 360), Image.Resampling.BOX))
        inner = np.s_[5:-5, 5:-5]
        assert np.corrcoef(back[inner].ravel(), expected[inner].ravel())[0, 1] > 0.99
