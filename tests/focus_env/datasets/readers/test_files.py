"""What all readers ask of files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from focus_env.datasets.readers.files import read_boxes
from focus_env.errors import DatasetError
from focus_env.text_files import LARGEST_NUMBER, finite_number, inside, read_json, split_fields


@pytest.mark.parametrize("text", ["[1", "\ufeff[", f"1{'0' * 5000}", "[" * 100_000])
def test_what_is_no_json_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DatasetError, match=r"a\.json: expected JSON, got something else"):
        read_json(tmp_path / "a.json", advice="?")


@pytest.mark.parametrize("name", ["loop", "loop/below", "\ud800", "a/\udfff"])
def test_a_name_that_leads_nowhere_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(DatasetError, match=r"list, line 3: expected a path below .*, which leads nowhere"):
        inside(tmp_path, name, where="list, line 3")


@pytest.mark.parametrize("text", ['\ufeff[1, "é"]', '[1, "é"]'])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
def test_json_in_any_encoding(tmp_path: Path, text: str, encoding: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text.removeprefix("\ufeff" * (encoding != "utf-8")).encode(encoding))
    assert read_json(path, advice="?") == [1, "é"]


@pytest.mark.parametrize("line", ["9" * 10**6, "1," * 10**6, "1 1 1 1" + " " * 10**6 + "x", "1;" + " " * 10**6])
def test_a_line_takes_no_longer_than_its_length(tmp_path: Path, line: str) -> None:
    path = tmp_path / "groundtruth.txt"
    path.write_text(line)
    with pytest.raises(DatasetError, match=r"groundtruth\.txt, line 1: expected x_min"):
        read_boxes(path, advice="?")


def test_a_file_beyond_all_annotations_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "groundtruth.txt"
    with path.open("wb") as file:
        file.truncate(2**40)  # takes no room on the disk
    with pytest.raises(DatasetError, match=r"groundtruth\.txt: expected at most 67108864 bytes of text, got more"):
        read_boxes(path, advice="?")


class TestNumbers:
    """The one reader of numbers."""

    @given(st.floats(-LARGEST_NUMBER, LARGEST_NUMBER))
    def test_a_number_comes_back(self, number: float) -> None:
        assert finite_number(repr(number)) == finite_number(number) == number

    @given(st.text("0123456789.+-eE_ ,١２naifINFx\0", max_size=8))
    def test_a_text_is_a_plain_finite_number_or_none(self, text: str) -> None:
        found = finite_number(text)
        if found is not None:
            assert text.isascii()
            assert "_" not in text
            assert found == float(text)
            assert abs(found) <= LARGEST_NUMBER

    @pytest.mark.parametrize("value", [True, None, [1], {}, float("nan"), float("-inf"), 10**400, 1e300, b"1", 1j])
    def test_other_values(self, value: object) -> None:
        assert finite_number(value) is None

    @given(
        numbers=st.lists(st.integers(0, 999), min_size=4, max_size=4),
        separators=st.lists(st.sampled_from([",", ";", "\t", " ", " , ", "\t\t", ";\t", ", "]), min_size=3, max_size=3),
        end=st.sampled_from(["", ",", ";", " ", "\t", " , "]),
    )
    def test_any_separators(self, numbers: list[int], separators: list[str], end: str) -> None:
        line = "".join(f"{number}{separator}" for number, separator in zip(numbers, [*separators, end], strict=True))
        assert [finite_number(field) for field in split_fields(line)] == numbers
