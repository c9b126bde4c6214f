"""Pictures for people: an episode as a row of tiles, and rows as a sheet.

Green is the truth, on supports and query; every other colour is an answer. All functions but `write_picture` are
pure: they take arrays and records, and give new arrays [H, W, 3] uint8, RGB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from focus_env.arrays import Picture, as_picture
from focus_env.boxes import as_box, box_iou
from focus_env.files import fresh_file
from focus_env.overlap import name_shortcuts, support_shares
from focus_env.pictures import FourNumbers, as_episode, as_supports
from focus_env.types import Box, Episode, EpisodeDataset, ImageArray

Colour = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""

TARGET_COLOUR: Colour = (0, 190, 80)
ANSWER_COLOUR: Colour = (225, 0, 130)
ANSWER_COLOURS: tuple[Colour, ...] = (
    ANSWER_COLOUR,
    (0, 115, 230),
    (245, 150, 0),
    (120, 80, 200),
    (0, 170, 180),
)
"""To tell several answers apart; also for people who cannot tell red from green."""

_BACKGROUND: Colour = (255, 255, 255)
_TEXT_COLOUR: Colour = (70, 70, 70)
_MIN_TILE_HEIGHT, _MAX_TILE_HEIGHT = 160, 320
_MAX_ASPECT = 2.5  # a tile wider than this times its height is scaled down to it
_MARGIN, _QUERY_GAP = 6, 26
_FONT_SIZE = 13
_LINE_HEIGHT = 20
_MAX_REASON = 160


def draw_boxes(image: Picture, boxes: Sequence[tuple[FourNumbers, Colour, str]]) -> ImageArray:
    """Draw boxes over a copy of an image.

    Args:
        image: [H, W, 3] uint8, or another picture that `focus_env.arrays` takes; so for all functions here.
        boxes: Each a box `xyxy` in pixels of `image`, its colour, and its label; an empty label draws none.
            Later ones lie over earlier ones.

    Returns:
        [H, W, 3] uint8, of the same size.
    """
    pixels = as_picture(image, "image")
    drawn = [(as_box(box, f"box {n}"), colour, label) for n, (box, colour, label) in enumerate(boxes, start=1)]
    for number, (box, _, _) in enumerate(drawn, start=1):
        if not all(map(math.isfinite, box)):
            raise ValueError(f"box {number} must be four finite numbers, got {tuple(box)}")
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    width = int(np.clip(min(pixels.shape[:2]) // 100, 2, 4))
    # The outline straddles the box: a white line around it shows on dark and on bright ground.
    image_wh = picture.size
    for box, colour, _ in drawn:
        draw.rectangle(_corners(box, width / 2 + 1, image_wh), outline=(255, 255, 255), width=width + 2)
        draw.rectangle(_corners(box, width / 2, image_wh), outline=colour, width=width)
    for box, colour, label in drawn:
        if label:
            _draw_label(draw, box, colour, label, pixels.shape[0])
    return np.array(picture)


def _corners(box: Box, margin: float, image_wh: tuple[int, int]) -> list[float]:
    """Pull the outline into the picture where it would leave it: a box of the whole picture shows at its edge."""
    # A pixel column i covers i to i + 1, and Pillow's far corner is inclusive.
    x1, y1, x2, y2 = (round(value) for value in box)
    near, far = (max(0, x1 - margin), max(0, y1 - margin)), (x2 - 1 + margin, y2 - 1 + margin)
    return [*near, *(max(low, min(high, size - 1)) for low, high, size in zip(near, far, image_wh, strict=True))]


def _draw_label(draw: ImageDraw.ImageDraw, box: Box, colour: Colour, label: str, image_height: int) -> None:
    font = _font()
    left, bottom = max(0.0, box.x1), box.y1 - 3
    if bottom < _LINE_HEIGHT:  # no room above the box
        bottom = min(box.y2 + 3 + _LINE_HEIGHT, image_height)
    text_width = draw.textlength(label, font=font)
    draw.rectangle([left, bottom - _LINE_HEIGHT + 2, left + text_width + 6, bottom], fill=colour)
    draw.text((left + 3, bottom - _LINE_HEIGHT / 2 + 1), label, fill=(255, 255, 255), font=font, anchor="lm")


def render_episode(episode: Episode, answers: Sequence[tuple[str, Box | None, Colour]] = ()) -> ImageArray:
    """Draw one episode as a row: the supports, a gap, the query with target and answers, captions below.

    Tiles have one height between 160 and 320 pixels; small images are enlarged without smoothing, so that
    their pixels can be seen.

    Args:
        episode: Its pictures are decoded.
        answers: Each a label, a box `xyxy` in pixels of the query (None where the answer holds none), and a
            colour. The caption gives each answer's IoU with the target, and names the shortcuts of `name_shortcuts`.

    Returns:
        [H, W, 3] uint8.
    """
    episode = as_episode(episode)
    answers = [(label, None if box is None else as_box(box, label), colour) for label, box, colour in answers]
    images = [exemplar.frame.image() for exemplar in episode.support] + [episode.query_frame.image()]
    height = _tile_height(max(image.shape[0] for image in images))
    tiles = []
    for index, exemplar in enumerate(episode.support):
        tile, scale = _fit(images[index], height)
        tile = draw_boxes(tile, [(_scaled(exemplar.box, scale), TARGET_COLOUR, "")])
        tiles.append(_with_caption(tile, height, [(f"support {index + 1}", None)]))

    tile, scale = _fit(images[-1], height)
    shown = [(episode.target_box, TARGET_COLOUR)] + [(box, colour) for _, box, colour in answers]
    tile = draw_boxes(tile, [(_scaled(box, scale), colour, "") for box, colour in shown if box is not None])
    caption: list[tuple[str, Colour | None]] = [
        ("query", None),
        ("target absent", None) if episode.target_box is None else ("target", TARGET_COLOUR),
    ]
    caption += [(_describe(label, box, episode), colour) for label, box, colour in answers]
    tiles.append(np.full((1, _QUERY_GAP, 3), _BACKGROUND, np.uint8))
    tiles.append(_with_caption(tile, height, caption))
    return _join(tiles, axis=1)


def render_row(
    episodes: EpisodeDataset, index: int, answers: Sequence[tuple[str, Box | None, Colour]] = ()
) -> ImageArray:
    """Draw an episode of a data set as `render_episode`; where its pictures cannot be had, a row that says so.

    Args:
        episodes: The data set.
        index: Which of its episodes.
        answers: As in `render_episode`.

    Returns:
        [H, W, 3] uint8.
    """
    try:
        return render_episode(episodes[index], answers)
    except Exception as error:  # a sheet comes after the work, which one bad picture must not cost
        blank = np.full((_LINE_HEIGHT, _MIN_TILE_HEIGHT, 3), _BACKGROUND, np.uint8)
        reason = f"episode {index} cannot be drawn: {type(error).__name__}: {error}"[:_MAX_REASON]
        return _with_caption(blank, len(blank), [(reason.replace("\n", " "), None)])


def draw_heat(image: Picture, heat: npt.NDArray[np.floating]) -> ImageArray:
    """Lay a map over a copy of an image, in grey: the hotter a cell, the more of it shows.

    Args:
        image: [H, W, 3] uint8.
        heat: [rows, columns], 0 or more, cells that divide the image evenly; the largest one is shown in full light.

    Returns:
        [H, W, 3] uint8, of the same size.
    """
    pixels = as_picture(image, "image")
    height, width = pixels.shape[:2]
    share = heat / max(float(heat.max()), 1e-12)
    mask = Image.fromarray(np.round(255 * (0.12 + 0.88 * share)).astype(np.uint8))
    large = np.array(mask.resize((width, height), Image.Resampling.NEAREST))[..., None] / 255
    return np.round(pixels * large).astype(np.uint8)


def render_localization(
    supports: Sequence[tuple[Picture, FourNumbers]],
    query: Picture,
    answer: FourNumbers | None,
    attention: Sequence[npt.NDArray[np.floating]] | None = None,
) -> ImageArray:
    """Draw an answer where no truth is known: supports with their boxes, and the query with the answer.

    Args:
        supports: Pictures [H, W, 3] uint8 with a box each, `xyxy` in their pixels.
        query: The picture that was answered for, likewise.
        answer: In pixels of the query; None where there was none.
        attention: For each picture, the query last, [rows, columns] shares of attention that its cells were paid: the
            supports' by the query, the query's by the answer. Drawn in a second row, each picture by its own largest
            cell, with their sum below it.

    Returns:
        [H, W, 3] uint8.
    """
    given = as_supports(supports) if len(supports) else []
    shown: list[tuple[ImageArray, Box | None, Colour]] = [(image, box, TARGET_COLOUR) for image, box in given]
    shown.append((as_picture(query, "query"), None if answer is None else as_box(answer, "answer"), ANSWER_COLOUR))
    names = [f"support {number}" for number in range(1, len(given) + 1)] + ["query"]
    rows = [_tiles(shown, names)]
    if attention is not None:
        heated = [
            (draw_heat(image, part), box, colour) for (image, box, colour), part in zip(shown, attention, strict=True)
        ]
        who = [*["query"] * len(given), "answer"]
        captions = [f"by {name} {float(part.sum()):.0%}" for name, part in zip(who, attention, strict=True)]
        rows.append(_tiles(heated, captions))
    return stack_rows(rows, legend=[("given", TARGET_COLOUR), ("answer", ANSWER_COLOUR)])


def _tiles(shown: Sequence[tuple[ImageArray, Box | None, Colour]], captions: Sequence[str]) -> ImageArray:
    """Draw pictures with a box each in a row, the last one apart."""
    height = _tile_height(max(image.shape[0] for image, _, _ in shown))
    tiles = []
    for (image, box, colour), caption in zip(shown, captions, strict=True):
        tile, scale = _fit(image, height)
        tile = tile if box is None else draw_boxes(tile, [(_scaled(box, scale), colour, "")])
        tiles.append(_with_caption(tile, height, [(caption, None)]))
    tiles.insert(-1, np.full((1, _QUERY_GAP, 3), _BACKGROUND, np.uint8))
    return _join(tiles, axis=1)


def stack_rows(
    rows: Sequence[ImageArray],
    titles: Sequence[str] | None = None,
    *,
    legend: Sequence[tuple[str, Colour]] = (("target", TARGET_COLOUR), ("answer", ANSWER_COLOUR)),
) -> ImageArray:
    """Stack rows to a sheet, with a legend on top.

    Args:
        rows: Pictures [H, W, 3] uint8 of any size, such as `render_episode` gives; at least one.
        titles: A line above each row.
        legend: Labels and their colours.

    Returns:
        [H, W, 3] uint8.

    Raises:
        ValueError: If there is no row, or there are not as many titles as rows.
    """
    if not rows:
        raise ValueError("stack_rows needs at least one row, got none")
    if titles is not None and len(titles) != len(rows):
        raise ValueError(f"expected one title per row, got {len(titles)} titles for {len(rows)} rows")
    width = max(row.shape[1] for row in rows)
    parts: list[ImageArray] = []
    if legend:
        parts += [_caption_strip(legend, width, indent=_MARGIN), _rule(width)]
    for index, row in enumerate(rows):
        if titles is not None:
            parts.append(_caption_strip([(titles[index], None)], width, indent=_MARGIN))
        parts += [row, _rule(width)]
    return _join(parts[:-1], axis=0)


def write_picture(path: str | Path, image: Picture) -> Path:
    """Write a picture at once, in the format that the ending of its name says.

    Args:
        path: The file.
        image: [H, W, 3] uint8.

    Returns:
        `path`.

    Raises:
        StorageError: If the file cannot be written.
        ValueError: If no format has this ending.
    """
    file, pixels = Path(path), as_picture(image, "image")
    if Image.registered_extensions().get(file.suffix.lower()) not in Image.SAVE:
        raise ValueError(f"{file}: expected an ending such as .png, in whose format pictures are written")
    with fresh_file(file) as scratch:
        Image.fromarray(pixels).save(scratch)
    return file


def _describe(label: str, box: Box | None, episode: Episode) -> str:
    if box is None:
        return f"{label}: no box"
    target, shares = episode.target_box, support_shares(episode)
    said = "a box" if target is None else f"IoU {box_iou(box, target):.2f}"
    return ", ".join([f"{label}: {said}", *name_shortcuts(box, episode.query_frame.image_wh, shares)])


def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=_FONT_SIZE)


def _tile_height(image_height: int) -> int:
    """Return the image's height, or a whole multiple of it that is large enough, so that its pixels stay even."""
    return min(_MAX_TILE_HEIGHT, image_height * math.ceil(_MIN_TILE_HEIGHT / image_height))


def _fit(image: ImageArray, height: int) -> tuple[ImageArray, tuple[float, float]]:
    """Scale an image to the tile height, or to less if it would be too wide; with the scale per axis."""
    old_height, old_width = image.shape[:2]
    factor = min(height / old_height, _MAX_ASPECT * height / old_width)
    new_wh = max(1, round(old_width * factor)), max(1, round(old_height * factor))
    resample = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS
    resized = np.array(Image.fromarray(image).resize(new_wh, resample))
    return resized, (new_wh[0] / old_width, new_wh[1] / old_height)


def _scaled(box: Box, scale: tuple[float, float]) -> Box:
    return Box(box.x1 * scale[0], box.y1 * scale[1], box.x2 * scale[0], box.y2 * scale[1])


def _with_caption(tile: ImageArray, height: int, items: Sequence[tuple[str, Colour | None]]) -> ImageArray:
    """Return a tile, padded to the row's height so that captions line up, with its caption below."""
    padding = np.full((height - tile.shape[0], tile.shape[1], 3), _BACKGROUND, np.uint8)
    return _join([np.concatenate([tile, padding]), _caption_strip(items, tile.shape[1])], axis=0, margin=0)


def _caption_strip(items: Sequence[tuple[str, Colour | None]], min_width: int, *, indent: int = 0) -> ImageArray:
    """Draw labels, each after a swatch of its colour, in as many lines as they need."""
    font, swatch, gap = _font(), 10, 14
    widths = [round(font.getlength(text)) + (swatch + 5 if colour else 0) for text, colour in items]
    width = max(min_width, indent + max(widths))
    positions, x, line = [], indent, 0
    for item_width in widths:
        if x > indent and x + item_width > width:
            x, line = indent, line + 1
        positions.append((x, line * _LINE_HEIGHT))
        x += item_width + gap
    picture = Image.new("RGB", (width, (line + 1) * _LINE_HEIGHT + 2), _BACKGROUND)
    draw = ImageDraw.Draw(picture)
    for (text, colour), (left, top) in zip(items, positions, strict=True):
        middle = top + _LINE_HEIGHT / 2 + 1
        if colour:
            draw.rectangle([left, middle - swatch / 2, left + swatch, middle + swatch / 2], fill=colour)
            left += swatch + 5
        draw.text((left, middle), text, fill=_TEXT_COLOUR, font=font, anchor="lm")
    return np.array(picture)


def _rule(width: int) -> ImageArray:
    return np.full((1, width, 3), 225, np.uint8)


def _join(parts: Sequence[ImageArray], *, axis: int, margin: int = _MARGIN) -> ImageArray:
    """Lay pictures out below (axis 0) or beside (axis 1) each other, padded with background."""
    across = 1 - axis
    size = [0, 0]
    size[axis] = sum(part.shape[axis] for part in parts) + margin * (len(parts) + 1)
    size[across] = max(part.shape[across] for part in parts) + 2 * margin
    canvas = np.full((size[0], size[1], 3), _BACKGROUND, np.uint8)
    start = margin
    for part in parts:
        row, column = (start, margin) if axis == 0 else (margin, start)
        canvas[row : row + part.shape[0], column : column + part.shape[1]] = part
        start += part.shape[axis] + margin
    return canvas
