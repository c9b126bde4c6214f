"""Find the pictures that annotations name: below one folder, whatever the names say."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from focus_env.errors import DatasetError
from focus_env.text_files import is_stray, require_inside

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".jfif")
"""Of picture files, in small letters."""
USUAL = ("", "images", "JPEGImages", "imgs", "data")
"""Folders of pictures beside annotations."""
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_SPLIT = re.compile(rf"(?:^|[_\-. ])({'|'.join(sorted(SPLITS, key=len, reverse=True))})(?:\d{{4}})?(?:$|[_\-. ])")
_ANNOTATIONS = ("annotations", "labels", "labelme", "annotation")


def split_named(name: str) -> str:
    """Return the split that a name of a file or folder says, or an empty text.

    >>> [split_named(name) for name in ("instances_train2017.json", "valid", "trained", "TEST")]
    ['train', 'val', '', 'test']
    """
    found = _SPLIT.search(name.lower())
    return SPLITS[found[1]] if found else ""


def default_image_root(path: Path) -> Path:
    """Return the folder that names of pictures begin at, of annotations in a file or folder."""
    if path.is_dir():
        return path
    folder = path.absolute().parent
    return folder.parent if folder.name.lower() in _ANNOTATIONS else folder


def plain_name(name: str) -> str | None:
    r"""Return the name of a picture as a relative path with forward slashes; None if it is absolute or none.

    >>> plain_name("..\\photos\\a.jpg"), plain_name("/etc/passwd"), plain_name("C:/a.jpg"), plain_name("./b//c.png")
    ('../photos/a.jpg', None, None, 'b/c.png')
    """
    slashed = name.replace("\\", "/").strip()
    is_absolute = PurePosixPath(slashed).is_absolute() or bool(PureWindowsPath(name.strip()).drive)
    if not slashed or is_absolute or "\0" in slashed or slashed.endswith("/"):
        return None
    return posixpath.normpath(slashed)


def walk(folder: Path, endings: Sequence[str]) -> Iterator[Path]:
    """Yield the files of some endings below a folder, by their names; hidden ones and what systems leave are not.

    Links to folders are not followed.
    """
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_stray(name))
        for name in sorted(files):
            if name.lower().endswith(tuple(endings)) and not is_stray(name):
                yield Path(place) / name


class Lookup:
    """Finds pictures below a folder.

    Attributes:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))

    def find(self, name: str, *, near: Sequence[Path], where: str) -> tuple[Path | None, str]:
        """Return the file of a picture, None if there is none, and its name below the folder.

        Args:
            name: As the annotations have it; may go up, as long as it stays below the folder.
            near: Folders that the name may begin at, the likeliest first; a name that goes up may begin at the first
                two alone.
            where: What names it, for errors.

        Raises:
            DatasetError: If the name leads out of the folder.
        """
        plain = plain_name(name)
        starts = [] if plain is None else near[:2] if plain.startswith("..") else near
        candidates = dict.fromkeys(Path(os.path.normpath(folder / (plain or ""))) for folder in starts)
        inside = [path for path in candidates if path.is_relative_to(self.root) and path != self.root]
        if not inside:
            raise DatasetError(
                f"{where}: expected the name of a picture below {self.root}, got {name!r:.200}; it must be relative "
                "and stay there: correct it, or pass as `image_root` a folder above"
            )
        for path in inside:
            try:
                if path.is_file():
                    require_inside(self.root, path, where)
                    return path, path.relative_to(self.root).as_posix()
            except (OSError, ValueError):  # a name too long, or with halves of characters
                continue
        return None, inside[0].relative_to(self.root).as_posix()

    def near(self, folder: Path, *hints: str) -> list[Path]:
        """Return the folders in which pictures usually lie, of annotations in a folder.

        Args:
            folder: Where the file of annotations is.
            hints: Names of further folders, such as the split's.
        """
        usual = [*USUAL, *(f"{start}{hint}" for hint in hints if hint for start in ("", "images/"))]
        return [Path(os.path.normpath(top / name)) for name in usual for top in (self.root, folder.absolute())]
