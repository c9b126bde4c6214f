"""YOLO: a text file for each picture, in shares of its width and height (https://docs.ultralytics.com/datasets/detect/).

Layout; files may also lie beside the pictures, and data.yaml may be missing:

    <root>/data.yaml                                  names of the classes; train, val and test: folders or lists
    <root>/classes.txt, obj.names                     names of the classes, a line each, where there is no data.yaml
    <root>/images/<any folders>/a.jpg                 pictures
    <root>/labels/<any folders>/a.txt                 class x_centre y_centre width height, a line for each box

Of a line with 6 values the last is the score, with 7 the score and the track if the last is a whole number from 1, as
trackers write it. Other lines with an odd number of values are outlines, turned boxes among them, of which the box
around is taken. With `kpt_shape` in data.yaml, what follows the box is passed over.

A picture without a file has no object, as YOLO has it. A class without a name is called by its number, and noted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from focus_env.annotations.formats import AnnotationFormat, Writing
from focus_env.annotations.lookup import ENDINGS, SPLITS, plain_name, walk
from focus_env.annotations.reading import Draft, Numbers, Reading
from focus_env.annotations.records import LabelledPicture
from focus_env.annotations.values import as_label
from focus_env.errors import DatasetError, MissingDependencyError
from focus_env.text_files import finite_number, read_lines, read_text, split_fields, yaml_fault

ADVICE = "pass the folder that holds data.yaml, images and labels"
NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels", "labels.txt", "labels/classes.txt")
NO_LABELS = ("classes.txt", "labels.txt", "train.txt", "val.txt", "test.txt", "readme.txt", "requirements.txt")
_CLASS = re.compile(r"[0-9]{1,6}(?:\.0*)?")


@dataclass
class _Description:
    """The contents of data.yaml."""

    names: list[str] = field(default_factory=list)
    folders: list[tuple[str, str]] = field(default_factory=list)
    """Folders or lists of pictures, below the root, and their splits."""
    has_points: bool = False


def read(reading: Reading) -> None:
    """Read a folder, or that of a data.yaml."""
    given = reading.path
    base = given.absolute() if given.is_dir() else given.absolute().parent
    described = _describe(reading, base, None if given.is_dir() else given)
    for name in described.names:
        reading.declare(name)
    listed = _listed(reading, base, described)
    root = reading.lookup.root
    used: set[Path] = set()
    num_pictures = 0
    for picture in walk(root, ENDINGS):
        num_pictures += 1
        below = picture.relative_to(root)
        labels = next((path for path in _label_files(base, below) if path.is_file()), None)
        where = str(labels or picture)
        draft = reading.picture(below.as_posix(), where=where, split=_split(below.as_posix(), described, listed))
        if labels is not None:
            used.add(labels)
            _read_file(reading, labels, draft, described)
    for path in walk(base, (".txt",)):
        is_other = path in used or path in listed["files"] or path.name.lower() in NO_LABELS
        if not is_other and "labels" in path.relative_to(base).parts[:-1]:
            reading.fault("pictures_missing", f"{path}: expected a picture {path.stem} below {root}, found none")
    if not num_pictures:
        raise DatasetError(f"{root}: expected pictures of YOLO labels, found none; {ADVICE}, or pass `image_root`")


def _label_files(base: Path, name: Path) -> list[Path]:
    """Return the places where the labels of a picture may lie, the likeliest first."""
    parts = list(name.with_suffix(".txt").parts)
    found = []
    if "images" in parts[:-1]:
        at = len(parts) - 2 - parts[:-1][::-1].index("images")
        found.append(base.joinpath(*parts[:at], "labels", *parts[at + 1 :]))
    return [*found, base.joinpath("labels", *parts), base.joinpath(*parts)]


def _describe(reading: Reading, base: Path, file: Path | None) -> _Description:
    found = _Description()
    candidates = sorted(path for path in base.iterdir() if path.suffix.lower() in (".yaml", ".yml"))
    candidates.sort(key=lambda path: path.stem not in ("data", "dataset"))
    for path in [file] if file else candidates:
        data = _load_yaml(reading, path)
        if data is None or "names" not in data:
            continue
        found.names = _names(reading, path, data["names"])
        found.has_points = "kpt_shape" in data
        start = plain_name(str(data.get("path") or ".")) or "."
        for key, split in SPLITS.items():
            places = data.get(key)
            for place in places if isinstance(places, list) else [places]:
                if isinstance(place, str) and (plain := plain_name(place)):
                    joined = plain_name(f"{start}/{plain}") or plain
                    found.folders += [(name, split) for name in dict.fromkeys([plain, joined])]
        places = {place for place, _ in found.folders}
        # A folder of several splits says nothing.
        several = {place for place in places if len({split for other, split in found.folders if other == place}) > 1}
        found.folders = [(place, split) for place, split in found.folders if place not in several]
        return found
    for name in NAME_FILES:
        if (base / name).is_file():
            lines = read_lines(base / name, advice=ADVICE, root=base)
            found.names = _names(reading, base / name, lines)
            break
    return found


def _load_yaml(reading: Reading, path: Path) -> Mapping[Any, Any] | None:
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{path}: YOLO's data.yaml needs PyYAML, which is not installed; run: pip install pyyaml"
        ) from error
    try:
        data = yaml.safe_load(read_text(path, advice=ADVICE, root=reading.root))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reading.fault("files_bad", f"{path}: expected YAML, got {yaml_fault(error)}; correct it")
        return None
    return data if isinstance(data, dict) else None


def _names(reading: Reading, path: Path, given: object) -> list[str]:
    """Return labels by class; names that two classes have are told apart by the number."""
    if isinstance(given, dict):
        numbers = [int(key) for key in given if type(key) is int or (isinstance(key, str) and key.isdecimal())]
        texts = [
            given.get(number, given.get(str(number))) for number in range(min(max(numbers, default=-1) + 1, 10**5))
        ]
    else:
        texts = list(given) if isinstance(given, list) else []
    names: list[str] = []
    for number, text in enumerate(texts):
        name = as_label(text if isinstance(text, str) else "" if text is None else str(text)) or str(number)
        if name in names:
            reading.note(
                "labels_twice", f"{path}: the name {name!r} a second time; this one is called '{name} ({number})'"
            )
            name = f"{name} ({number})"
        names.append(name)
    return names


def _listed(reading: Reading, base: Path, described: _Description) -> dict[Any, Any]:
    """Return the pictures that lists name, by split; and these lists."""
    found: dict[Any, Any] = {"files": set()}
    for place, split in described.folders:
        path = base / place
        if path.suffix == ".txt" and path.is_file() and path not in found["files"]:
            found["files"].add(path)
            lines = read_lines(path, advice=ADVICE, root=base)
            found.setdefault(split, set()).update(plain_name(line) or "" for line in lines if line.strip())
    return found


def _split(name: str, described: _Description, listed: Mapping[Any, Any]) -> str:
    for place, split in described.folders:
        named = listed.get(split, ())
        if name.startswith(f"{place}/") or name in named or f"images/{name}" in named:
            return split
    return ""


def _read_file(reading: Reading, path: Path, draft: Draft, described: _Description) -> None:
    try:
        lines = read_lines(path, advice=ADVICE, root=reading.root)
    except DatasetError as error:
        reading.fault("files_bad", str(error))
        return
    for number, line in enumerate(lines, start=1):
        if line.strip():
            _read_line(reading, line, draft, described, f"{path}, line {number}")


def _read_line(reading: Reading, line: str, draft: Draft, described: _Description, where: str) -> None:
    fields = split_fields(line)
    if not _CLASS.fullmatch(fields[0]) or len(fields) < 5:
        reading.fault(
            "entries_bad", f"{where}: expected class x_centre y_centre width height, got {line!r:.80}; correct the line"
        )
        return
    number = int(float(fields[0]))
    values = [finite_number(value) for value in fields[1:]]
    score, track = None, ""
    if described.has_points:
        values = values[:4]
    elif len(values) == 5 or (len(values) == 6 and re.fullmatch("[1-9][0-9]*", fields[6])):
        score, track = values[4], fields[6] if len(values) == 6 else ""
        values = values[:4]
    if number >= len(described.names):
        reading.note("labels_no_name", f"{where}: class {number} has no name, and is called so")
    label = described.names[number] if number < len(described.names) else str(number)
    box = _corners(values)
    known = [value for value in box if value is not None]
    if draft.is_usable and len(known) == 4 and max(map(abs, known)) > 2:
        reading.fault(
            "boxes_shares", f"{where}: expected fractions from 0 to 1, got {line!r:.80}; divide pixels by the size"
        )
        return
    draft.add_shares(label, box, where=where, score=score, track=track)


def _corners(values: Sequence[float | None]) -> Numbers:
    """Return the corners of the box around what a line says, in shares."""
    known = [value for value in values if value is not None]
    if len(known) < len(values) or len(known) % 2 or len(known) < 4:
        return [None] * 4
    if len(known) == 4:
        x, y, width, height = known
        return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    return [min(known[::2]), min(known[1::2]), max(known[::2]), max(known[1::2])]


def write(job: Writing) -> None:
    """Write a file for each picture, and data.yaml.

    Raises:
        ValueError: If two pictures differ in their endings alone, since a file is found by the name without it.
    """
    numbers = {label: number for number, label in enumerate(job.labels)}
    splits: dict[str, list[str]] = {}
    for picture in job.pictures:
        below = _below(picture)
        path = job.target / "labels" / Path(*below).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = []
        for one in picture.objects:
            if one.box is None:
                continue
            (width, height), (x1, y1, x2, y2) = picture.image_wh, one.box
            shares = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
            end = "" if one.score is None else f" {one.score!r}"
            lines.append(f"{numbers[one.label]} {' '.join(f'{share:.10g}' for share in shares)}{end}\n")
        path.write_text("".join(lines), encoding="utf-8")
        splits.setdefault(picture.split, []).append("/".join(("images", *below)))
    _write_description(job, splits)


def _below(picture: LabelledPicture) -> tuple[str, ...]:
    """Return the parts of a picture's name below the folder of pictures, with which it may begin."""
    parts = PurePosixPath(picture.name).parts
    return parts[1:] if parts[0] == "images" and len(parts) > 1 else parts


def check(pictures: Sequence[LabelledPicture]) -> None:
    """Refuse two pictures whose boxes would be in one file."""
    known: dict[Path, str] = {}
    for picture in pictures:
        other = known.setdefault(Path(*_below(picture)).with_suffix(""), picture.name)
        if other != picture.name:
            raise ValueError(
                f"picture {other!r}: expected names that differ in more than their endings, since YOLO finds "
                f"the file of a picture by its name without it, got {picture.name!r} beside it; rename one"
            )


def _write_description(job: Writing, splits: Mapping[str, Sequence[str]]) -> None:
    told = {split: names for split, names in splits.items() if split}
    for split, names in told.items():
        text = "".join(f"./{name}\n" for name in names)
        (job.target / f"{split}.txt").write_text(text, encoding="utf-8")
    lines = ["path: ."]
    lines += [f"{split}: {split}.txt" for split in told] if told else ["train: images", "val: images"]
    lines += [f"nc: {len(job.labels)}", "names:"]
    # JSON's texts are YAML's, too.
    lines += [f"  {number}: {json.dumps(label, ensure_ascii=False)}" for number, label in enumerate(job.labels)]
    (job.target / "data.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")


FORMAT = AnnotationFormat(
    name="yolo",
    help="YOLO, a text file for each picture and data.yaml",
    endings=(".yaml", ".yml"),
    read=read,
    write=write,
    holds=frozenset({"score"}),
    is_folder=True,
    pictures_folder="images",
    check=check,
)
