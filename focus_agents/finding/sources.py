"""The pictures to search: a folder, a pattern, picture files, a list of files, videos, or pictures in memory.

A picture's name is its path below the folder that holds all pictures, with forward slashes. The frames of a video
`clip.mp4` have names such as `clip/frame_000012.jpg`. Files are in natural order, frame_2 before frame_10. Links to
files are followed; links to folders within a folder are not.
"""

from __future__ import annotations

import glob
import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from focus_agents.finding import video
from focus_env.annotations.lookup import ENDINGS, plain_name, walk
from focus_env.arrays import Picture, as_picture
from focus_env.datasets.labelled import natural
from focus_env.errors import DatasetError
from focus_env.images import read_picture
from focus_env.text_files import as_name, read_lines
from focus_env.types import ImageArray

NOT_READ = (
    ".heic", ".heif", ".avif", ".jp2", ".jxl", ".psd", ".svg", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf",
)  # fmt: skip
"""Endings of pictures that cannot be read; a search names these files rather than passing over them."""
LISTS = (".txt", ".lst", ".list")
"""Endings of lists of files, a path a line."""


@dataclass(frozen=True, slots=True)
class Source:
    """One file, or one picture in memory.

    Attributes:
        name: See the module; the name of a video is the folder of its frames.
        path: The file; None: in memory.
        picture: The picture, in memory.
        is_video: Whether the file is a video.
        fault: Why the file cannot be searched; empty: no reason is known.
    """

    name: str
    path: Path | None = None
    picture: Picture | None = None
    is_video: bool = False
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Shown:
    """One picture, decoded.

    Attributes:
        name: Name of the picture, see the module.
        image: [H, W, 3] uint8; None: the picture cannot be read.
        path: File of the picture; None: a frame of a video, or in memory.
        clip: Video of the frame; "" for other pictures.
        fault: Why the picture cannot be read.
    """

    name: str
    image: ImageArray | None
    path: Path | None = None
    clip: str = ""
    fault: str = ""


@dataclass(frozen=True)
class Sources:
    """All pictures and videos of a search.

    Attributes:
        root: The folder at which names begin.
        files: The pictures and videos in their order.
        every: Search every n-th frame of a video.
        passed_over: Number of other files in the folders, by ending.
        folders: Folders that are searched whole, so that new files in them count.
    """

    root: Path
    files: tuple[Source, ...]
    every: int = 1
    passed_over: Counter[str] = field(default_factory=Counter)
    folders: tuple[Path, ...] = ()

    @property
    def videos(self) -> tuple[Source, ...]:
        """The videos among the files."""
        return tuple(source for source in self.files if source.is_video)

    def count(self) -> int | None:
        """Count the pictures; None: a video does not give its number of frames."""
        counts = [video.num_frames(one.path, self.every) if one.is_video and one.path else 1 for one in self.files]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    def read(self, start: int = 0) -> Iterator[Shown]:
        """Yield the pictures from number `start` on, decoded one at a time."""
        place = 0
        for source in self.files:
            if source.is_video and source.path is not None:
                for shown in self._frames(source, max(0, start - place)):
                    place += 1
                    if shown is not None:
                        yield shown
                continue
            place += 1
            if place > start:
                yield _read(source)

    def _frames(self, source: Source, num_left_out: int) -> Iterator[Shown | None]:
        """Yield the frames of a video; None in place of each of the first ones, which are left out."""
        assert source.path is not None
        count = 0
        try:
            for number, image in video.read_frames(source.path, every=self.every):
                name = f"{source.name}/frame_{number:06d}.jpg"
                yield None if count < num_left_out else Shown(name, image, clip=source.name)
                count += 1
        except DatasetError as error:
            if count >= num_left_out:
                yield Shown(f"{source.name}/frame_{count * self.every:06d}.jpg", None, fault=str(error))
            else:
                yield None

    def digest(self) -> str:
        """Return a digest that changes when a file changes, or when another file is there."""
        found = hashlib.sha256(str(self.every).encode())
        for source in self.files:
            known: list[Any] = [source.name, source.is_video, source.fault]
            if source.path is not None and not source.fault:
                try:
                    status = source.path.stat()
                    known += [status.st_size, status.st_mtime_ns]
                except OSError as error:
                    known.append(type(error).__name__)
            elif source.picture is not None:
                pixels = as_picture(source.picture, source.name)
                known += [pixels.shape, hashlib.sha256(pixels.tobytes()).hexdigest()]
            found.update(repr(known).encode("utf-8", "surrogatepass"))
        return found.hexdigest()


def list_sources(given: Any, *, every: int = 1) -> Sources:
    """List the pictures and videos of a search, without decoding them.

    Args:
        given: A path or several: a folder, a pattern such as ``photos/**/*.jpg``, a picture, a video, or a list of
            files (.txt, a path a line, relative to its folder); or pictures as `focus_env.arrays` takes them.
        every: Search every n-th frame of a video.

    Raises:
        ValueError: If there is no picture, or a path leads to none.
        DatasetError: If a list cannot be read.
        MissingDependencyError: If there is a video, and the package for videos is not installed.
    """
    if every < 1:
        raise ValueError(f"every: expected 1 or more frames, got {every}")
    is_file = isinstance(given, str | os.PathLike | bytes | bytearray | memoryview) or hasattr(given, "read")
    is_one = is_file or not isinstance(given, Iterable) or hasattr(given, "__array__")
    parts = [given] if is_one else list(given)
    if not parts:
        raise ValueError("pictures: expected a folder, a pattern, files or a video to search, got none")
    paths: dict[Path, None] = {}
    roots: list[Path] = []
    folders: list[Path] = []
    memory: list[Source] = []
    passed_over: Counter[str] = Counter()
    for part in parts:
        if isinstance(part, str | os.PathLike):
            root, found, is_searched = _expand(os.path.expanduser(os.fspath(part)), passed_over)
            roots.append(root)
            paths.update(dict.fromkeys(found))
            folders += [root] if is_searched else []
        else:
            memory.append(Source(f"picture_{len(memory):06d}.png", picture=part))
    root = Path(os.path.commonpath(roots)) if roots else Path.cwd()
    files = sorted((_source(path, root) for path in paths), key=lambda source: natural(source.name))
    files = _named_apart(files)
    if any(source.is_video for source in files):
        video.load_av()
    if files and all(source.fault for source in files) and not memory:
        raise ValueError(f"{files[0].fault} (so are all of {len(files)} files)" if len(files) > 1 else files[0].fault)
    return Sources(root, (*files, *memory), every, passed_over, tuple(folders))


def _expand(text: str, passed_over: Counter[str]) -> tuple[Path, list[Path], bool]:
    """Return the folder at which names begin, the files of a path, and whether new files there would be found too."""
    if "://" in text:
        raise ValueError(f"{text}: expected a path, got an address; fetch the files first")
    path = Path(os.path.abspath(text))
    if path.is_dir():
        return path, _in_folder(path, passed_over), True
    if path.exists() or path.is_symlink():
        is_list = path.suffix.lower() in LISTS and path.is_file()
        return path.parent, _in_list(path) if is_list else [path], False
    if not glob.has_magic(text):
        raise ValueError(f"{text}: expected a folder, a pattern, a picture, a video or a list of files, found nothing")
    matches = [Path(os.path.abspath(match)) for match in glob.iglob(text, recursive=True)]
    found = [match for match in matches if not match.is_dir() and _is_known(match)]
    passed_over.update(match.suffix.lower() for match in matches if not match.is_dir() and not _is_known(match))
    if not found:
        others = f" among the {len(matches)} that it matches" if matches else ""
        raise ValueError(f"{text}: expected a pattern of pictures or videos, found none{others}")
    fixed = itertools.takewhile(lambda part: not glob.has_magic(part), path.parts[:-1])
    return Path(*fixed), found, True


def _in_folder(folder: Path, passed_over: Counter[str]) -> list[Path]:
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise ValueError(f"{folder}: expected a folder that can be looked into, got: {error.strerror}") from error
    found = list(walk(folder, (*ENDINGS, *NOT_READ)))
    others = Counter(path.suffix.lower() for path in walk(folder, video.ENDINGS))
    if not found:
        hint = f"; its {sum(others.values())} videos are searched only if you name them" if others else ""
        raise ValueError(f"{folder}: expected a folder with pictures ({', '.join(ENDINGS)}), found none{hint}")
    passed_over.update(others)
    return found


def _in_list(path: Path) -> list[Path]:
    """Return the files that a list names, whether or not they exist."""
    lines = read_lines(path, advice="correct the path")
    found = []
    for line in filter(str.strip, lines):
        beside = [Path(os.path.abspath(path.parent / text)) for text in (line, line.strip())]
        here = Path(os.path.abspath(line.strip()))
        found.append(next((place for place in (*beside, here) if place.exists()), beside[1]))
    if not found:
        raise ValueError(f"{path}: expected a path in each line, found none")
    return found


def _is_known(path: Path) -> bool:
    return path.suffix.lower() in (*ENDINGS, *NOT_READ, *video.ENDINGS)


def _source(path: Path, root: Path) -> Source:
    name = os.path.relpath(path, root).replace(os.sep, "/")
    if name.startswith("../"):  # of a list that leads out of its folder
        name = path.as_posix().lstrip("/")
    fault = ""
    if as_name(name) != name or plain_name(name) != name:
        fault = f"{str(path)!r}: expected a name that can stand in a file of annotations; rename the file"
        name = as_name(name)
    elif path.is_dir():
        fault = f"{path}: expected a picture, got a folder; name its pictures"
    return Source(name, path, is_video=path.suffix.lower() in video.ENDINGS, fault=fault)


def _named_apart(files: Sequence[Source]) -> list[Source]:
    """Return the files, with a folder for each video's frames that no other file is in."""
    folders = Counter(str(PurePosixPath(source.name).with_suffix("")) for source in files if source.is_video)
    taken = {str(parent) for source in files for parent in PurePosixPath(source.name).parents}
    named = []
    for source in files:
        short = str(PurePosixPath(source.name).with_suffix(""))
        is_free = folders[short] == 1 and short not in taken
        name = short if source.is_video and is_free else source.name
        named.append(Source(name, source.path, source.picture, source.is_video, source.fault))
    return named


def _read(source: Source) -> Shown:
    """Decode a picture."""
    if source.fault:
        return Shown(source.name, None, source.path, fault=source.fault)
    try:
        given = source.path
        image = as_picture(source.picture, source.name) if given is None else read_picture(given)
    except (DatasetError, ValueError) as error:
        return Shown(source.name, None, source.path, fault=str(error))
    return Shown(source.name, image, source.path)
