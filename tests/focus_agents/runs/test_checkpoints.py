"""The states of a run: which is gone on from, which stay, and that none without finite weights is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from focus_agents.errors import CheckpointError
from focus_agents.runs.checkpoint import (
    Checkpoints,
    check_finite,
    load_training_state,
    read_training_state,
    save_policy,
    save_training_state,
)

NAN, INF = float("nan"), float("inf")


def write(checkpoints: Checkpoints, *numbers: int) -> None:
    for number in numbers:
        with checkpoints.write(number) as folder:
            folder.mkdir()
            (folder / "number").write_text(str(number))


def names(checkpoints: Checkpoints) -> list[str]:
    return sorted(path.name for path in checkpoints.folder.iterdir())


def load(path: Path) -> int:
    return int((path / "number").read_text())


class TestWhichStay:
    """By number, whatever lies beside them."""

    @pytest.mark.parametrize(
        ("num_kept", "numbers", "left"),
        [
            (1, (1, 2, 3), [3]),
            (2, (1, 2, 3), [2, 3]),
            (2, (1,), [1]),
            (2, (2, 4, 6, 5), [4, 5]),  # after a return to 4, what 6 held is of another run
            (2, (2, 4, 4), [2, 4]),
            (2, (999_999, 1_000_000, 1_000_001), [1_000_000, 1_000_001]),
        ],
    )
    def test_the_newest(self, num_kept: int, numbers: tuple[int, ...], left: list[int], tmp_path: Path) -> None:
        checkpoints = Checkpoints(tmp_path, "step_", num_kept=num_kept)
        write(checkpoints, *numbers)
        assert [checkpoints.number(path) for path in checkpoints.newest_first()] == left[::-1]

    def test_other_folders_are_let_be_and_scratch_of_the_dead_is_not(self, tmp_path: Path) -> None:
        for name in ("final", "best", "step_x", ".step_000007-unfinished/fresh"):
            (tmp_path / name).mkdir(parents=True)
        write(Checkpoints(tmp_path, "step_"), 1)
        assert names(Checkpoints(tmp_path, "step_")) == ["best", "final", "step_000001", "step_x"]


class TestRestore:
    """The newest that can be read."""

    def test_none(self, tmp_path: Path) -> None:
        assert Checkpoints(tmp_path, "step_").restore(load, pytest.fail) is None
        assert Checkpoints(tmp_path / "nowhere", "step_").restore(load, pytest.fail) is None

    def test_a_damaged_one_is_named_and_the_older_one_taken(self, tmp_path: Path) -> None:
        checkpoints, told = Checkpoints(tmp_path, "step_"), []
        write(checkpoints, 2, 4)
        assert checkpoints.restore(load, pytest.fail) == (4, 4)
        (tmp_path / "step_000004/number").write_text("nonsense")
        assert checkpoints.restore(load, told.append) == (2, 2)
        (message,) = told
        assert message.startswith(f"checkpoint {tmp_path}/step_000004: ValueError(")
        assert message.endswith("; going on from step_000002")

    def test_nothing_but_damaged_ones(self, tmp_path: Path) -> None:
        checkpoints = Checkpoints(tmp_path, "step_")
        write(checkpoints, 2, 4)
        for path in checkpoints.newest_first():
            (path / "number").unlink()
        with pytest.raises(
            CheckpointError, match=r"step_000004: .*step_000002: .*no other checkpoint is left, so start"
        ):
            checkpoints.restore(load, pytest.fail)

    def test_memory_is_no_damage(self, tmp_path: Path) -> None:
        write(Checkpoints(tmp_path, "step_"), 2, 4)

        def exhaust(path: Path) -> None:
            raise MemoryError(path.name)

        with pytest.raises(MemoryError, match="step_000004"):
            Checkpoints(tmp_path, "step_").restore(exhaust, pytest.fail)


def training(value: float = 1.0, moment: float = 1.0) -> tuple[dict[str, torch.nn.Parameter], torch.optim.Optimizer]:
    parameters = {"good": torch.nn.Parameter(torch.ones(2)), "odd": torch.nn.Parameter(torch.tensor([1.0, value]))}
    optimizer = torch.optim.AdamW(parameters.values())
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.state[parameters["odd"]]["exp_avg"].fill_(moment)
    return parameters, optimizer


class TestFiniteWeights:
    """NaN and infinity never replace a good state."""

    @pytest.mark.parametrize("value", [NAN, INF, -INF])
    @pytest.mark.parametrize("where", ["value", "moment"])
    def test_a_state_is_not_written(self, value: float, where: str, tmp_path: Path) -> None:
        checkpoints = Checkpoints(tmp_path, "step_")

        def write(number: int, **spoilt: float) -> None:
            with checkpoints.write(number) as folder:
                folder.mkdir()
                save_training_state(folder, *training(**spoilt), {"step": number})

        write(1)
        name = {"value": "in odd", "moment": "in exp_avg of the optimizer's parameter 1"}[where]
        with pytest.raises(
            CheckpointError, match=rf"expected finite weights, got NaN or infinity {name}; earlier checkpoints are"
        ):
            write(2, **{where: value})
        assert names(checkpoints) == ["step_000001"]
        assert load_training_state(tmp_path / "step_000001", *training()) == {"step": 1}

    def test_a_state_that_was_made_so_is_not_loaded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("focus_agents.runs.checkpoint.check_finite", lambda *_, **__: None)
            save_training_state(tmp_path, *training(value=NAN), {"step": 1})
        with pytest.raises(CheckpointError, match="NaN or infinity in odd"):
            read_training_state(tmp_path)

    @pytest.mark.parametrize("text", ["[]", "5", "null"])
    def test_progress_that_is_none(self, text: str, tmp_path: Path) -> None:
        save_training_state(tmp_path, *training(), {"step": 1})
        (tmp_path / "progress.json").write_text(text)
        with pytest.raises(CheckpointError, match="expected the state of a training, got something else"):
            read_training_state(tmp_path)

    def test_a_policy_does_not_replace_a_good_one(self, tmp_path: Path) -> None:
        class Model(torch.nn.Linear):
            def save_pretrained(self, directory: Path) -> None:
                directory.mkdir(exist_ok=True)
                torch.save(self.weight, directory / "weights")

        model: Any = Model(2, 2)
        save_policy(tmp_path / "final", model, model)
        before = (tmp_path / "final/weights").read_bytes()
        with torch.no_grad():
            model.weight[0, 0] = NAN
        with pytest.raises(CheckpointError, match=r"policy .*final: expected finite weights, .* in weight"):
            save_policy(tmp_path / "final", model, model)
        assert (tmp_path / "final/weights").read_bytes() == before

    @pytest.mark.parametrize(
        ("tensor", "is_fine"),
        [
            (torch.tensor([1.0, NAN]), False),
            (torch.tensor([INF], dtype=torch.bfloat16), False),
            (np.array([1.0, -INF], dtype=np.float32), False),
            (torch.tensor([1, 2]), True),
            (np.array(["text"]), True),
            (torch.tensor([]), True),
            (1.0, True),
            (None, True),
        ],
    )
    def test_by_hand(self, tensor: Any, is_fine: bool) -> None:
        if is_fine:
            check_finite({"x": tensor}, what="it")
        else:
            with pytest.raises(CheckpointError, match="it: expected finite weights, got NaN or infinity in x"):
                check_finite({"x": tensor}, what="it")
