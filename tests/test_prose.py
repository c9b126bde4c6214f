"""The counts of prose see what they are to see, and are held."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import prose
from tests.prose import MOST_WORDS, Docstring, is_imperative, per_thousand, read_docstrings, sentences

SOURCE = '''"""What a module is."""
class A:
    """Whether so."""
    size: int = 1
    """What it is."""
    is_so: bool = True
    """Whether so."""
    @property
    def name(self):
        """The name."""
    def find(self):
        """The place."""
        async def inner():
            """Find it."""
    def silent(self):
        pass
'''


@pytest.mark.parametrize(
    ("summary", "expected"),
    [
        ("Return the boxes.", True),
        ("Pass a box on; nothing is returned.", True),
        ("The boxes.", False),
        ("What is there.", False),
        ("Whether a box is good.", False),
        ("Its boxes.", False),
        ("Returns the boxes.", False),
        ("Positions of tokens.", False),
        ("[N, 4] boxes.", False),
        ("1 if it is good.", False),
        ("`name` of a box.", False),
        ("As `Sink.log`.", False),
    ],
)
def test_a_command_opens_with_a_verb(summary: str, expected: bool) -> None:
    assert is_imperative(summary) is expected


def test_docstrings_are_read_with_their_kinds() -> None:
    found = [(docstring.kind, docstring.text) for docstring in read_docstrings(SOURCE, "a.py")]
    assert sorted(found) == [
        ("attribute", "What it is."),
        ("attribute", "Whether so."),
        ("class", "Whether so."),
        ("function", "Find it."),
        ("function", "The place."),
        ("module", "What a module is."),
        ("property", "The name."),
    ]


def test_faults_of_summaries_are_counted(tmp_path: Path) -> None:
    (tmp_path / "focus_env").mkdir()
    (tmp_path / "focus_env/a.py").write_text(SOURCE)
    counts, faults = prose.measure(tmp_path)
    assert counts["docstrings: question instead of a noun"] == 3  # the module, the class, an attribute
    assert counts["docstrings: not imperative"] == 1
    assert [fault.place for fault in faults if fault.rule == "docstrings: not imperative"] == ["focus_env/a.py:11"]


def test_sentences_end_at_full_stops_paragraphs_and_items() -> None:
    text = "# Title\n\nOne is here. Two\nis there, [three](a.md).\n\n- four\n- five\n\n| a | b |\n```sh\nsix\n```\n7."
    assert sentences(text) == ["One is here.", "Two is there, [three].", "- four", "- five", "7."]


def test_long_sentences_are_counted(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("word " * MOST_WORDS + "end.\n\n" + "word " * (MOST_WORDS - 1) + "end.\n")
    counts, _ = prose.measure(tmp_path)
    assert counts["pages: long sentences"] == 1


def test_shares_of_words_leave_code_out() -> None:
    assert per_thousand(frozenset({"what"}), ["What is `what`?", "a b c d e f g h"]) == 100.0


def test_summaries_are_on_one_line() -> None:
    assert Docstring(place="", kind="module", text="\n  One\n  two.\n\nThree.").summary == "One two."


def test_a_count_above_its_ceiling_fails_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "focus_env").mkdir()
    (tmp_path / "focus_env/a.py").write_text(SOURCE)
    monkeypatch.setattr("sys.argv", ["prose", "--folder", str(tmp_path)])
    assert prose.main() == 1
    assert "focus_env/a.py:11: docstrings: not imperative: The place." in capsys.readouterr().out
