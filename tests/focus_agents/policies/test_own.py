"""A user's own policy by its import path: what is no policy is named before any work."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from focus_agents.policies.localizers import LocalizerPolicy
from focus_agents.policies.registry import PolicySpec

MODULE = """
    import functools, sys

    def locate(question, rng): return (0, 0, 9, 9)
    def only_one(question): return None
    def three(question, rng, scale): return None
    def any(*given, **named): return None
    partial = functools.partial(three, scale=2)
    NUMBER, WORDS, NOTHING = 7, "words", None

    class Localizer:
        def __init__(self, size="9"): self.size = size
        def __call__(self, question, rng): return (0, 0, 9, 9)

    class Policy:
        def generate(self, prompts, *, num_completions, sampling, seeds): return []

    class Static:
        @staticmethod
        def generate(prompts, *, num_completions, sampling, seeds): return []

    class OldPolicy:
        def generate(self, prompts): return []

    class NoCall:
        pass

    class NoArgument(Policy):
        def __init__(self): pass

    class Exits(Policy):
        def __init__(self): sys.exit(0)

    class Raises(Policy):
        def __init__(self): raise KeyError("weights")

    class Attribute:
        generate = 3

    made = Policy()
    not_made = NoCall()
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    lines = [line.removeprefix("    ") for line in MODULE.splitlines()]
    (tmp_path / "own_of_test.py").write_text("\n".join(lines))
    (tmp_path / "exits_of_test.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_of_test", None)


@pytest.mark.parametrize(
    "name", ["locate", "any", "partial", "Localizer", "Localizer:12", "Policy", "Static", "made", "NoArgument"]
)
def test_what_is_one_is_made(name: str) -> None:
    spec = PolicySpec(text=f"own_of_test:{name}")
    spec.check()
    policy = spec.build()
    assert hasattr(policy, "generate")
    is_localizer = name.partition(":")[0] in ("locate", "any", "partial", "Localizer")
    assert isinstance(policy, LocalizerPolicy) is is_localizer


KINDS = "expected an object with a method `generate` .* or a function from an observation and a random generator"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NUMBER", f"{KINDS} to a box, got int"),
        ("WORDS", "got str"),
        ("NOTHING", "got NoneType"),
        ("not_made", "got NoCall"),
        ("NoCall", "got NoCall, a class whose objects are neither"),
        ("Attribute", "got Attribute, a class"),
        ("only_one", r"called as call\(observation, rng\), which it does not take: too many positional"),
        ("three", "which it does not take: missing a required argument: 'scale'"),
        ("OldPolicy", r"called as generate\(prompts, num_completions=, sampling=, seeds=\), which it does not take"),
    ],
)
def test_what_is_none_is_named_before_any_work(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"policy 'own_of_test:{name}': .*{message}"):
        PolicySpec(text=f"own_of_test:{name}").check()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NoArgument:7", "making it raised TypeError"),
        ("Exits", "making it raised SystemExit: 0"),
        ("Raises", "making it raised KeyError: 'weights'"),
        ("locate:7", "is no class, and takes no argument"),
    ],
)
def test_what_cannot_be_made_is_named(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"policy 'own_of_test:{name}': .*{message}"):
        PolicySpec(text=f"own_of_test:{name}").build()


def test_a_module_that_ends_the_process_is_named() -> None:
    with pytest.raises(ValueError, match="importing 'exits_of_test' raised SystemExit: 0"):
        PolicySpec(text="exits_of_test:policy").check()


def test_a_module_that_raises_is_named_once_and_is_none_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "raises_of_test.py").write_text("raise ValueError('no camera')")
    (tmp_path / "needs_of_test.py").write_text("import nothing_of_this_name")
    monkeypatch.syspath_prepend(tmp_path)
    for name, raised in (("raises", "ValueError: no camera"), ("needs", "ModuleNotFoundError: No module named")):
        message = f"^policy '{name}_of_test:x': importing '{name}_of_test' raised {raised}"
        with pytest.raises(ValueError, match=message) as told:
            PolicySpec(text=f"{name}_of_test:x").check()
        assert "Known are" not in str(told.value)
    message = r"no such policy \(.*importing 'none_of_test.part' raised .*PYTHONPATH\)\. Known are"
    with pytest.raises(ValueError, match=message):
        PolicySpec(text="none_of_test.part:x").check()
