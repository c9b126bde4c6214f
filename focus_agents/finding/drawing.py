"""Draw the boxes that were found: into each picture, a contact sheet, or a clip."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from focus_agents.finding.answers import Looked, in_words, is_below
from focus_agents.finding.sources import Shown, Sources
from focus_agents.finding.video import USUAL_RATE, frame_rate, write_video
from focus_env.files import fresh_file, fresh_folder
from focus_env.rendering import ANSWER_COLOURS, TARGET_COLOUR, Colour, draw_boxes, write_picture
from focus_env.types import Box, ImageArray

LARGEST_SIDE = 1600
"""Most pixels along a side of a drawn picture; labels in larger pictures could not be read."""
KEPT_ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
"""Pictures of other endings are written as .png."""
MOST_TILES = 60
"""Most pictures of a contact sheet; of more, this many are shown, spread evenly."""
TILE_WH, COLUMNS, GAP, LINE = (260, 195), 5, 8, 18
"""Of a contact sheet, in pixels."""
INK, PAPER = (70, 70, 70), (255, 255, 255)


def is_sheet(path: Path) -> bool:
    """Tell whether a path is that of a contact sheet: its ending is that of a picture that can be written."""
    return Image.registered_extensions().get(path.suffix.lower()) in Image.SAVE


def draw_folder(
    folder: Path, sources: Sources, looked: Sequence[Looked], *, min_score: float | None, on_done: Callable[[int], None]
) -> None:
    """Write each picture with its boxes, by its name, into a folder that appears when all pictures are written."""
    labels = _labels(looked)
    with fresh_folder(folder) as scratch:
        scratch.mkdir()
        for count, (shown, one) in enumerate(_readable(sources, looked), start=1):
            assert shown.image is not None
            name = Path(one.name)
            ending = "" if name.suffix.lower() in KEPT_ENDINGS else ".png"
            path = scratch / name.with_name(name.name + ending)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(drawn(shown.image, one, labels, min_score)).save(path, quality=92)
            on_done(count)


def draw_sheet(
    path: Path, sources: Sources, looked: Sequence[Looked], *, min_score: float | None, on_done: Callable[[int], None]
) -> None:
    """Write a contact sheet: small pictures with their boxes, names and scores below."""
    labels = _labels(looked)
    read = [one.index for one in looked if one.image_wh is not None]
    places = np.linspace(0, len(read) - 1, min(len(read), MOST_TILES)).round().astype(int)
    chosen = {read[place] for place in places.tolist()}
    tiles = []
    for count, (shown, one) in enumerate(_readable(sources, looked), start=1):
        if one.index in chosen and shown.image is not None:
            tiles.append(_tile(shown.image, one, labels, min_score))
        on_done(count)
    write_picture(path, _sheet(tiles, labels, num_pictures=len(read)))


def draw_clip(
    path: Path, sources: Sources, looked: Sequence[Looked], *, min_score: float | None, on_done: Callable[[int], None]
) -> None:
    """Write a clip of all pictures with their boxes, in their order, at the frame rate of their video."""
    labels = _labels(looked)
    clips = sources.videos
    rate = frame_rate(clips[0].path) / sources.every if clips and clips[0].path else USUAL_RATE

    def frames() -> Iterator[ImageArray]:
        for count, (shown, one) in enumerate(_readable(sources, looked), start=1):
            assert shown.image is not None
            yield drawn(shown.image, one, labels, min_score)
            on_done(count)

    with fresh_file(path) as scratch:
        write_video(scratch, frames(), rate)


def drawn(image: ImageArray, one: Looked, labels: Sequence[str], min_score: float | None) -> ImageArray:
    """Return a picture with the boxes that were found in it, at most `LARGEST_SIDE` pixels long.

    Args:
        image: [H, W, 3] uint8.
        one: The answers about the picture.
        labels: All objects; each has its own colour.
        min_score: Boxes of a lower score are left out.
    """
    small, scale = _fitted(image, (LARGEST_SIDE, LARGEST_SIDE))
    return draw_boxes(small, _boxes(one, labels, min_score, scale, with_labels=True))


def _boxes(
    one: Looked, labels: Sequence[str], min_score: float | None, scale: tuple[float, float], *, with_labels: bool
) -> list[tuple[Box, Colour, str]]:
    found = []
    for answer in one.answers:
        if answer.box is None or is_below(answer, min_score):
            continue
        x1, y1, x2, y2 = answer.box
        box = Box(x1 * scale[0], y1 * scale[1], x2 * scale[0], y2 * scale[1])
        colour = TARGET_COLOUR if answer.kind == "given" else _colour(answer.label, labels)
        score = "" if answer.score is None else f" {answer.score:.2f}"
        found.append((box, colour, f"{answer.label}{score}" if with_labels else ""))
    return found


def _colour(label: str, labels: Sequence[str]) -> Colour:
    return ANSWER_COLOURS[labels.index(label) % len(ANSWER_COLOURS)]


def _labels(looked: Sequence[Looked]) -> list[str]:
    return list(dict.fromkeys(answer.label for one in looked for answer in one.answers))


def _readable(sources: Sources, looked: Sequence[Looked]) -> Iterator[tuple[Shown, Looked]]:
    """Yield the pictures that could be read, read once more."""
    for shown, one in zip(sources.read(), looked, strict=False):
        if one.image_wh is not None and shown.image is not None:
            yield shown, one


def _fitted(image: ImageArray, most_wh: tuple[int, int]) -> tuple[ImageArray, tuple[float, float]]:
    """Shrink a picture into a size, never enlarging it, and return the picture with the scale of its axes."""
    height, width = image.shape[:2]
    factor = min(1.0, most_wh[0] / width, most_wh[1] / height)
    new_wh = max(1, round(width * factor)), max(1, round(height * factor))
    if new_wh == (width, height):
        return image, (1.0, 1.0)
    return np.array(Image.fromarray(image).resize(new_wh)), (new_wh[0] / width, new_wh[1] / height)


def _tile(image: ImageArray, one: Looked, labels: Sequence[str], min_score: float | None) -> Image.Image:
    """Draw one picture of a contact sheet, with the text below the picture."""
    small, scale = _fitted(image, TILE_WH)
    small = draw_boxes(small, _boxes(one, labels, min_score, scale, with_labels=False))
    tile = Image.new("RGB", (TILE_WH[0], TILE_WH[1] + LINE * (1 + len(one.answers))), PAPER)
    tile.paste(Image.fromarray(small), ((TILE_WH[0] - small.shape[1]) // 2, (TILE_WH[1] - small.shape[0]) // 2))
    draw, font = ImageDraw.Draw(tile), _font()
    lines: list[tuple[str, Colour]] = [(one.name, INK)]
    for answer in one.answers:
        text = in_words(answer, min_score) + ("" if answer.score is None else f", {answer.score:.2f}")
        lines.append((f"{answer.label}: {text}", _colour(answer.label, labels)))
    for row, (text, colour) in enumerate(lines):
        top = TILE_WH[1] + LINE * row + LINE / 2
        draw.text((2, top), _shortened(text, TILE_WH[0] - 4), fill=colour, font=font, anchor="lm")
    return tile


def _sheet(tiles: Sequence[Image.Image], labels: Sequence[str], *, num_pictures: int) -> ImageArray:
    columns = min(COLUMNS, max(1, len(tiles)))
    height = max((tile.height for tile in tiles), default=0) + GAP
    head = 2 * LINE
    wh = (columns * (TILE_WH[0] + GAP) + GAP, head + math.ceil(len(tiles) / columns) * height + GAP)
    sheet = Image.new("RGB", wh, PAPER)
    draw, font, left = ImageDraw.Draw(sheet), _font(), float(GAP)
    shown = f"{num_pictures} pictures" if len(tiles) == num_pictures else f"{len(tiles)} of {num_pictures} pictures"
    for text, colour in [(shown, INK), ("given", TARGET_COLOUR), *((one, _colour(one, labels)) for one in labels)]:
        draw.text((left, head / 2), text, fill=colour, font=font, anchor="lm")
        left += font.getlength(text) + 14
    for place, tile in enumerate(tiles):
        row, column = divmod(place, columns)
        sheet.paste(tile, (GAP + column * (TILE_WH[0] + GAP), head + row * height))
    return np.array(sheet)


def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=13)


def _shortened(text: str, width: float) -> str:
    """Shorten a text to a width in pixels, by leaving out its middle."""
    font = _font()
    if font.getlength(text) <= width:
        return text
    kept = len(text) - 1
    while kept > 2 and font.getlength(f"{text[: kept // 2]}…{text[-(kept - kept // 2) :]}") > width:
        kept -= 1
    return f"{text[: kept // 2]}…{text[-(kept - kept // 2) :]}"
