"""Dropped files as pictures: a name is never a path, and each picture is checked before it is decoded."""

from __future__ import annotations

import io
import itertools
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from focus_agents.finding.video import read_frames
from focus_agents.serving import RefusedError
from focus_env.errors import DatasetError
from focus_env.images import read_picture
from focus_env.picture_files import DECODER_ERRORS, FORMATS, opened
from focus_env.text_files import as_name
from focus_env.types import ImageArray

LONGEST_NAME = 120
LARGEST_SIDE = 1280
"""Pixels of a picture as the page shows it."""
SMALL_SIDE = 256
"""Pictures up to this size are shown pixel by pixel."""
MOST_FRAMES = 120
"""Of a video, spread evenly."""
MOST_SECONDS = 60.0
"""Longest time to decode a video."""
FRAME_QUALITY = 95
STILLS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis")
"""Brands of pictures in the container of videos."""
ENDINGS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "GIF": ".gif", "TIFF": ".tif", "PPM": ".ppm"}


@dataclass(frozen=True, slots=True)
class Upload:
    """A picture that was dropped, or a frame of a video.

    Attributes:
        name: In annotations; no other picture of the session has it.
        content: The file.
        image_wh: (width, height) as a person sees it.
        preview: What the page shows, a JPEG or PNG of the same shape.
        ending: Of a file with this content.
        clip: The video that it is a frame of.
    """

    name: str
    content: bytes
    image_wh: tuple[int, int]
    preview: bytes
    ending: str
    clip: str = ""

    @property
    def num_bytes(self) -> int:
        """Bytes in memory."""
        return len(self.content) + len(self.preview)

    def pixels(self) -> ImageArray:
        """Return the picture, [H, W, 3] uint8."""
        return read_picture(self.content)


def read_upload(content: bytes, name: str, *, taken: Collection[str], room: int) -> tuple[list[Upload], str]:
    """Return the pictures in a file, and a note for people.

    Args:
        content: The file.
        name: As the sender calls it.
        taken: Names of pictures that are there already.
        room: Bytes that the pictures may take in memory.

    Returns:
        (One picture, or the frames of a video; a sentence, or "").

    Raises:
        RefusedError: If it is neither, cannot be decoded, or there is no room.
        MissingDependencyError: If it is a video, and the package that reads it is not installed.
    """
    own = free_name(name, taken)
    if is_video(content):
        return _read_video(content, name=own, room=room)
    try:
        with opened(content) as (picture, _):
            ending = ENDINGS[str(picture.format)]
        image = read_picture(content)
    except (DatasetError, *DECODER_ERRORS) as error:
        raise RefusedError(f"{name:.80}: expected a picture or a video: {_reason(content, error)}", 415) from error
    upload = Upload(own, content, (image.shape[1], image.shape[0]), preview_of(image), ending)
    _require_room(upload.num_bytes, room)
    return [upload], ""


def _reason(content: bytes, error: Exception) -> str:
    if content[4:8] == b"ftyp":
        return f"this is HEIC or AVIF, which is not read; save it as one of {', '.join(FORMATS)}"
    return str(error).removeprefix("picture: ").removeprefix("picture 'given': ")


def free_name(name: str, taken: Collection[str]) -> str:
    r"""Return what a picture is called in annotations: no folder, nothing that cannot be printed, and free.

    Two names differ in more than their ending, since some formats have a file for each picture.

    >>> free_name("C:\\photos\\..\\mug.jpg", ["mug.png"]), free_name("../../", [])
    ('mug_2.jpg', 'picture')
    """
    last = as_name(name.replace("\\", "/").rsplit("/", 1)[-1]).replace(":", "_").strip(" .")
    path = PurePosixPath(last or "picture")
    stem, ending = path.stem[:LONGEST_NAME].strip(" ."), path.suffix[:10].rstrip()
    paths = map(PurePosixPath, taken)
    stems = {(one.parts[0] if len(one.parts) > 1 else one.stem).casefold() for one in paths}
    names = itertools.chain([stem], (f"{stem}_{number}" for number in itertools.count(2)))
    return next(one for one in names if one.casefold() not in stems) + ending


def is_video(content: bytes) -> bool:
    """Return whether a file begins as a video of one of the common containers does."""
    if content[4:8] == b"ftyp":
        return content[8:12] not in STILLS
    if content[4:8] in (b"moov", b"mdat", b"wide") or content.startswith(b"\x1aE\xdf\xa3"):
        return True
    return content.startswith(b"RIFF") and content[8:12] == b"AVI "


def _read_video(content: bytes, *, name: str, room: int) -> tuple[list[Upload], str]:
    """Return the frames of a video, at most `MOST_FRAMES`, spread evenly, and a note for people."""
    clip, every, note = PurePosixPath(name).stem, 1, ""
    frames: list[Upload] = []
    num_read, until = 0, time.monotonic() + MOST_SECONDS
    try:
        for number, image in read_frames(io.BytesIO(content)):
            num_read = number + 1
            if number % every == 0:
                frames.append(_frame(image, clip, number))
                _require_room(sum(one.num_bytes for one in frames), room)
            if len(frames) > MOST_FRAMES:
                frames, every = frames[::2], every * 2
            if time.monotonic() > until:
                note = f"{name}: the first {num_read} frames, decoded in {MOST_SECONDS:g} s, are taken; cut the video"
                break
    except DatasetError as error:
        if not frames:
            raise RefusedError(f"{name}: {error}", 415) from error
        note = f"{name}: {error}; the frames before are taken"
    if every > 1 and not note:
        note = f"{name}: {len(frames)} of {num_read} frames are taken, each {every}th"
    return frames, note


def _frame(image: ImageArray, clip: str, number: int) -> Upload:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=FRAME_QUALITY, subsampling=0)
    name = f"{clip}/frame_{number:06d}.jpg"
    return Upload(name, file.getvalue(), (image.shape[1], image.shape[0]), preview_of(image), ".jpg", clip)


def preview_of(image: ImageArray) -> bytes:
    """Return a picture as the page shows it, a file of PNG if it is small and of JPEG if not."""
    picture, file = Image.fromarray(image), io.BytesIO()
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    is_small = max(image.shape[:2]) <= SMALL_SIDE
    picture.save(file, "PNG" if is_small else "JPEG", quality=85)
    return file.getvalue()


def as_png(image: ImageArray) -> bytes:
    """Return a file of PNG."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(file, "PNG")
    return file.getvalue()


def _require_room(num_bytes: int, room: int) -> None:
    if num_bytes > room:
        raise RefusedError(
            f"expected pictures that take at most {room / 2**20:.0f} MB more, got {num_bytes / 2**20:.0f} MB; remove "
            "some, or reload the page to start again",
            413,
        )
