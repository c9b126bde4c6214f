"""JSON files and JSON lines: what is written is JSON, what is read may be damaged."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from focus_agents.errors import CheckpointError
from focus_agents.runs.files import (
    NewLines,
    append_json_lines,
    keep_json_lines,
    read_json,
    read_json_lines,
    write_json,
    write_json_lines,
)

NAN, INF = math.nan, math.inf


def strict(text: str) -> Any:
    """As a parser that knows JSON alone reads it."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (NAN, None), (INF, None), (-INF, None), (np.float64("nan"), None), (1.5, 1.5), (0.1 + 0.2, 0.1 + 0.2), (3, 3),
        (True, True), ("NaN", "NaN"), (None, None), ([1.0, NAN, (INF,)], [1.0, None, [None]]),
        ({"a": {"b": NAN}}, {"a": {"b": None}}),
    ],
)  # fmt: skip
def test_what_is_not_finite_is_null(value: Any, expected: Any, tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": value})
    assert strict((tmp_path / "a.json").read_text()) == {"x": expected}
    write_json_lines(tmp_path / "a.jsonl", [{"x": value}])
    append_json_lines(tmp_path / "a.jsonl", [{"x": value}])
    assert [strict(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == [{"x": expected}] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "expected the thing in JSON"),
        (b"{", "expected the thing in JSON"),
        (b"\xff\xfe", "expected the thing in JSON"),
        (b'{"lr": NaN}', "NaN is no JSON"),
        (b'{"lr": -Infinity}', "-Infinity is no JSON"),
        (b"[" * 100_000, "expected the thing in JSON"),
        (b"[]", r"expected the thing, got \[\]"),
        (b"{}", r"expected the thing, got \{\}"),
        (b"null", "expected the thing, got None"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_no_object_is_named(text: bytes | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(CheckpointError, match=rf"a\.json: .*{message}"):
        read_json(file, "the thing")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, []),
        ("", []),
        ('{"a": 1}', []),
        ('{"a": 1}\n{"a": 2', [{"a": 1}]),
        ('{"a": 1}\n\0\0\0', [{"a": 1}]),
        ('{"a": NaN}\n{"a": -Infinity}\n', [{"a": None}, {"a": None}]),
        ('{"a": 1}\r\n', [{"a": 1}]),
    ],
)
def test_a_last_line_that_was_cut_is_left_out(text: str | None, expected: list[Any], tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "a.jsonl").write_text(text, newline="")
    assert read_json_lines(tmp_path / "a.jsonl") == expected
    append_json_lines(tmp_path / "a.jsonl", [{"a": 3}])
    assert read_json_lines(tmp_path / "a.jsonl") == [*expected, {"a": 3}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}\n{"a": \n{"a": 3}\n', r"a\.jsonl, line 2: expected JSON .*delete the line"),
        ('{"a": 1}{"a": 2}\n', r"a\.jsonl, line 1: expected JSON"),
        ("5\n", r"a\.jsonl, line 1: expected a JSON object, got 5"),
        ("\n", r"a\.jsonl, line 1: expected JSON"),
    ],
)
def test_another_line_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        read_json_lines(tmp_path / "a.jsonl")


class TestNewLines:
    """A file that another process writes to, looked at again and again."""

    def test_each_line_comes_once_and_whole(self, tmp_path: Path) -> None:
        file = tmp_path / "a.jsonl"
        lines = NewLines(file)
        assert lines.read() == ([], False)
        file.write_text('{"step": 1}\n{"st')
        assert lines.read() == ([{"step": 1}], True)
        assert lines.read() == ([], False)
        with file.open("a") as opened:
            opened.write('ep": 2}\n{"step": 3}\n')
        assert lines.read() == ([{"step": 2}, {"step": 3}], False)

    @pytest.mark.parametrize("num_kept", [0, 1, 2])
    @pytest.mark.parametrize("num_more", [0, 1, 3, 9])
    def test_lines_that_were_dropped_begin_it_anew(self, num_kept: int, num_more: int, tmp_path: Path) -> None:
        """However far it has grown again by the next look."""
        file = tmp_path / "a.jsonl"
        append_json_lines(file, ({"step": step} for step in range(1, 4)))
        lines = NewLines(file)
        assert [line["step"] for line in lines.read()[0]] == [1, 2, 3]
        keep_json_lines(file, lambda line: line["step"] <= num_kept)
        more = range(num_kept + 1, num_kept + 1 + num_more)
        append_json_lines(file, ({"step": step, "again": True} for step in more))
        found, is_anew = lines.read()
        assert [line["step"] for line in found] == [*range(1, num_kept + num_more + 1)]
        assert is_anew
        assert lines.read() == ([], not found)

    def test_a_damaged_line_is_named_by_its_number(self, tmp_path: Path) -> None:
        file = tmp_path / "a.jsonl"
        file.write_text('{"step": 1}\n{"step": 2}\n')
        lines = NewLines(file)
        lines.read()
        with file.open("a") as opened:
            opened.write("{]\n")
        with pytest.raises(CheckpointError, match="line 3: expected JSON"):
            lines.read()
