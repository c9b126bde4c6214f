"""Entries by name: built-in ones, those of installed packages, and those that cannot be used."""

from __future__ import annotations

import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from focus_env import registry
from focus_env.registry import Registry
from tests.focus_env.things import Thing
from tests.packages import install_package

GROUP = "focus_env.tests"


ONE, TWO = Thing("one"), Thing("two")
THINGS = Registry("thing", GROUP, Thing, [ONE, TWO])
FOUND = "from tests.focus_env.things import Thing\nTHREE = Thing('three')\nOTHER = Thing('one', 'mine')\n"


def test_a_built_in_name_asks_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "entry_points", None)
    assert THINGS.find("one") is ONE
    assert THINGS.find("two") is TWO


def test_an_entry_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert THINGS.find("three") is None
    entries = {"three": "registry_test_found:THREE"}
    install_package(monkeypatch, tmp_path, "my-things", GROUP, entries, modules={"registry_test_found": FOUND})
    assert "registry_test_found" not in sys.modules
    assert THINGS.find("four") is None
    assert "registry_test_found" not in sys.modules, "another name imports nothing"
    assert THINGS.find("three") == Thing("three")
    everything, faults = THINGS.load_all()
    assert list(everything) == ["one", "two", "three"]
    assert faults == []
    assert THINGS.known() == "one(), two(), three()"
    assert THINGS.help() == "- one(): a thing\n- two(): a thing\n- three(): a thing"


@pytest.mark.parametrize(
    ("entries", "fault"),
    [
        ({"bad": "registry_test_missing:X"}, "'registry_test_missing:X' raised ModuleNotFoundError: No module named"),
        ({"bad": "registry_test_faults:MISSING"}, "raised AttributeError: module 'registry_test_faults' has no attri"),
        ({"bad": "registry_test_raises:X"}, "importing 'registry_test_raises:X' raised ZeroDivisionError: division by"),
        ({"bad": "registry_test_exits:X"}, "importing 'registry_test_exits:X' raised SystemExit: 3"),
        ({"bad": "no object !"}, "importing 'no object !' raised "),
        ({"bad": "registry_test_faults:NUMBER"}, "expected a Thing, got int"),
        ({"bad": "registry_test_faults:Thing"}, "expected a Thing, got type"),
        ({"bad": "registry_test_faults:GOOD"}, "its record has the name 'good'"),
        ({"bad": "registry_test_faults:BAD"}, "expected a usage and a summary in words, got ('bad()', None)"),
        ({"bad:name": "registry_test_faults:GOOD"}, "expected a name of letters, digits, '_', '.' and '-'"),
    ],
)
def test_a_broken_entry_is_named_and_harms_nothing(
    entries: dict[str, str], fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = {
        "registry_test_faults": (
            "from tests.focus_env.things import Thing\nNUMBER = 3\nGOOD = Thing('good')\nBAD = Thing('bad', None)\n"
        ),
        "registry_test_raises": "1 / 0\n",
        "registry_test_exits": "import sys\nsys.exit(3)\n",
    }
    (name,) = entries
    good = {"good": "registry_test_faults:GOOD"}
    install_package(monkeypatch, tmp_path, "broken-things", GROUP, {**entries, **good}, modules=modules)
    assert THINGS.find("one") is ONE
    assert THINGS.find(name) is None
    everything, faults = THINGS.load_all()
    assert list(everything) == ["one", "two", "good"]
    (said,) = faults
    assert said.startswith(f"thing {name!r} of broken-things 1.0 cannot be used: ")
    assert fault in said
    assert THINGS.known() == f"one(), two(), good(); {said}"
    assert THINGS.help().endswith(f"\n{said}")


def test_a_name_that_is_built_in_stays_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {"one": "registry_test_repeats:OTHER", "three": "registry_test_repeats:THREE"}
    install_package(monkeypatch, tmp_path, "my-things", GROUP, entries, modules={"registry_test_repeats": FOUND})
    message = "my-things 1.0 adds a thing 'one', which is built in; its own is ignored"
    with pytest.warns(UserWarning, match=re.escape(message)):
        everything, faults = THINGS.load_all()
    assert everything == {"one": ONE, "two": TWO, "three": Thing("three")}
    assert faults == []
    assert THINGS.find("one") is ONE


def test_a_name_of_two_packages_belongs_to_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("b-things", "a-things"):
        entries = {"three": "registry_test_twice:THREE"}
        install_package(
            monkeypatch, tmp_path / package, package, GROUP, entries, modules={"registry_test_twice": FOUND}
        )
    assert THINGS.find("three") is None
    assert THINGS.load_all()[1] == [
        "thing 'three' of a-things 1.0 and b-things 1.0 cannot be used: only one package may add it"
    ]


def test_metadata_that_cannot_be_read_harms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_package(monkeypatch, tmp_path / "torn", "torn", "any.group", {})
    (tmp_path / "torn" / "torn-1.0.dist-info" / "entry_points.txt").write_text("[any.group]\na line without a value\n")
    entries = {"three": "registry_test_torn:THREE"}
    modules = {"registry_test_torn": FOUND}
    for place in ("first", "again"):
        install_package(monkeypatch, tmp_path / place, "my-things", GROUP, entries, modules=modules)
    assert THINGS.find("one") is ONE
    assert THINGS.find("three") == Thing("three")
    everything, faults = THINGS.load_all()
    assert list(everything) == ["one", "two", "three"]
    (said,) = faults
    assert said.startswith("the entry points of torn 1.0 cannot be read (")


def test_a_package_without_metadata_has_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def entry_points(group: str) -> list[EntryPoint]:
        return [EntryPoint("three", "registry_test_nowhere:X", group)]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    (said,) = THINGS.load_all()[1]
    assert said.startswith("thing 'three' of an unknown package cannot be used: importing")
