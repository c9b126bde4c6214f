"""Policies by name: how their texts are read, and those that installed packages add."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from focus_agents.policies.identity import identity
from focus_agents.policies.localizers import LocalizerPolicy
from focus_agents.policies.registry import POLICIES, PolicyEntry, PolicySpec, parse_policy, policies_help
from focus_env.boxes import CoordinateFrame
from focus_env.errors import MissingDependencyError
from focus_env.types import Box
from tests.packages import install_package
from tests.places import ROOT

PACKAGE = """
    from focus_agents.policies.registry import PolicyEntry
    from focus_env.types import Box

    class Says:
        def __init__(self, spec):
            self.word, self.device = spec.argument, spec.device

        def generate(self, prompts, *, num_completions, sampling, seeds):
            return []

    def corner(question, rng):
        return Box(0, 0, 8, 6)

    def refuse(spec):
        raise ValueError("not today")

    SAYS = PolicyEntry(name="says", build=Says, syntax="[:WORD]", default="nothing", help="a word")
    CORNER = PolicyEntry(name="corner", build=lambda spec: corner, help="the upper left corner")
    LARGE = PolicyEntry(name="large", build=refuse, is_model=True, syntax=":MODEL", help="a model of mine")
    PICKY = PolicyEntry(name="picky", build=Says, check=refuse, help="a check of its own")
    OTHER_RANDOM = PolicyEntry(name="random", build=Says, help="not ours")
"""
ENTRIES = {name: f"policies_of_test:{name.upper()}" for name in ("says", "corner", "large", "picky")}


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, **others: str) -> None:
    entries, modules = {**ENTRIES, **others}, {"policies_of_test": PACKAGE}
    install_package(monkeypatch, folder, "my-policies", "focus_agents.policies", entries, modules=modules)


@pytest.mark.parametrize(
    ("text", "name", "argument"),
    [
        ("random", "random", ""),
        ("copy_support", "copy_support", "last"),
        ("copy_support:", "copy_support", "last"),
        ("copy_support:nearest", "copy_support", "nearest"),
        ("vlm", "vlm", "focus-small"),
        ("vlm:runs/a:b", "vlm", "runs/a:b"),
        ("openai_api:llava:13b@http://host:1/v1", "openai_api", "llava:13b@http://host:1/v1"),
        ("my.module:Policy", "my.module:Policy", ""),
        ("my.module:Policy:a:b", "my.module:Policy", "a:b"),
    ],
)
def test_a_text_is_a_name_and_an_argument(text: str, name: str, argument: str) -> None:
    entry, found = parse_policy(text)
    assert (entry.name, found) == (name, argument)
    assert PolicySpec(text=text).argument == argument


def test_a_models_folder_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    spec = PolicySpec(text="vlm:runs/model", device="cuda")
    assert spec.with_absolute_path() == PolicySpec(text=f"vlm:{tmp_path / 'runs' / 'model'}", device="cuda")
    for text in ("vlm", "vlm:runs/nothing", "vlm:runs", "copy_support:last", "my_module:Policy:runs/model"):
        assert PolicySpec(text=text).with_absolute_path().text == text


@pytest.mark.parametrize("entry", POLICIES.built_in.values(), ids=POLICIES.built_in)
def test_each_entry_is_described_in_the_help(entry: PolicyEntry) -> None:
    assert entry.help
    assert not entry.default or entry.syntax
    (line,) = [line for line in policies_help().splitlines() if line.startswith(f"- {entry.usage}: {entry.help}")]
    assert entry.default in line
    assert (entry.extra or "") in line


@pytest.mark.parametrize(
    ("name", "argument", "package"),
    [("template_match", "", "cv2"), ("match", "", "cv2"), ("openai_api", "m", "openai")],
)
def test_an_extra_is_named_where_its_package_is_missing(
    name: str, argument: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = POLICIES.built_in[name].extra
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert extra in project["optional-dependencies"]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"focus-localization\[{extra}\]"):
        PolicySpec(text=f"{name}:{argument}").build()


class TestOfInstalledPackages:
    @pytest.fixture(autouse=True)
    def _installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        install(monkeypatch, tmp_path)

    def test_they_go_by_their_names(self) -> None:
        for text, word in (("says", "nothing"), ("says:a:b", "a:b")):
            policy = PolicySpec(text=text, device="cuda").build()
            assert type(policy).__name__ == "Says"
            assert (policy.word, policy.device) == (word, "cuda")  # type: ignore[attr-defined]
        policy = PolicySpec(text="corner").build()
        assert isinstance(policy, LocalizerPolicy)
        assert policy.localizer.__name__ == "corner"  # type: ignore[attr-defined]

    def test_they_are_checked_without_loading_a_model(self) -> None:
        PolicySpec(text="says").check()
        PolicySpec(text="large:m").check()
        with pytest.raises(ValueError, match="not today"):
            PolicySpec(text="large:m").build()
        with pytest.raises(ValueError, match="not today"):
            PolicySpec(text="picky").check()
        with pytest.raises(ValueError, match="policy 'corner:1': expected corner alone; corner takes no argument"):
            PolicySpec(text="corner:1").check()

    def test_they_are_listed(self) -> None:
        assert "- says[:WORD]: a word; by default nothing" in policies_help().splitlines()
        known = r"Known are random, .*openai_api:MODEL\[@URL\], corner, large:MODEL, picky, says\[:WORD\]; your own by"
        with pytest.raises(ValueError, match=known):
            PolicySpec(text="corners_of").check()
        with pytest.raises(ValueError, match=r"Did you mean 'corner'\?"):
            PolicySpec(text="corer").check()


def test_a_broken_one_is_named_and_a_built_in_one_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path, torn="no_such_module:X", random="policies_of_test:OTHER_RANDOM")
    fault = "policy 'torn' of my-policies 1.0 cannot be used: importing 'no_such_module:X' raised ModuleNotFoundError"
    repeated = "my-policies 1.0 adds a policy 'random', which is built in; its own is ignored"
    with pytest.warns(UserWarning, match=repeated), pytest.raises(ValueError, match=f"no such policy.*{fault}"):
        PolicySpec(text="torn").check()
    with pytest.warns(UserWarning, match=repeated):
        assert fault in policies_help()
    assert isinstance(PolicySpec(text="random").build(), LocalizerPolicy)


def test_every_unit_can_be_asked_for() -> None:
    """A localizer sees pictures as they are, a model here is asked for its sizes, an endpoint does not tell them."""
    for frame in CoordinateFrame:
        for text in ("center", "vlm:tiny"):
            template = PolicySpec(text=text, frame=frame, template="default").load_template()
            assert template.frame is frame
            found = template.parse(template.answer(Box(50, 25, 150, 100), (200, 100)), (200, 100))
            assert found.box == pytest.approx(Box(50, 25, 150, 100), abs=1)
    template = PolicySpec(text="center", frame=CoordinateFrame.RESIZED_PIXEL).load_template()
    assert template.answer(Box(50, 25, 150, 100), (200, 100)) == "<answer>[50, 25, 150, 100]</answer>"
    for spec in (
        PolicySpec(text="openai_api:m", frame=CoordinateFrame.RESIZED_PIXEL),
        PolicySpec(text="openai_api:m", template="qwen2_5_vl"),
    ):
        with pytest.raises(
            ValueError, match=r"policy 'openai_api:m': expected another unit than resized_pixel, .*vlm:MODEL"
        ):
            spec.load_template()


def test_two_templates_of_one_name_are_two() -> None:
    words = '{"name": "mine", "base": "default", "query_text": "%s"}'
    first, second, known = (
        identity(PolicySpec(text="center", template=template))
        for template in (words % "Well?", words % "So?", "default")
    )
    assert first["template"] == second["template"] == "mine"
    assert first != second
    assert "template_fields" not in known
