"""Draw an episode as a model sees it: its views, the image tokens that count as the box, and a sheet of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from focus_agents.diagnosis.findings import Section
from focus_agents.diagnosis.question import Question
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.seen import seen_difference, seen_pictures
from focus_agents.models.views import View, box_tokens, num_image_tokens
from focus_env.rendering import ANSWER_COLOUR, TARGET_COLOUR, Colour, stack_rows
from focus_env.types import Box, ImageArray

TEXT_COLOUR: Colour = (0, 115, 230)
SHADE: Colour = (245, 150, 0)
MOST_DIFFERENT = 24.0
"""Steps of 0 to 255 by which a view may differ from what it is said to show: resizing, far below another part."""
LEAST_CELLS = 0.25
"""Image tokens that an object has to cover."""
_SIDE = 224
_GAP = 3


def check_views(section: Section, processor: VLMProcessor, question: Question) -> list[tuple[ImageArray, ...]] | None:
    """Write down how large the model sees pictures, and see that its views show what they are said to show.

    Returns:
        For each picture what the vision tower gets of it, see `focus_agents.models.seen`; None: not known.
    """
    seen = seen_pictures(processor.image_processor, question.prompt, question.views)
    counts = [num_image_tokens(views) for views in question.views]
    sizes = [f"{p.shape[1]}x{p.shape[0]}" for p in question.pictures]
    shown = [f"{width}x{height}" for width, height in question.input_whs]
    names = [*(f"support {n}" for n in range(1, len(sizes))), "query"]
    section.facts |= {
        "episode": question.episode.episode_id,
        "pictures": [
            {"name": name, "size": size, "seen_at": at, "image_tokens": count, "views": len(views)}
            for name, size, at, count, views in zip(names, sizes, shown, counts, question.views, strict=True)
        ],
    }
    listed = "; ".join(
        f"{name} {size} seen at {at} in {count:,} tokens" + (f" of {len(views)} views" if len(views) > 1 else "")
        for name, size, at, count, views in zip(names, sizes, shown, counts, question.views, strict=True)
    )
    section.ok(f"episode {question.episode.episode_id}: {listed}")
    in_prompt = int((question.prompt.input_ids == processor.image_token_id).sum())
    if in_prompt != sum(counts):
        section.fault(f"the prompt holds {in_prompt} image tokens, its views {sum(counts)}; report this family's fault")
    _check_boxes(section, question, names)
    if seen is None:
        section.skip("what the vision tower gets cannot be drawn for this family; the sheet shows resized pictures")
        return None
    worst = max(
        seen_difference(pixels, picture, view)
        for picture, views, parts in zip(question.pictures, question.views, seen, strict=True)
        for view, pixels in zip(views, parts, strict=True)
    )
    section.facts["largest_difference"] = round(worst, 2)
    if worst > MOST_DIFFERENT:
        section.warn(
            f"a view differs by {worst:.0f} of 255 from the part of the picture that it is said to show; look at "
            "the sheet"
        )
    else:
        section.ok(f"each view shows its part of the picture (largest mean difference {worst:.1f} of 255)")
    return seen


def _check_boxes(section: Section, question: Question, names: Sequence[str]) -> None:
    """Say how many image tokens show each support's box."""
    found = [
        len(box_tokens(box, (p.shape[1], p.shape[0]), views))
        for box, p, views in zip(question.support_boxes, question.pictures[:-1], question.views[:-1], strict=True)
    ]
    section.facts["box_tokens"] = found
    counts = ", ".join(f"{name} {count}" for name, count in zip(names, found, strict=False))
    section.ok(f"image tokens that show the box: {counts}")
    sizes = [
        max(_cells(box, (p.shape[1], p.shape[0]), view) for view in views)
        for box, p, views in zip(question.support_boxes, question.pictures[:-1], question.views[:-1], strict=True)
    ]
    small = [name for name, size in zip(names, sizes, strict=False) if size < LEAST_CELLS]
    if small:
        section.warn(
            f"the object of {', '.join(small)} covers less than {LEAST_CELLS} of an image token, so the model sees "
            "next to nothing of it; take larger pictures, enlarge them by `min_pixels`, or raise `max_image_tokens` "
            "where they are scaled down to it"
        )


def _cells(box: Box, image_wh: tuple[int, int], view: View) -> float:
    """Count the tokens of a view that the visible part of a box covers."""
    x1, y1, x2, y2 = view.area
    width = min(box.x2 / image_wh[0], x2) - max(box.x1 / image_wh[0], x1)
    height = min(box.y2 / image_wh[1], y2) - max(box.y1 / image_wh[1], y1)
    return max(width, 0.0) / (x2 - x1) * view.columns * max(height, 0.0) / (y2 - y1) * view.rows


def draw_sheet(
    question: Question,
    seen: Sequence[Sequence[ImageArray]] | None,
    *,
    boxes_in_text: Mapping[int, Box],
    answer: Box | None,
) -> ImageArray:
    """Draw what the model sees: a row for each picture, its views with boxes, and the tokens of the box shaded.

    Args:
        question: What is asked.
        seen: What the tower gets; None: the picture's parts, resized.
        boxes_in_text: By number of the support, from 1, its box as read back from the prompt.
        answer: The box of the greedy answer.

    Returns:
        [H, W, 3] uint8.
    """
    rows, titles = [], []
    for index, (picture, views) in enumerate(zip(question.pictures, question.views, strict=True)):
        is_query = index == len(question.pictures) - 1
        true = question.episode.target_box if is_query else question.support_boxes[index]
        other = answer if is_query else boxes_in_text.get(index + 1)
        image_wh = (picture.shape[1], picture.shape[0])
        marked = np.zeros(0, dtype=np.int64) if true is None else box_tokens(true, image_wh, views)
        parts = [_part(picture, view) for view in views] if seen is None else seen[index]
        colour = ANSWER_COLOUR if is_query else TEXT_COLOUR
        drawn = _draw_views(views, parts, image_wh, marked, [(true, TARGET_COLOUR), (other, colour)])
        rows.append(_in_a_row([_draw_whole(picture, [(true, TARGET_COLOUR), (other, colour)]), *drawn]))
        name = "query" if is_query else f"support {index + 1}"
        width, height = question.input_whs[index]
        titles.append(
            f"{name}: {image_wh[0]} x {image_wh[1]} as it is, then as the model sees it, {width} x {height} in "
            f"{num_image_tokens(views):,} tokens, {len(marked)} of them show the box"
        )
    legend = [
        ("true box", TARGET_COLOUR), ("box read back from the prompt's text", TEXT_COLOUR),
        ("greedy answer", ANSWER_COLOUR), ("image tokens that count as the box", SHADE),
    ]  # fmt: skip
    return stack_rows(rows, titles, legend=legend)


def _part(picture: ImageArray, view: View) -> ImageArray:
    """Return the part of a picture that a view shows, a few pixels for each token; black outside of the picture."""
    height, width = picture.shape[:2]
    x1, y1, x2, y2 = view.area
    box = (round(x1 * width), round(y1 * height), round(x2 * width), round(y2 * height))
    cropped = Image.fromarray(picture).crop(box)
    part: ImageArray = np.array(cropped.resize((view.columns * 16, view.rows * 16)))
    return part


def _draw_whole(picture: ImageArray, boxes: Sequence[tuple[Box | None, Colour]]) -> ImageArray:
    return _with_boxes(picture, _scale(picture), (0.0, 0.0), (1.0, 1.0), boxes)


def _scale(picture: ImageArray, side: int = _SIDE) -> tuple[int, int]:
    """Return (width, height) of a picture as drawn."""
    height, width = picture.shape[:2]
    factor = side / max(height, width)
    return max(1, round(width * factor)), max(1, round(height * factor))


def _draw_views(
    views: Sequence[View],
    parts: Sequence[ImageArray],
    image_wh: tuple[int, int],
    marked: npt.NDArray[np.int64],
    boxes: Sequence[tuple[Box | None, Colour]],
) -> list[ImageArray]:
    """Draw views of whole pictures each alone, and tiles together, where they lie."""
    alone: list[ImageArray] = []
    tiles: list[tuple[View, ImageArray]] = []
    start = 0
    for view, part in zip(views, parts, strict=True):
        cells = np.isin(start + view.tokens(), marked)
        start += view.num_tokens
        x1, y1, x2, y2 = view.area
        is_tile = x2 - x1 < 1 or y2 - y1 < 1
        wh = (
            (round(_SIDE * (x2 - x1)), round(_SIDE * image_wh[1] / image_wh[0] * (y2 - y1)))
            if is_tile
            else _scale(part)
        )
        shaded = _shade(part, wh, cells)
        origin = (x1 * image_wh[0], y1 * image_wh[1])
        scale = (wh[0] / (image_wh[0] * (x2 - x1)), wh[1] / (image_wh[1] * (y2 - y1)))
        drawn = _with_boxes(shaded, wh, origin, scale, boxes)
        if is_tile:
            tiles.append((view, drawn))
        else:
            alone.append(drawn)
    return [*([_lay_out(tiles)] if tiles else []), *alone]


def _lay_out(tiles: Sequence[tuple[View, ImageArray]]) -> ImageArray:
    """Return tiles where they lie in the picture, with gaps between them."""
    columns = sorted({view.area[0] for view, _ in tiles})
    lines = sorted({view.area[1] for view, _ in tiles})
    height, width = (max(part.shape[axis] for _, part in tiles) for axis in (0, 1))
    shape = (len(lines) * (height + _GAP) - _GAP, len(columns) * (width + _GAP) - _GAP, 3)
    canvas = np.full(shape, 255, np.uint8)
    for view, part in tiles:
        top, left = lines.index(view.area[1]) * (height + _GAP), columns.index(view.area[0]) * (width + _GAP)
        canvas[top : top + part.shape[0], left : left + part.shape[1]] = part
    return canvas


def _shade(part: ImageArray, wh: tuple[int, int], cells: npt.NDArray[np.bool_]) -> ImageArray:
    """Return a view as drawn, with its grid of tokens, those of the box shaded."""
    enlarges = wh[0] > part.shape[1]
    resample = Image.Resampling.NEAREST if enlarges else Image.Resampling.LANCZOS
    picture = Image.fromarray(part).resize(wh, resample).convert("RGBA")
    layer = Image.new("RGBA", wh)
    draw = ImageDraw.Draw(layer)
    rows, columns = cells.shape
    xs = [round(n * wh[0] / columns) for n in range(columns + 1)]
    ys = [round(n * wh[1] / rows) for n in range(rows + 1)]
    for row, column in np.argwhere(cells).tolist():
        draw.rectangle((xs[column], ys[row], xs[column + 1], ys[row + 1]), fill=(*SHADE, 110))
    if min(wh[0] / columns, wh[1] / rows) >= 5:
        for x in xs[1:-1]:
            draw.line((x, 0, x, wh[1]), fill=(255, 255, 255, 90))
        for y in ys[1:-1]:
            draw.line((0, y, wh[0], y), fill=(255, 255, 255, 90))
    shaded: ImageArray = np.array(Image.alpha_composite(picture, layer).convert("RGB"))
    return shaded


def _with_boxes(
    part: ImageArray,
    wh: tuple[int, int],
    origin: tuple[float, float],
    scale: tuple[float, float],
    boxes: Sequence[tuple[Box | None, Colour]],
) -> ImageArray:
    """Return a part of a picture, resized, with what lies in it of boxes in pixels of the picture.

    Args:
        part: [h, w, 3] uint8.
        wh: (width, height) to which it is resized.
        origin: Its upper left corner in the picture.
        scale: Pixels as drawn for a pixel of the picture; (1, 1): those of the part, resized.
        boxes: Two with their colours, the first drawn thick and the second thin; None: there is none.
    """
    if scale == (1.0, 1.0):
        scale = (wh[0] / part.shape[1], wh[1] / part.shape[0])
    if part.shape[:2] != (wh[1], wh[0]):
        resample = Image.Resampling.NEAREST if wh[0] > part.shape[1] else Image.Resampling.LANCZOS
        part = np.array(Image.fromarray(part).resize(wh, resample))
    picture = Image.fromarray(part)
    draw = ImageDraw.Draw(picture)
    # What lies outside of the part is not drawn: a box over several tiles has no lines between them. The second one is
    # thin, so that both show where they are the same.
    for line, (box, colour) in zip((3, 1), boxes, strict=True):
        if box is None:
            continue
        x1, x2 = (round((x - origin[0]) * scale[0]) for x in (box.x1, box.x2))
        y1, y2 = (round((y - origin[1]) * scale[1]) for y in (box.y1, box.y2))
        corners = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))
        if line > 1:
            around = (corners[0] - 2, corners[1] - 2, corners[2] + 2, corners[3] + 2)
            draw.rectangle(around, outline=(255, 255, 255), width=line + 2)
            draw.rectangle((corners[0] - 1, corners[1] - 1, corners[2] + 1, corners[3] + 1), outline=colour, width=line)
        else:
            draw.rectangle(corners, outline=colour)
    final: ImageArray = np.array(picture)
    return final


def _in_a_row(pictures: Sequence[ImageArray]) -> ImageArray:
    height = max(picture.shape[0] for picture in pictures)
    padded = [np.pad(p, ((0, height - len(p)), (0, 2 * _GAP), (0, 0)), constant_values=255) for p in pictures]
    row: ImageArray = np.concatenate(padded, axis=1)
    return row
