"""Formats of annotations: the functions that read and write one, and the facts that it has a place for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from focus_env.annotations.lookup import plain_name
from focus_env.annotations.reading import Reading
from focus_env.annotations.records import LabelledPicture, Part


@dataclass(frozen=True, kw_only=True)
class Writing:
    """Pictures and options for the writer of a format.

    Attributes:
        pictures: All pictures; their names are relative and stay below a folder, and no two are the same.
        labels: All labels, each of them once, in the order in which classes are to be numbered.
        target: The file to write, which is empty, or the folder, which is made already and is empty.
        place: Where `target` will lie in the end, for paths that lead from there to pictures.
    """

    pictures: Sequence[LabelledPicture]
    labels: Sequence[str]
    target: Path
    place: Path

    def file_of(self, picture: LabelledPicture, ending: str) -> Path:
        """Return the path, below a folder, of the file of one picture in a format that has one for each.

        Its ending takes the place of the picture's; where another picture would have the same, it comes behind it.
        """
        name = PurePosixPath(picture.name)
        twice = Counter(str(PurePosixPath(other.name).with_suffix("")) for other in self.pictures)
        is_alone = twice[str(name.with_suffix(""))] == 1
        return Path(name.with_suffix(ending) if is_alone else f"{name}{ending}")


@dataclass(frozen=True, kw_only=True)
class AnnotationFormat:
    """A format that is known by name.

    Attributes:
        name: As users write it.
        help: A short description without a full stop.
        endings: Of its files, in small letters with the dot; the format is recognised by them where no other has them.
        read: Fills a `Reading`; `DatasetError` only where nothing at all can be read.
        write: Writes pictures; None: it is only read.
        holds: The parts of an object that it has a place for, beside label and box.
        is_folder: Whether it is written as a folder of files.
        pictures_folder: Where pictures are expected in such a folder; None: pictures are not copied into it.
        check: Refuses pictures of which it cannot tell two apart, by their names alone.
    """

    name: str
    help: str
    endings: tuple[str, ...]
    read: Callable[[Reading], None]
    write: Callable[[Writing], None] | None
    holds: frozenset[Part]
    is_folder: bool
    pictures_folder: str | None = None
    check: Callable[[Sequence[LabelledPicture]], None] = lambda pictures: None

    @property
    def usage(self) -> str:
        """The name; a format takes no argument."""
        return self.name

    @property
    def summary(self) -> str:
        """The help."""
        return self.help


def check_names(pictures: Sequence[LabelledPicture]) -> None:
    """Refuse pictures whose names cannot stand in a file, or in one folder together.

    Raises:
        ValueError: If a name is absolute, goes up, or is that of two pictures.
    """
    for name, count in Counter(picture.name for picture in pictures).items():
        if plain_name(name) != name or name.startswith(".."):
            raise ValueError(f"picture {name!r:.200}: expected a name that is a relative path and does not go up")
        if count > 1:
            raise ValueError(f"picture {name!r}: expected one of each name, got {count}; join their objects")
