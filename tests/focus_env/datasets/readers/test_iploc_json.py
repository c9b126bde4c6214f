"""IPLoc's files of episodes: what is read, what is left out, and what is made of files that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from focus_env.datasets import IPLocEpisodes, dataset_names, load_dataset
from focus_env.datasets.sampler import MAX_BAD_SHOWN
from focus_env.errors import DatasetError
from focus_env.types import Box
from tests.contracts import assert_dataset_contract
from tests.focus_env.datasets.readers.iploc_records import (
    SOUND,
    Record,
    load_records,
    record_of,
    write_pictures,
    write_records,
)

SOUND_BOXES = [Box(1.0, 2.0, 11.0, 22.0), Box(0.0, 0.0, 30.0, 40.0), Box(5.5, 6.0, 7.25, 8.0)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The pictures of three videos, four each, under <root>/LASOT."""
    write_pictures(tmp_path)
    return tmp_path


def test_a_sound_file(root: Path) -> None:
    episodes = load_records(root, [record_of("cat-1", SOUND), record_of("sea lion-7", SOUND)])
    assert len(episodes) == 2
    assert dict(episodes.skipped) == {}
    assert episodes.bad == []
    first, second = episodes[0], episodes[1]
    assert (first.episode_id, second.episode_id) == ("episodes/0", "episodes/1")
    assert (first.category, second.category) == ("cat", "sea lion")
    assert (first.identity, second.identity) == ("cat/cat-1/img/cat", "sea lion/sea lion-7/img/sea lion")
    assert [exemplar.box for exemplar in first.support] == SOUND_BOXES[:2]
    assert (first.target_box, first.target_note) == (SOUND_BOXES[2], "")
    assert [exemplar.frame.name for exemplar in second.support] == [
        "sea lion/sea lion-7/img/00000000.jpg",
        "sea lion/sea lion-7/img/00000001.jpg",
    ]
    assert second.query_frame.name == "sea lion/sea lion-7/img/00000002.jpg"
    assert [exemplar.frame.image_wh for exemplar in first.support] == [(40, 30), (30, 40)]
    assert first.query_frame.source == root / "LASOT/cat/cat-1/img/00000002.jpg"


def test_contract(root: Path) -> None:
    records = [record_of(name, SOUND) for name in ("cat-1", "cat-2", "sea lion-7")]
    assert_dataset_contract(load_records(root, records), shots=2)


def test_pictures_are_not_decoded_before_they_are_asked_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a picture was decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", refuse)
    episode = load_records(root, [record_of("cat-1", SOUND)])[0]
    with pytest.raises(AssertionError, match="a picture was decoded"):
        episode.query_frame.image()


def test_two_objects_of_a_video_are_two_identities(root: Path) -> None:
    episodes = load_records(root, [record_of("cat-1", SOUND), record_of("cat-1", SOUND, element="dog")])
    assert [episode.identity for episode in episodes] == ["cat/cat-1/img/cat", "cat/cat-1/img/dog"]
    assert episodes[0].query_frame is episodes[1].query_frame  # its head was read once


@pytest.mark.parametrize(
    ("case", "text", "expected", "note"),
    [
        ("all zeros", "[0, 0, 0, 0]", None, "no_size"),
        ("all ones", "[1, 1, 1, 1]", None, "no_size"),
        ("no width", "[5, 5, 5, 9]", None, "no_size"),
        ("reversed", "[9, 5, 5, 9]", None, "negative_size"),
        ("no width, reversed", "[5, 9, 5, 5]", None, "negative_size"),
        ("to the right", "[40, 5, 50, 9]", None, "outside"),
        ("above", "[4, -9, 6, 0]", None, "outside"),
        ("beyond two borders", "[-3, 25, 8, 31]", Box(0.0, 25.0, 8.0, 30.0), ""),
        ("as large as the picture", " [0,0,40,30]\n", Box(0.0, 0.0, 40.0, 30.0), ""),
        ("exponents", "[1e0, 2.5E-1, 3, 4]", Box(1.0, 0.25, 3.0, 4.0), ""),
    ],
)
class TestBoxes:
    """Boxes as a query's and as a support's."""

    def test_of_a_query(self, root: Path, case: str, text: str, expected: Box | None, note: str) -> None:
        records = [record_of("cat-1", [*SOUND[:2], text]), record_of("cat-2", SOUND)]
        episodes = load_records(root, records, absent="keep")
        assert (episodes[0].target_box, episodes[0].target_note) == (expected, note)
        assert expected is None or all(type(side) is float for side in episodes[0].target_box or ())
        assert dict(episodes.skipped) == {}
        episodes = load_records(root, records)
        assert len(episodes) == 2 - bool(note)
        assert dict(episodes.skipped) == ({f"records_{note}": 1} if note else {})

    def test_of_a_support(self, root: Path, case: str, text: str, expected: Box | None, note: str) -> None:
        records = [record_of("cat-1", [text, *SOUND[1:]]), record_of("cat-2", SOUND)]
        episodes = load_records(root, records, absent="keep")
        assert [exemplar.box for exemplar in episodes[0].support] == [*([expected] if expected else []), SOUND_BOXES[1]]
        assert [len(exemplar.frame.name) for exemplar in episodes[0].support] == [26] * (2 - bool(note))
        assert episodes[0].target_box == SOUND_BOXES[2]
        assert dict(episodes.skipped) == ({f"supports_{note}": 1} if note else {})
        assert dict(load_records(root, records).skipped) == ({f"records_{note}": 1} if note else {})


def test_a_record_without_any_support_is_left_out(root: Path) -> None:
    records = [record_of("cat-1", ["[0, 0, 0, 0]", "[9, 9, 2, 2]", SOUND[2]]), record_of("cat-2", SOUND)]
    episodes = load_records(root, records, absent="keep")
    assert [episode.episode_id for episode in episodes] == ["episodes/1"]
    assert dict(episodes.skipped) == {"supports_no_size": 1, "supports_negative_size": 1, "records_no_support": 1}
    assert dict(load_records(root, records).skipped) == {"records_no_size": 1}


def test_records_of_other_shots_are_left_out(root: Path) -> None:
    records = [record_of("cat-1", SOUND[:length]) for length in (1, 2, 3)] + [
        record_of("cat-2", [*SOUND, "[1, 1, 9, 9]"])
    ]
    records[0]["image_path"] = ["elsewhere.jpg"]  # nobody looks
    for shots, expected in ((1, "episodes/1"), (2, "episodes/2"), (3, "episodes/3")):
        episodes = load_records(root, records, shots=shots)
        assert [episode.episode_id for episode in episodes] == [expected]
        assert dict(episodes.skipped) == {"records_other_shots": 3}
        assert len(episodes[0].support) == shots
    with pytest.raises(
        ValueError, match=r"no record has 4 supports and a query, they have \[0, 1, 2, 3\] supports; pass"
    ):
        load_records(root, records, shots=4)


def _with(**changes: object) -> Callable[[Record], object]:
    return lambda record: record | changes


def _without(key: str) -> Callable[[Record], object]:
    return lambda record: {name: value for name, value in record.items() if name != key}


def _bbox(text: object) -> Callable[[Record], object]:
    return lambda record: record | {"bbox": [SOUND[0], text, SOUND[2]]}


def _same_picture(record: Record) -> Record:
    return record | {"image_path": [*record["image_path"][:2], record["image_path"][0]]}


BBOX = r'expected a bbox "\[x1, y1, x2, y2\]" of four finite numbers, got '

MALFORMED: list[tuple[str, Callable[[Record], object], str]] = [
    ("no object", lambda record: [record], r"expected an object with element, image_path and bbox, got \["),
    ("nothing", lambda record: None, r"expected an object with element, image_path and bbox, got None"),
    ("no category", _without("element"), r"expected the key 'element', found \['bbox', 'image_id', 'image_path'\]"),
    ("no pictures", _without("image_path"), r"expected the key 'image_path', found"),
    ("no boxes", _without("bbox"), r"expected the key 'bbox', found"),
    ("a number as category", _with(element=3), r"expected a category as element, got 3"),
    ("an empty category", _with(element=" "), r"expected a category as element, got ' '"),
    ("one path", _with(image_path="a.jpg"), r"expected a list of texts as image_path, got 'a\.jpg'"),
    ("paths of no text", _with(image_path=[1, 2, 3]), r"expected a list of texts as image_path, got \[1, 2, 3\]"),
    ("no paths", _with(image_path=[], bbox=[]), r"expected a list of texts as image_path, got \[\]"),
    ("one box", _with(bbox="[1, 2, 3, 4]"), r"expected a list of texts as bbox, got '\[1, 2, 3, 4\]'"),
    ("boxes of numbers", _bbox([1, 2, 3, 4]), r"expected a list of texts as bbox, got"),
    ("a box too few", _with(bbox=SOUND[:2]), r"expected as many boxes as pictures, got 2 and 3; correct"),
    ("a box too many", _with(bbox=[*SOUND, SOUND[0]]), r"expected as many boxes as pictures, got 4 and 3"),
    ("words", _bbox("left"), BBOX + r"'left'"),
    ("an empty text", _bbox(""), BBOX + r"''"),
    ("no brackets", _bbox("1, 2, 3, 4"), BBOX + r"'1, 2, 3, 4'"),
    ("round brackets", _bbox("(1, 2, 3, 4)"), BBOX),
    ("three numbers", _bbox("[1, 2, 3]"), BBOX + r"'\[1, 2, 3\]'"),
    ("five numbers", _bbox("[1, 2, 3, 4, 5]"), BBOX),
    ("a number", _bbox("7"), BBOX),
    ("an object", _bbox('{"x1": 1}'), BBOX),
    ("texts", _bbox('["1", "2", "3", "4"]'), BBOX),
    ("truths", _bbox("[false, false, true, true]"), BBOX),
    ("a null", _bbox("[1, 2, 3, null]"), BBOX),
    ("not a number", _bbox("[1, 2, 3, NaN]"), BBOX + r"'\[1, 2, 3, NaN\]'"),
    ("infinite", _bbox("[1, 2, Infinity, 4]"), BBOX),
    ("infinite in effect", _bbox("[1, 2, 1e999, 4]"), BBOX),
    ("too large for a float", _bbox(f"[1, 2, 1{'0' * 400}, 4]"), BBOX + r"'\[1, 2, 10{90,95}…"),
    ("too long for a number", _bbox(f"[1, 2, 1{'0' * 5000}, 4]"), BBOX),
    ("too deep", _bbox("[" * 100_000), BBOX),
    ("a program", _bbox("__import__('os').abort()"), BBOX),
    ("a picture twice", _same_picture, r"expected different pictures, got \['cat/cat-1/img/00000000\.jpg', .*; remove"),
]


@pytest.mark.parametrize(("case", "spoil", "match"), MALFORMED, ids=[case for case, *_ in MALFORMED])
def test_malformed_records_are_named(root: Path, case: str, spoil: Callable[[Record], object], match: str) -> None:
    records = [record_of("cat-2", SOUND), spoil(record_of("cat-1", SOUND)), record_of("sea lion-7", SOUND)]
    with pytest.raises(DatasetError, match=rf"episodes\.json, record 1: {match}"):
        load_records(root, records)
    episodes = load_records(root, records, on_bad="skip")
    assert [episode.episode_id for episode in episodes] == ["episodes/0", "episodes/2"]
    assert dict(episodes.skipped) == {"records_bad": 1}
    assert len(episodes.bad) == 1
    assert episodes.bad[0].startswith(f"{root / 'episodes.json'}, record 1: expected")
    assert len(episodes.bad[0]) < 600


@pytest.mark.parametrize(
    ("case", "spoil", "match"),
    [
        ("no picture", lambda path: path.write_text("404"), r"00000001\.jpg: expected a picture, got something else"),
        (
            "cut",
            lambda path: path.write_bytes(path.read_bytes()[:-9]),
            r"00000001\.jpg: expected a whole JPEG, got one",
        ),
        ("gone", lambda path: path.unlink(), r"00000001\.jpg: expected a picture, found no file; unpack or copy"),
    ],
)
def test_damaged_pictures_are_named(root: Path, case: str, spoil: Callable[[Path], object], match: str) -> None:
    spoil(root / "LASOT/cat/cat-1/img/00000001.jpg")
    records = [record_of("cat-2", SOUND), record_of("cat-1", SOUND), record_of("cat-1", SOUND[:1])]
    with pytest.raises(DatasetError, match=rf"episodes\.json, record 1: .*{match}"):
        load_records(root, records)
    episodes = load_records(root, records, on_bad="skip")
    assert dict(episodes.skipped) == {"records_bad": 1, "records_other_shots": 1}


def test_the_first_bad_records_are_shown(root: Path) -> None:
    episodes = load_records(root, [*range(50), record_of("cat-1", SOUND), 50], on_bad="skip")
    assert dict(episodes.skipped) == {"records_bad": 51}
    assert len(episodes.bad) == MAX_BAD_SHOWN == 20
    assert "record 19: expected an object" in episodes.bad[-1]
    assert episodes[0].episode_id == "episodes/50"
    episodes = load_records(root, [1, 2], on_bad="skip")
    assert (len(episodes), dict(episodes.skipped)) == (0, {"records_bad": 2})
    with pytest.raises(IndexError, match="episode index"):
        episodes[0]


@pytest.mark.parametrize(
    ("case", "content", "match"),
    [
        ("no JSON", "[{", r"episodes\.json: expected JSON, got something else"),
        (
            "an object",
            {"episodes": []},
            r"episodes\.json: expected a list of records, got \{'episodes': \[\]\}; pass as",
        ),
        ("no record", [], r"expected a list of records, got \[\]; pass as `root` one of IPLoc's JSON files"),
        ("a text", '"records"', r"expected a list of records, got 'records'"),
        ("too deep", "[" * 100_000, r"expected JSON, got something else"),
        ("a number that is too long", f"[1{'0' * 5000}]", r"expected JSON, got something else"),
    ],
)
@pytest.mark.parametrize("on_bad", ["raise", "skip"])
def test_malformed_files_are_named(root: Path, case: str, content: object, match: str, on_bad: str) -> None:
    with pytest.raises(DatasetError, match=match):
        load_records(root, content, on_bad=on_bad)


def test_no_file(root: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"gone\.json: expected this file, found none; pass as `root` one of IPLoc's"
    ):
        IPLocEpisodes(root / "gone.json", image_root=root, shots=1)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"shots": 0}, r"shots must be at least 1, got 0"),
        (
            {"absent": "nearest"},
            r"absent must be 'skip' or 'keep' for a file of episodes, .*no other frames.*'nearest'",
        ),
        ({"absent": "drop"}, r"absent must be 'skip' or 'keep' .*got 'drop'"),
        ({"on_bad": "warn"}, r"on_bad must be one of \('raise', 'skip'\), got 'warn'"),
    ],
)
def test_wrong_arguments(root: Path, arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        load_records(root, [record_of("cat-1", SOUND)], **arguments)


class TestLoadDataset:
    """By name."""

    def test_it_passes_its_arguments_on(self, root: Path) -> None:
        assert "iploc_json" in dataset_names()
        records = [3, record_of("cat-1", [*SOUND[:2], "[0, 0, 0, 0]"]), record_of("cat-2", SOUND)]
        path = write_records(root, records)
        episodes = load_dataset(
            "iploc_json",
            root=str(path),
            image_root=str(root),
            shots=2,
            absent="keep",
            on_bad="skip",
            split="val",
            seed=7,
        )
        assert isinstance(episodes, IPLocEpisodes)
        assert [episode.target_note for episode in episodes] == ["no_size", ""]
        assert dict(episodes.skipped) == {"records_bad": 1}
        path = write_records(root, records[1:])
        episodes = load_dataset("iploc_json", root=path, image_root=root, shots=2)
        assert isinstance(episodes, IPLocEpisodes)
        assert dict(episodes.skipped) == {"records_no_size": 1}

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({}, r"'iploc_json' is read from files: pass `root`, one of IPLoc's JSON files"),
            ({"root": "x"}, r"'iploc_json' names its pictures only: pass `image_root`, the folder they are below"),
            ({"root": "x", "image_root": None}, r"pass `image_root`, the folder they are below"),
            ({"root": "x", "image_root": "y", "min_gap": 2}, r"no option min_gap; its own are image_root, on_bad"),
            ({"root": "x", "image_root": "y", "absent": "nearest"}, r"absent must be 'skip' or 'keep'"),
        ],
    )
    def test_it_refuses(self, options: dict[str, Any], match: str) -> None:
        with pytest.raises(ValueError, match=match):
            load_dataset("iploc_json", **options)
