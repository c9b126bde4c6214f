"""Videos read and written frame by frame, by PyAV, which brings FFmpeg's libraries with it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from focus_env.errors import DatasetError, MissingDependencyError
from focus_env.images import LARGEST_PICTURE
from focus_env.types import ImageArray

ENDINGS = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv", ".3gp", ".mts", ".m2ts",
)  # fmt: skip
"""Endings of video files, in small letters."""
CONTAINERS = ("mov", "mp4", "matroska", "webm", "avi", "mpeg", "mpegvideo", "mpegts", "asf", "flv", "ogg")
"""FFmpeg's names of the containers that are read. Some others are lists of other files, which FFmpeg would open."""
WRITTEN = (".mp4", ".m4v", ".mov", ".mkv")
"""Endings of the files that are written, all of them with H.264."""
USUAL_RATE = Fraction(10)
"""Frames a second of a clip that is made of pictures."""
LONGEST_SIDE = 1920
"""Most pixels along a side of a clip that is written; some players fail on larger clips."""


def load_av() -> Any:
    """Return the package av.

    Raises:
        MissingDependencyError: If the package is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise MissingDependencyError(
            f"videos need the package av, which could not be loaded ({error}); run: "
            "pip install 'focus-localization[video]'"
        ) from error
    return av


def _opened(source: Path | BinaryIO) -> Any:
    """Return PyAV's container of a video, to be closed by `with`."""
    options = {"format_whitelist": ",".join(CONTAINERS)}
    return load_av().open(str(source) if isinstance(source, Path) else source, options=options)


def num_frames(path: Path, every: int = 1) -> int | None:
    """Return the number of every n-th frames by the video's header; None: the header has no number of frames."""
    try:
        with _opened(path) as container:
            found = int(container.streams.video[0].frames)
    except Exception:  # whoever reads its frames says what is wrong
        return None
    return -(-found // every) if found else None


def frame_rate(path: Path) -> Fraction:
    """Return the frames a second of a video, or a usual number if its header has none."""
    try:
        with _opened(path) as container:
            rate = container.streams.video[0].average_rate
    except Exception:
        return USUAL_RATE
    return Fraction(rate) if rate else USUAL_RATE


def read_frames(source: Path | BinaryIO, *, every: int = 1) -> Iterator[tuple[int, ImageArray]]:
    """Yield frames with their numbers, rotated as players show them.

    Args:
        source: The video, a file or an open one.
        every: Yield every n-th frame, from the first on.

    Yields:
        (Number of the frame, [H, W, 3] uint8 in RGB).

    Raises:
        DatasetError: If the file is no video in one of `CONTAINERS`, a frame is larger than
            `focus_env.images.LARGEST_PICTURE`, or a frame cannot be decoded.
    """
    av = load_av()
    number, name = 0, source if isinstance(source, Path) else "video"
    try:
        with _opened(source) as container:
            if not container.streams.video:
                raise DatasetError(f"{name}: expected a video, found no pictures in it; remove it")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                if frame.width * frame.height > LARGEST_PICTURE:
                    raise DatasetError(
                        f"{name}: expected at most {LARGEST_PICTURE} pixels, got {frame.width} x {frame.height}; "
                        "remove it"
                    )
                if number % every == 0:
                    pixels = frame.to_ndarray(format="rgb24")
                    yield number, np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
                number += 1
    except av.ArgumentError as error:  # what FFmpeg says of a container that is not in the list
        raise DatasetError(
            f"{name}: expected a video in one of the containers {', '.join(CONTAINERS)}: {error}; convert it"
        ) from error
    except (av.FFmpegError, OSError, ValueError) as error:
        behind = f" behind frame {number - 1}" if number else ""
        raise DatasetError(f"{name}: expected a video that can be decoded{behind}: {error}; convert it") from error
    if number == 0:
        raise DatasetError(f"{name}: expected a video, found no frame in it; copy it again")


def check_ending(path: Path) -> None:
    """Refuse a file whose ending is not that of a video that can be written.

    Raises:
        ValueError: If the ending is none of `WRITTEN`.
    """
    if path.suffix.lower() not in WRITTEN:
        raise ValueError(f"{path}: expected one of the endings {', '.join(WRITTEN)}, got {path.suffix or 'none'}")


def write_video(path: Path, frames: Iterable[ImageArray], rate: Fraction) -> int:
    """Write a clip in H.264; all pictures are fitted into the size of the first one.

    Args:
        path: The file, whose ending decides the container.
        frames: [H, W, 3] uint8 each.
        rate: Frames a second.

    Returns:
        The number of frames.
    """
    av = load_av()
    rest = iter(frames)
    first = next(rest, None)
    if first is None:
        raise ValueError(f"{path}: expected at least one picture for a clip, got none")
    size = _clip_wh((first.shape[1], first.shape[0]))
    count = 0
    with av.open(str(path), mode="w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "20", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for image in itertools.chain([first], rest):
            frame = av.VideoFrame.from_ndarray(_fitted(image, size), format="rgb24")
            for packet in stream.encode(frame):
                container.mux(packet)
            count += 1
        for packet in stream.encode():
            container.mux(packet)
    return count


def _clip_wh(image_wh: tuple[int, int]) -> tuple[int, int]:
    """Return the size of a clip: even numbers, as H.264 needs, and at most `LONGEST_SIDE`."""
    factor = min(1.0, LONGEST_SIDE / max(image_wh))
    width, height = (max(2, round(side * factor / 2) * 2) for side in image_wh)
    return width, height


def _fitted(image: ImageArray, size: tuple[int, int]) -> ImageArray:
    """Fit a whole picture into the size of a clip, with black margins where the shapes differ."""
    height, width = image.shape[:2]
    if (width, height) == size:
        return image
    factor = min(size[0] / width, size[1] / height)
    is_alike = abs(size[0] * height - size[1] * width) <= 2 * max(width, height)
    new_wh = size if is_alike else (max(1, round(width * factor)), max(1, round(height * factor)))
    canvas = Image.new("RGB", size)
    canvas.paste(Image.fromarray(image).resize(new_wh), ((size[0] - new_wh[0]) // 2, (size[1] - new_wh[1]) // 2))
    return np.array(canvas)
