"""Pascal VOC: one XML file for each picture (http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/).

Layout, of which the lists may be missing, and files may lie anywhere below the folder:

    <root>/Annotations/<name>.xml                     filename, size, objects
    <root>/JPEGImages/<name>.jpg                      pictures
    <root>/ImageSets/Main/{train,val,test}.txt        names without ending, a line each: which split

Read of an object: name, bndbox (xmin, ymin, xmax, ymax in pixels), pose, truncated, difficult, occluded, score or
confidence, and the attributes of CVAT (attributes/attribute/name and value), of which `track_id` is the track.

Numbers are taken as they are. VOC's own files count pixels from 1 and include the last one; LabelImg, CVAT, Roboflow
and most others write plain corners. Nothing in a file says which, and to be wrong costs at most one pixel, half of it
at each side's middle.
"""

from __future__ import annotations

import re
from pathlib import Path

from focus_env.annotations.formats import AnnotationFormat, Writing
from focus_env.annotations.lookup import split_named, walk
from focus_env.annotations.reading import Reading
from focus_env.annotations.records import LabelledBox, LabelledPicture
from focus_env.annotations.values import plain_number
from focus_env.annotations.xml_files import Element, escaped, read_xml
from focus_env.errors import DatasetError
from focus_env.text_files import finite_number, read_lines

ADVICE = "pass the folder that holds Annotations, or one XML file of it"
CORNERS = ("xmin", "ymin", "xmax", "ymax")
FLAGS = ("truncated", "difficult", "occluded")
_VERDICT = re.compile(r"\s+-?[01]$")


def read(reading: Reading) -> None:
    """Read a file, or all such files below a folder."""
    if not reading.path.is_dir():
        top = read_xml(reading.path, root=reading.root)
        if top.name != "annotation":
            raise DatasetError(f"{reading.path}: expected <annotation> of Pascal VOC, got <{top.name}>; {ADVICE}")
        _read_file(reading, reading.path, top, {})
        return
    splits = _splits(reading)
    num_files = 0
    for path in walk(reading.path, (".xml",)):
        try:
            top = read_xml(path, root=reading.root)
        except DatasetError as error:
            reading.fault("files_bad", str(error))
            continue
        if top.name == "annotation":
            num_files += 1
            _read_file(reading, path, top, splits)
    if not num_files and not any(path for path in walk(reading.path, (".xml",))):
        raise DatasetError(f"{reading.path}: expected XML files of Pascal VOC, found none; {ADVICE}")


def _splits(reading: Reading) -> dict[str, str]:
    """Return splits by the names of files without ending, as ImageSets has them."""
    found: dict[str, str] = {}
    for path in walk(reading.path / "ImageSets", (".txt",)):
        if not (split := split_named(path.stem)) or path.stem.lower() not in ("train", "val", "valid", "test"):
            continue
        try:
            lines = read_lines(path, advice=ADVICE, root=reading.root)
        except DatasetError as error:
            reading.fault("files_bad", str(error))
            continue
        for line in lines:
            # Lists of one class say behind the name whether it is there.
            if name := _VERDICT.sub("", line.strip()):
                found.setdefault(name, split)
    return found


def _read_file(reading: Reading, path: Path, top: Element, splits: dict[str, str]) -> None:
    name = top.read("filename") or path.with_suffix(".jpg").name
    size = top.find("size")
    near = reading.lookup.near(path.parent, top.read("folder"))
    below, rest = path.absolute(), Path()
    if "Annotations" in below.parts:  # <root>/Annotations/a/b.xml is of <root>/JPEGImages/a/b.jpg
        at = len(below.parts) - 1 - below.parts[::-1].index("Annotations")
        rest = Path(*below.parts[at + 1 : -1])
        beside = [folder / rest for folder in near]
        beside += [Path(*below.parts[:at]) / folder / rest for folder in ("JPEGImages", "images", "")]
        # Another picture of the same name may lie above.
        near = beside + near if rest.parts else near + beside
    draft = reading.picture(
        name,
        where=f"{path}, line {_line(top, 'filename')}",
        near=near,
        stated_wh=None if size is None else (size.read("width"), size.read("height")),
        clip=top.read("source", "clip"),
        split=splits.get((rest / path.stem).as_posix(), "")
        or splits.get(path.stem, "")
        or split_named(path.parent.name),
    )
    for one in top.all("object"):
        where = f"{path}, line {one.line}"
        box = one.find("bndbox")
        if box is None:
            reading.fault("boxes_not_finite", f"{where}: expected <bndbox> of {', '.join(CORNERS)}, found none; add it")
            continue
        attributes = _attributes(one)
        track = attributes.pop("track_id", "")
        draft.add(
            one.read("name"),
            [finite_number(box.read(corner)) for corner in CORNERS],
            where=where,
            track=track,
            attributes=attributes,
            score=one.read("score") or one.read("confidence"),
        )


def _line(top: Element, name: str) -> int:
    found = top.find(name)
    return found.line if found else top.line


def _attributes(one: Element) -> dict[str, str]:
    found: dict[str, str] = {}
    if (pose := one.read("pose")) and pose != "Unspecified":
        found["pose"] = pose
    found |= {flag: "true" for flag in FLAGS if one.read(flag) in ("1", "true", "True")}
    for attribute in (group.all("attribute") for group in one.all("attributes")):
        found |= {entry.read("name"): entry.read("value") for entry in attribute if entry.read("name")}
    return found


def write(job: Writing) -> None:
    """Write a file for each picture, and a list for each split."""
    lists: dict[str, list[str]] = {}
    for picture in job.pictures:
        name = job.file_of(picture, ".xml")
        path = job.target / "Annotations" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_text(picture), encoding="utf-8")
        if picture.split:
            lists.setdefault(picture.split, []).append(name.with_suffix("").as_posix())
    for split, names in lists.items():
        path = job.target / "ImageSets" / "Main" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def _text(picture: LabelledPicture) -> str:
    width, height = picture.image_wh
    folder, _, name = picture.name.rpartition("/")
    clip = f"<clip>{escaped(picture.clip)}</clip>" if picture.clip else ""
    lines = [
        "<annotation>",
        f"  <folder>{escaped(folder)}</folder>",
        f"  <filename>{escaped(name)}</filename>",
        f"  <source><database>FOCUS</database>{clip}</source>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
        "  <segmented>0</segmented>",
        *(_object(one) for one in picture.objects if one.box is not None),
        "</annotation>",
    ]
    return "\n".join(lines) + "\n"


def _object(one: LabelledBox) -> str:
    assert one.box is not None
    others = {"track_id": one.track} if one.track else {}
    flags = ""
    for name, text in one.attributes.items():
        if name not in FLAGS and name != "pose":
            others[name] = text
    for flag in FLAGS:
        flags += f"<{flag}>{int(one.attributes.get(flag) == 'true')}</{flag}>"
    corners = "".join(f"<{name}>{plain_number(number)}</{name}>" for name, number in zip(CORNERS, one.box, strict=True))
    entries = "".join(
        f"<attribute><name>{escaped(name)}</name><value>{escaped(text)}</value></attribute>"
        for name, text in others.items()
    )
    return (
        f"  <object><name>{escaped(one.label)}</name>"
        f"<pose>{escaped(one.attributes.get('pose', 'Unspecified'))}</pose>{flags}"
        + (f"<score>{one.score!r}</score>" if one.score is not None else "")
        + f"<bndbox>{corners}</bndbox>"
        + (f"<attributes>{entries}</attributes>" if entries else "")
        + "</object>"
    )


FORMAT = AnnotationFormat(
    name="voc",
    help="Pascal VOC, an XML file for each picture",
    endings=(),
    read=read,
    write=write,
    holds=frozenset({"track", "attributes", "score"}),
    is_folder=True,
    pictures_folder="JPEGImages",
)
