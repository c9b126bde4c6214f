"""Pictures and boxes as people have them, where they come in."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from focus_env.arrays import as_picture
from focus_env.boxes import as_box, box_iou, clip_box, iou, xywh_to_xyxy
from focus_env.overlap import giou
from focus_env.pictures import as_supports
from focus_env.prompts import get_template
from focus_env.rendering import draw_boxes, render_localization
from focus_env.types import Box

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(256, size=(24, 32, 3), dtype=np.uint8)
GREY = PIXELS[..., 0]
GREY_RGB = np.repeat(GREY[..., None], 3, axis=2)
WHOLE = np.concatenate([PIXELS, np.full((24, 32, 1), 255, np.uint8)], axis=2)


class Tensor:
    """An array of another library."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return PIXELS


class OnDevice:
    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError("can't convert a cuda tensor to numpy")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(PIXELS, PIXELS, id="uint8"),
        pytest.param(GREY, GREY_RGB, id="grey"),
        pytest.param(GREY[..., None], GREY_RGB, id="grey with a channel"),
        pytest.param(WHOLE, PIXELS, id="RGBA"),
        pytest.param(np.zeros((24, 32, 4), np.uint8), np.full_like(PIXELS, 255), id="transparent is white"),
        pytest.param(np.stack([GREY, np.full_like(GREY, 255)], axis=2), GREY_RGB, id="grey and alpha"),
        pytest.param(PIXELS.astype(np.int64), PIXELS, id="whole numbers of 8 bits"),
        pytest.param(PIXELS.astype(np.uint16) * 256 + 7, PIXELS, id="16 bits"),
        pytest.param(PIXELS / 255, PIXELS, id="shares"),
        pytest.param((PIXELS / 255).astype(np.float16), PIXELS, id="shares in half precision"),
        pytest.param(PIXELS.astype(np.float32), PIXELS, id="floats of 8 bits"),
        pytest.param(GREY > 127, np.where(GREY_RGB > 127, 255, 0), id="bool"),
        pytest.param(PIXELS.tolist(), PIXELS, id="lists"),
        pytest.param(Tensor(), PIXELS, id="another library"),
        pytest.param(Image.fromarray(PIXELS), PIXELS, id="Pillow"),
        pytest.param(Image.fromarray(PIXELS).convert("L"), None, id="Pillow, grey"),
        pytest.param(Image.fromarray(WHOLE, "RGBA"), PIXELS, id="Pillow, RGBA"),
        pytest.param(PIXELS[::2, ::2], PIXELS[::2, ::2], id="a view"),
        pytest.param(GREY.T, np.repeat(GREY.T[..., None], 3, axis=2), id="turned"),
    ],
)
def test_pictures_of_all_kinds(value: Any, expected: np.ndarray | None) -> None:
    found = as_picture(value, "query")
    assert (found.dtype, found.ndim, found.shape[2]) == (np.uint8, 3, 3)
    if expected is not None:
        np.testing.assert_array_equal(found, expected)


def test_streams_and_tensors(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    with open(tmp_path / "a.png", "rb") as file:
        for source in (io.BytesIO(content), file, bytearray(content), memoryview(content)):
            np.testing.assert_array_equal(as_picture(source, "query"), PIXELS)
    shares = torch.tensor(PIXELS / 255, dtype=torch.float32)
    for tensor in (torch.tensor(PIXELS), shares, shares.requires_grad_()):
        np.testing.assert_array_equal(as_picture(tensor, "query"), PIXELS)
    dark = torch.ones(4, 4, 3, dtype=torch.uint8)
    assert as_picture(dark, "query").max() == 1
    assert np.abs(as_picture(shares.bfloat16(), "query").astype(int) - PIXELS).max() <= 1


def test_a_path_below_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    assert np.array_equal(as_picture("~/a.png", "query"), PIXELS)
    assert np.array_equal(as_picture(Path("~/a.png"), "query"), PIXELS)


def test_files(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), (tmp_path / "a.png").read_bytes()):
        np.testing.assert_array_equal(as_picture(source, "query"), PIXELS)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "query: expected a path, a picture of Pillow, or an array .*, got NoneType"),
        (3, "got int"),
        ({"image": PIXELS}, "got dict"),
        ("https://a.org/b.png", "query: expected a path, .*, got the address 'https://a.org/b.png'; fetch the file"),
        (io.StringIO("words"), "query: expected a file of at most .* opened in binary mode"),
        ("/no/such.png", "query: /no/such.png: "),
        (b"words", "query: picture: expected one of JPEG"),
        (OnDevice(), "query: .* can't convert a cuda tensor"),
        (np.moveaxis(PIXELS, 2, 0), r"channels last, .* got the shape \[3, 24, 32\]; transpose it"),
        (PIXELS[None], r"got an array of the shape \[1, 24, 32, 3\]"),
        (np.zeros((4, 4, 5), np.uint8), r"got an array of the shape \[4, 4, 5\]"),
        (np.zeros(7), r"got an array of the shape \[7\]"),
        (np.zeros((0, 4, 3), np.uint8), r"with pixels, got the shape \[0, 4, 3\]"),
        (np.zeros((0, 4)), r"with pixels, got the shape \[0, 4\]"),
        (PIXELS / 127.5 - 1, "levels from 0 to 255, .* got float64 from -1 to 1; undo the normalization"),
        (np.full((4, 4, 3), np.nan), "got float64 from nan to nan"),
        (np.full((4, 4, 3), 70000), "got int64 from 70000"),
        (PIXELS * 1j, "expected numbers, as in uint8, got an array of complex128"),
        (PIXELS.astype(str), "expected numbers, as in uint8"),
    ],
)
def test_what_is_no_picture_is_named(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_picture(value, "query")


@pytest.mark.parametrize(
    "box", [Box(1, 2, 3, 4), (1, 2, 3, 4), [1.0, 2, 3, 4], np.array([1, 2, 3, 4]), np.array([1, 2, 3, 4], np.float32)]
)
def test_boxes_of_all_kinds(box: Any) -> None:
    assert as_box(box, "box") == Box(1, 2, 3, 4)
    assert as_box(box, "box", image_wh=(32, 24)) == Box(1, 2, 3, 4)
    assert box_iou(box, (1, 2, 3, 4)) == iou(box, [[1, 2, 3, 4]])[0] == 1.0
    assert clip_box(box, (2, 3)) == Box(1, 2, 2, 3)
    template = get_template("default")
    assert template.write_box(box, (32, 24)) == template.write_box(Box(1, 2, 3, 4), (32, 24))
    shown = render_localization([(PIXELS, box)], PIXELS, box)
    np.testing.assert_array_equal(shown, render_localization([(PIXELS, Box(1, 2, 3, 4))], PIXELS, Box(1, 2, 3, 4)))


NO_BOX = [
    None, 7, "1,2,3,4", (1, 2, 3), (1, 2, 3, 4, 5), ("1", "2", "3", "4"), np.zeros((2, 4)), [None] * 4, {1: 2},
    [[1], 2],
]  # fmt: skip


@pytest.mark.parametrize("box", NO_BOX, ids=repr)
@pytest.mark.parametrize(
    "function",
    [
        lambda box: as_box(box, "the box"),
        lambda box: clip_box(box, (32, 24)),
        lambda box: draw_boxes(PIXELS, [(box, (1, 2, 3), "")]),
        lambda box: as_supports([(PIXELS, box)]),
        lambda box: get_template("default").write_box(box, (32, 24)),
        lambda box: get_template("default").render(
            {"support_images": (PIXELS,), "support_boxes": [box], "query_image": PIXELS}
        ),
    ],
    ids=["as_box", "clip_box", "draw_boxes", "as_supports", "write_box", "render"],
)
def test_what_is_no_box_is_named(function: Callable[[Any], object], box: Any) -> None:
    with pytest.raises(ValueError, match="expected four numbers x1, y1, x2, y2 in pixels, got"):
        function(box)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (
            (0.1, 0.2, 0.5, 0.6),
            "box of support 1 must be in pixels .* looks like shares of it; multiply x by",
        ),
        ((0, 0, 1, 1), "looks like shares .* if this pixel is meant, give a box .*, such as 0, 0, 1.01, 1.01"),
        ((10, 10, 5, 20), "must be xyxy with x1 < x2 .*if it is x, y, width, height, convert it with xywh_to_xyxy"),
        ((10, 10, 33, 20), r"must lie inside the image of \(32, 24\)"),
        ((np.nan, 1, 2, 3), "must be four finite numbers"),
        ((True, True, False, True), "expected four numbers"),
    ],
)
def test_boxes_that_are_none_of_their_picture(box: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_supports([(PIXELS, box)])


def test_a_tiny_picture_has_boxes_of_a_pixel() -> None:
    assert as_supports([(PIXELS[:8, :8], (0, 0, 1, 1))])[0][1] == Box(0, 0, 1, 1)


@pytest.mark.parametrize(
    ("supports", "message"),
    [
        ([], "supports: expected at least one picture with a box, got none"),
        (None, "got NoneType"),
        ("a.png", "got str"),
        (PIXELS, "got ndarray"),
        ({PIXELS.shape: 1}, "got dict"),
        ((PIXELS, Box(1, 2, 3, 4)), r"support 1: expected a picture with a box, as in \(picture, box\), got ndarray"),
        ([(PIXELS,)], "support 1: .* got 1 things"),
        ([(PIXELS, (1, 2, 3, 4)), PIXELS], "support 2: .* got ndarray"),
        ([(None, (1, 2, 3, 4))], "picture of support 1: expected a path"),
    ],
)
def test_what_is_no_list_of_supports_is_named(supports: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_supports(supports)
    assert len(as_supports(zip([PIXELS], [(1, 2, 3, 4)], strict=True))) == 1


@pytest.mark.parametrize("boxes", [None, "boxes", [(1, 2, 3, 4), (1, 2)], 7, [["a"] * 4], [1, 2, 3]])
def test_arrays_that_are_no_boxes_are_named(boxes: Any) -> None:
    with pytest.raises(ValueError, match=r"iou: b must have the shape \[..., 4\], got"):
        iou([1, 2, 3, 4], boxes)
    with pytest.raises(ValueError, match=r"boxes: a must have the shape \[..., 4\], got"):
        giou(boxes, [1, 2, 3, 4])
    assert xywh_to_xyxy([1, 2, 3, 4]) == Box(1, 2, 4, 6)


def test_an_observation_without_a_part_is_named() -> None:
    with pytest.raises(ValueError, match=r"observation: expected support_images, .*, found no query_image"):
        get_template("default").render({"support_images": (), "support_boxes": []})  # type: ignore[typeddict-item]
