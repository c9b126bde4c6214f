"""prepare_data.py and the data arguments, from their command line, on real frames and on made-up ones."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from focus_agents.cli.data_arguments import TrainingDataArguments
from focus_env.datasets import load_dataset
from focus_env.datasets.store import StoreEpisodes
from focus_env.datasets.store_writer import write_store
from tests.contracts import assert_dataset_contract, assert_same_episode
from tests.fakes import FakeDataset
from tests.places import NO_REAL_FRAMES, REAL_FRAMES, load_experiment


def prepare(*arguments: str) -> None:
    """Run the experiment in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["prepare_data.py", *arguments])
        patch.setenv("COLUMNS", "200")
        load_experiment("prepare_data").main()


SYNTHETIC = ["--level", "1", "--image-size", "56", "--shots", "2", "--split", "val"]


class TestOnScenes:
    """All of it, on a few scenes."""

    @pytest.fixture
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("focus_env.datasets.synthetic.dataset.DEFAULT_NUM_EPISODES", {"val": 12})

    def test_it_writes_verifies_and_inspects(
        self, small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = tmp_path / "store"
        prepare(*SYNTHETIC, "--output", str(folder), "--inspect", "--verify")
        output = capsys.readouterr().out
        assert "12 episodes in 1 shards, 0 were there" in output
        assert "all 2 files are as they were written" in output
        assert "56x56, 56x56, 56x56" in output
        with Image.open(folder / "sheet.png") as sheet:
            assert sheet.width <= 1600
        expected = load_dataset("synthetic", level=1, image_size=56, shots=2, split="val")
        for index in range(12):
            assert_same_episode(StoreEpisodes(folder)[index], expected[index])
        prepare(*SYNTHETIC, "--output", str(folder))
        assert "nothing to do" in capsys.readouterr().out

    def test_another_source_is_refused(self, small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        prepare(*SYNTHETIC, "--output", str(tmp_path / "store"))
        with pytest.raises(SystemExit) as exit_info:
            prepare(*SYNTHETIC, "--data-seed", "1", "--output", str(tmp_path / "store"))
        assert exit_info.value.code == 2
        assert "got one with another data_seed; choose another folder" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "expected --output to write a store, or --inspect or --verify to look at one; got none"),
            (["--verify"], "--verify: expected --output, or --dataset store with --data-root, got neither"),
            (["--dataset", "got10k", "--inspect"], "data set 'got10k' is read from files: pass --data-root"),
            (["--dataset", "tao:0.5", "--data-root", "/nowhere", "--inspect"], "/nowhere/tao/annotations/train.json"),
            (["--by-path", "--output", "{tmp}/s"], "expected a picture file"),
        ],
    )
    def test_wrong_arguments(
        self, small: None, arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        if "--dataset" not in arguments:
            arguments = [*SYNTHETIC, *arguments]
        with pytest.raises(SystemExit) as exit_info:
            prepare(*(argument.format(tmp=tmp_path) for argument in arguments))
        assert exit_info.value.code == 2
        assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two stores."""
    folder = tmp_path_factory.mktemp("stores")
    write_store(FakeDataset(5), folder / "train", source={})
    write_store(FakeDataset(3), folder / "val", source={})
    return folder


class TestArguments:
    """What the flags make of a data set."""

    def test_a_store_for_training_and_one_for_validation(self, folder: Path) -> None:
        args = TrainingDataArguments(dataset="store", data_root=folder / "train", validation_root=folder / "val")
        assert (len(args.load_training()), len(args.load_validation())) == (5, 3)

    @pytest.mark.parametrize("root", [None, "train", "train/../train"])
    def test_nobody_validates_on_what_is_trained_on(self, folder: Path, root: str | None) -> None:
        """A store has no splits, and one of several is enough to mix both."""
        validation_root = None if root is None else folder / root
        args = TrainingDataArguments(dataset="store", data_root=folder / "train", validation_root=validation_root)
        for several in (args, dataclasses.replace(args, dataset="store:0.5,synthetic:0.5", data_root=folder)):
            with pytest.raises(ValueError, match="validation_root: the data set 'store' is one split"):
                dataclasses.replace(several, validation_root=root and several.data_root).load_validation()
        with pytest.raises(ValueError, match=r"validation_split: expected another split than .* 'train' for both"):
            TrainingDataArguments(validation_split="train").load_validation()

    @pytest.mark.parametrize("shots", [1, 3])
    def test_a_store_has_its_own_number_of_shots(self, folder: Path, shots: int) -> None:
        args = TrainingDataArguments(dataset="store", data_root=folder / "train", shots=shots)
        with pytest.raises(ValueError, match=f"shots: the data set 'store' has episodes of 2 supports, got {shots}"):
            args.load_training()
        assert len(dataclasses.replace(args, shots=2).load_training()) == 5

    def test_smaller_pictures(self, folder: Path) -> None:
        args = TrainingDataArguments(dataset="store", data_root=folder / "train", max_pixels=500)
        assert_dataset_contract(args.load_training(), shots=2)
        assert args.load_training()[0].query_frame.image_wh == (25, 19)

    def test_pictures_of_validation_have_a_limit_of_their_own(self, folder: Path) -> None:
        args = TrainingDataArguments(
            dataset="store",
            data_root=folder / "train",
            validation_root=folder / "val",
            max_pixels=500,
            validation_max_pixels=1200,
        )
        assert args.load_training()[0].query_frame.image_wh == (25, 19)
        assert args.load_validation()[0].query_frame.image_wh == (40, 30)
        both = dataclasses.replace(args, validation_max_pixels=None, min_pixels=20_000, max_pixels=None)
        assert math.prod(both.load_validation()[0].query_frame.image_wh) >= 20_000

    def test_scenes_among_several(self, folder: Path) -> None:
        args = TrainingDataArguments(dataset="synthetic:1", level=2, image_size=64, num_objects=3)
        assert args.load_training()[0].episode_id.startswith("synthetic/synthetic/train/level2/")


@pytest.mark.skipif(not REAL_FRAMES.is_dir(), reason=NO_REAL_FRAMES)
class TestOnRealFrames:
    """The flags of tracks, on GOT-10k's layout."""

    def args(self, **changes: Any) -> TrainingDataArguments:
        return TrainingDataArguments(dataset="got10k", data_root=REAL_FRAMES, shots=2, **changes)

    def test_random_episodes_obey_the_flags(self) -> None:
        episodes = self.args(episodes_per_track=3, min_gap=3).load_training()
        assert len(episodes) == 3 * 8
        for index in range(len(episodes)):
            episode = episodes[index]
            frames = [*(exemplar.frame for exemplar in episode.support), episode.query_frame]
            numbers = sorted(int(frame.name[-12:-4]) for frame in frames)
            assert min(numbers[1] - numbers[0], numbers[2] - numbers[1]) >= 3

    def test_validation_is_cut_as_in_the_papers(self) -> None:
        by_focus, by_iploc = (self.args(protocol=protocol).load_validation() for protocol in ("random", "iploc"))
        assert by_focus[0].episode_id.endswith("/focus")
        assert by_iploc[0].episode_id.endswith("/iploc")

    def test_a_store_of_smaller_pictures(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ["--dataset", "got10k", "--data-root", str(REAL_FRAMES), "--shots", "2", "--protocol", "focus"]
        prepare(*arguments, "--max-pixels", "25000", "--output", str(tmp_path / "store"), "--inspect")
        assert "192x108, 192x108, 192x108" in capsys.readouterr().out
        stored = load_dataset("store", root=tmp_path / "store")
        drawn = load_dataset("got10k", root=REAL_FRAMES, shots=2, max_pixels=25_000)
        assert len(stored) == len(drawn) == 8
        for index in range(8):
            assert stored[index].target_box == drawn[index].target_box
            gap = stored[index].query_frame.image().astype(int) - drawn[index].query_frame.image()
            assert abs(gap).mean() < 2
