"""A folder of pictures with a text file beside each: the simplest form, made with an editor.

    <root>/<object>/<any folders>/a.jpg               pictures
    <root>/<object>/<any folders>/a.txt               x1 y1 x2 y2 in pixels; a line for each box

A line may go on with the object's name; without one it is the first folder below the root, or of files that lie at
the root itself the root's name. An empty file says that this object is not in the picture, and so does a line
``absent``, after which a name may stand. A picture without a text file says nothing, and is not read. Values are
between blanks, commas, semicolons or tabs; a line that begins with # is a remark.
"""

from __future__ import annotations

from pathlib import Path

from focus_env.annotations.formats import AnnotationFormat, Writing
from focus_env.annotations.lookup import ENDINGS, walk
from focus_env.annotations.reading import Reading
from focus_env.annotations.records import LabelledBox
from focus_env.annotations.values import plain_number
from focus_env.boxes import are_shares
from focus_env.errors import DatasetError
from focus_env.text_files import SEPARATOR, finite_number, is_stray, read_lines

ADVICE = "pass a folder of pictures with a text file of the same name beside each: x1 y1 x2 y2 in pixels"
ABSENT = "absent"


def read(reading: Reading) -> None:
    """Read all pictures below a folder that have a text file."""
    if not reading.path.is_dir():
        raise DatasetError(f"{reading.path}: expected a folder, found none; {ADVICE}")
    base = reading.path.absolute()
    num_files = 0
    listed: dict[Path, list[Path]] = {}
    for path in walk(base, (".txt",)):
        folders = dict.fromkeys([path.parent, reading.lookup.root / path.parent.relative_to(base)])
        for folder in folders:
            if folder not in listed:
                listed[folder] = _pictures_in(folder)
            fitting = [one for one in listed[folder] if path.stem in (one.name, one.stem)]
            fitting = [one for one in fitting if path.stem == one.name] or fitting
            if len(fitting) == 1:
                num_files += 1
                _read_file(reading, path, fitting[0], base)
            elif fitting:
                names = [one.name for one in fitting]
                reading.fault(
                    "pictures_twice",
                    f"{path}: expected one picture of this name, got {' and '.join(names)}; call it {names[0]}.txt",
                )
            if fitting:
                break
    if not num_files:
        raise DatasetError(f"{reading.path}: expected pictures with a text file beside each, found none; {ADVICE}")


def _pictures_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in ENDINGS and not is_stray(path.name))


def _read_file(reading: Reading, path: Path, picture: Path, base: Path) -> None:
    folders = path.relative_to(base).parts[:-1]
    usual = folders[0] if folders else base.name or "object"
    try:
        lines = read_lines(path, advice=ADVICE, root=base)
    except DatasetError as error:
        reading.fault("files_bad", str(error))
        return
    draft = reading.picture(picture.name, where=str(path), near=[picture.parent])
    told = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not told:
        draft.add_absent(usual, where=str(path))
    for number, line in told:
        if line.startswith("#"):
            continue
        where = f"{path}, line {number}"
        if line == ABSENT or line.startswith(f"{ABSENT} "):
            draft.add_absent(line[len(ABSENT) :].strip() or usual, where=where)
            continue
        fields = SEPARATOR.split(line, maxsplit=4)
        numbers = [finite_number(field) for field in fields[:4]]
        box = [value for value in numbers if value is not None]
        if len(box) == 4 and draft.is_usable and are_shares((box[0], box[1], box[2], box[3]), draft.image_wh):
            reading.fault(
                "boxes_shares", f"{where}: expected pixels, got {line!r:.80}, which looks like shares; see format yolo"
            )
            continue
        draft.add((fields[4].strip() if len(fields) > 4 else "") or usual, numbers, where=where)


def write(job: Writing) -> None:
    """Write a text file for each picture."""
    for picture in job.pictures:
        path = job.target / job.file_of(picture, ".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(f"{_line(one)}\n" for one in picture.objects)
        # An empty file says that the folder's object is not there, which nobody has said.
        path.write_text(text or "# no box\n", encoding="utf-8")


def _line(one: LabelledBox) -> str:
    return " ".join([ABSENT] if one.box is None else map(plain_number, one.box)) + f" {one.label}"


FORMAT = AnnotationFormat(
    name="folder",
    help="a folder of pictures with a text file beside each",
    endings=(),
    read=read,
    write=write,
    holds=frozenset({"absent"}),
    is_folder=True,
    pictures_folder="",
)
