"""Terms that other packages install."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from focus_env.rewards.terms import terms_help
from focus_env.rewards.weighted import WeightedReward
from tests.focus_env.rewards.batches import HALF
from tests.focus_env.rewards.parses import GARBAGE, batch, ok
from tests.packages import install_package

WIDTHS = """
    import numpy as np
    from focus_env.rewards.terms import RewardTermEntry

    class Narrower:
        def __init__(self, width):
            self.width = width

        def __call__(self, answers):
            return -(answers.boxes[:, 2] - answers.boxes[:, 0] > self.width).astype(float)

    def wide(answers):
        return np.nan_to_num(answers.boxes[:, 2] - answers.boxes[:, 0]) / 80

    WIDE = RewardTermEntry(name="wide", function=wide, help="wide boxes")
    SAME = RewardTermEntry(name="widths_of_test", function=wide, help="a term of its module's name")
    NARROWER = RewardTermEntry(name="narrower", factory=Narrower, least=-1, most=0, help="-1 for wide boxes")
"""


class TestTermsOfInstalledPackages:
    @pytest.fixture(autouse=True)
    def _installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        entries = {"wide": "widths_of_test:WIDE", "narrower": "widths_of_test:NARROWER", "torn": "no_such_module:X"}
        entries["widths_of_test"] = "widths_of_test:SAME"
        modules = {"widths_of_test": WIDTHS}
        install_package(monkeypatch, tmp_path, "width-rewards", "focus_env.reward_terms", entries, modules=modules)

    def test_they_go_by_their_names(self) -> None:
        reward = WeightedReward.from_spec("iou,wide:2,narrower(30):0.5")
        assert reward.spec == "iou:1,wide:2,narrower(30):0.5"
        totals, values = reward(batch(ok(HALF), GARBAGE))
        assert totals.tolist() == [1.0, 0.0]
        assert {name: value.tolist() for name, value in values.items()} == {
            "iou": [0.5, 0.0], "wide": [0.5, 0.0], "narrower(30)": [-1.0, 0.0],
        }  # fmt: skip
        assert pickle.loads(pickle.dumps(WeightedReward.from_spec("wide"))).spec == "wide:1"

    def test_their_module_is_still_an_import_path(self) -> None:
        assert WeightedReward.from_spec("widths_of_test:wide").spec == "widths_of_test:wide:1"
        assert WeightedReward.from_spec("widths_of_test:2").spec == "widths_of_test:2"

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("narrower", r"'narrower' needs numbers: narrower\(width\)"),
            ("wide(1)", r"'wide' takes no numbers, got 'wide\(1\)'"),
            ("narrower(30):-1", r"'narrower\(30\)' is a penalty with negative values"),
            ("widr", "unknown term 'widr', did you mean 'wide'"),
            (
                "torn",
                r"unknown term 'torn'.*; known are iou, .*, narrower\(width\), wide, widths_of_test; "
                "reward term 'torn' of width-rewards 1.0 cannot be used: importing 'no_such_module:X' raised "
                "ModuleNotFoundError",
            ),
        ],
    )
    def test_wrong_specs(self, spec: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            WeightedReward.from_spec(spec)

    def test_help_lists_them(self) -> None:
        lines = terms_help().splitlines()
        assert "- wide: wide boxes; 0 to 1" in lines
        assert "- narrower(width): -1 for wide boxes; -1 to 0" in lines
        assert lines[-1].startswith("reward term 'torn' of width-rewards 1.0 cannot be used")
