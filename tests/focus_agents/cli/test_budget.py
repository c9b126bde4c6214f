"""What commands say of a run's prompts and memory before it starts, and what they refuse."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from focus_agents.cli import budget as cli_budget
from focus_agents.cli import evaluate, grpo, sft
from focus_agents.cli.budget import Process, large_prompt, shape_of_model, tell_memory, tell_unused_gpu
from focus_agents.cli.common import PolicyArguments
from focus_agents.cli.errors import make_console, user_errors
from focus_agents.models import devices
from focus_agents.models.devices import Device, chosen_device, device_of
from focus_agents.models.loading import load_model, load_processor
from focus_agents.runs.checkpoint import save_policy
from focus_env.prompts import get_template
from focus_env.types import Episode
from tests.fakes import FakeDataset, make_episode
from tests.focus_agents.models.loading.adapters import write_adapter
from tests.places import load_experiment

GPU = Device("NVIDIA H100 80GB HBM3", 85_000_000_000, 80_000_000_000, is_gpu=True)
RAM = Device("this machine's RAM", 24_000_000_000, 16_000_000_000, is_gpu=False)
ADVICE = {"training": "lower `micro_batch_size`", "validation": "lower `validation_batch_size`"}


def worker(training: float, validation: float = 0.0, **options: Any) -> Process:
    memory = {"training": {"weights": training * 1e9}, "validation": {"cache": validation * 1e9}}
    return Process(name="each worker", memory=memory, **options)


def told(*processes: Process, device: Device | None) -> str:
    console = make_console(width=200)
    console.file = io.StringIO()
    tell_memory(console, processes, device=device, advice=ADVICE)
    return console.file.getvalue()


class TestMemory:
    """Said, warned of, refused."""

    def test_what_fits(self) -> None:
        text = told(worker(30, 20, num_gpus=1), device=GPU)
        assert text == (
            "memory by count: each worker 30.0 GB (weights 30.0) in training, 20.0 GB (cache 20.0) in validation; "
            "NVIDIA H100 80GB HBM3 has 80.0 GB free\n"
        )

    def test_a_cluster_that_is_elsewhere(self) -> None:
        assert "free" not in told(worker(500, num_gpus=1), device=None)

    @pytest.mark.parametrize(
        ("process", "device"),
        [
            (worker(78, num_gpus=1), GPU),  # a twentieth is kept
            (worker(45, num_gpus=0.5), GPU),
            (worker(17), RAM),
            (worker(9, num=2), RAM),
        ],
    )
    def test_what_is_warned_of(self, process: Process, device: Device) -> None:
        text = told(process, device=device)
        assert "warning: each worker needs" in text
        assert "in training by count" in text
        assert "lower `micro_batch_size`" in text

    @pytest.mark.parametrize(("process", "device"), [(worker(86, num_gpus=1), GPU), (worker(13, num=2), RAM)])
    def test_what_is_refused(self, process: Process, device: Device) -> None:
        with pytest.raises(ValueError, match=r"^memory: each worker needs .* in training .*; lower `micro_batch_size`"):
            told(process, device=device)
        assert process.num_gpus == 0 or "warning" not in told(process, device=RAM), "it is on a GPU"

    def test_the_part_that_takes_most_is_the_one_to_mend(self) -> None:
        with pytest.raises(ValueError, match=r"in validation .*; lower `validation_batch_size`"):
            told(worker(20, 90, num_gpus=1), device=GPU)


class TestPrompts:
    """Measured on one of the largest."""

    def test_the_largest_of_some(self) -> None:
        episodes = [make_episode(0, shots=1), make_episode(1, shots=3, query_wh=(96, 96)), make_episode(2, shots=1)]
        processor, shape = load_processor("tiny"), shape_of_model("tiny")
        assert shape is not None
        size = large_prompt(processor, get_template("compact"), episodes, shape)
        assert size is not None
        assert size.num_pictures == 4

    def test_episodes_that_cannot_be_read_or_asked_are_passed_over(self) -> None:
        class Faulty(FakeDataset):
            def __getitem__(self, index: int) -> Episode:
                if index % 2:
                    raise OSError("gone")
                return make_episode(index, query_wh=(4000, 10) if index == 0 else (64, 48))

        shape = shape_of_model("tiny")
        assert shape is not None
        assert large_prompt(load_processor("tiny"), get_template("compact"), Faulty(4), shape) is not None
        assert large_prompt(load_processor("tiny"), get_template("compact"), Faulty(1), shape) is None

    def test_a_model_that_is_not_there(self) -> None:
        assert shape_of_model("no/such") is None


class TestFewer:
    """What is cut to what there is, is said."""

    @pytest.mark.parametrize(("asked", "is_said"), [(20_000, True), (1001, True), (1000, False), (64, False)])
    @pytest.mark.parametrize("command", [sft, grpo])
    def test_episodes_to_validate_on(
        self, command: Any, asked: int, is_said: bool, capsys: pytest.CaptureFixture[str]
    ) -> None:
        args = command.parse_arguments(["--num-validation-episodes", str(asked)])
        episodes = args.data.load_validation()
        cli_budget.tell_validation(
            args.validation.num_validation_episodes, episodes, make_console(arguments=command.Args)
        )
        text = f"note: --num-validation-episodes asks for {asked:,}, but there are 1,000 episodes to validate on\n"
        assert capsys.readouterr().out == (text if is_said else "")

    @pytest.mark.parametrize("command", ["sft", "grpo"])
    def test_a_run_says_so_before_it_starts(
        self, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        module = {"sft": sft, "grpo": grpo}[command]
        words = ["--output-dir", str(tmp_path), "--name", "r", "--num-validation-episodes", "1005", "--model", "tiny"]
        monkeypatch.setattr(sys, "argv", [f"focus {command}", *words])
        monkeypatch.setattr(module, "train", lambda *_: None)
        module.main()
        assert "asks for 1,005, but there are 1,000 episodes to validate on" in capsys.readouterr().out

    def test_an_evaluation_says_so(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ["--policy", "center", "--num-episodes", "20000", "--shots", "1", "--output-dir", str(tmp_path / "e")]
        monkeypatch.setattr(sys, "argv", ["focus evaluate", *words])
        monkeypatch.setattr(evaluate, "answer_chunks", fail)
        with pytest.raises(Fault):
            evaluate.main()
        assert "note: --num-episodes asks for 20,000, but there are 1,000 episodes of synthetic" in (
            capsys.readouterr().out
        )


class Fault(Exception):
    """Ends a command where its work would begin."""


def fail(*_: object) -> None:
    raise Fault


class TestCommands:
    """The lines of each command, and a run that cannot fit."""

    def test_sft_and_grpo_say_it(self, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ["--model", "tiny", "--level", "1", "--image-size", "56", "--max-image-tokens", "9"]
        arguments += ["--validation-max-image-tokens", "16"]
        console = make_console(width=300)
        plan, workers = sft.check_arguments(sft.parse_arguments(arguments))
        sft.tell_budget(plan, workers, sft.ClusterArguments(), console)
        args = grpo.parse_arguments(arguments)
        own, _ = grpo.check_arguments(args)
        grpo.tell_budget(own, args.cluster, console)
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 4
        for line in lines[::2]:
            assert "tokens, 45 of them 5 pictures; in validation" in line
            assert line.endswith("most of a picture: 9 tokens in training, 16 tokens in validation")
        assert lines[1].startswith("memory by count: each worker ")
        assert lines[3].startswith("memory by count: this process ")

    def test_an_adapter_that_is_trained_on_counts_as_one(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """As its base under a new adapter of that rank, and not as a training of all weights."""
        base = str(save_policy(tmp_path / "base", load_model("tiny"), load_processor("tiny")))
        adapter = str(write_adapter(tmp_path / "adapter", load_model(base), base))
        console = make_console(width=300)
        said = []
        for model in (["--model", adapter], ["--model", base, "--lora-rank", "4"], ["--model", base]):
            arguments = [*model, "--level", "1", "--image-size", "56", "--precision", "bf16"]
            plan, workers = sft.check_arguments(sft.parse_arguments(arguments))
            sft.tell_budget(plan, workers, sft.ClusterArguments(), console)
            args = grpo.parse_arguments(arguments)
            grpo.tell_budget(grpo.check_arguments(args)[0], args.cluster, console)
            lines = capsys.readouterr().out.splitlines()[1::2]
            said.append([line.partition("; this machine's RAM")[0] for line in lines])  # what is free changes
        assert said[0] == said[1]
        assert said[0][0] != said[2][0]
        assert said[0][1] != said[2][1]

    def test_a_run_that_cannot_fit_is_refused_in_the_words_of_the_command(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run_sft = load_experiment("run_sft")
        monkeypatch.setattr(cli_budget, "device_for", lambda **options: Device("a small machine", 10**6, 10**6, False))
        monkeypatch.setattr(run_sft, "device_for", cli_budget.device_for)
        plan, workers = run_sft.check_arguments(run_sft.parse_arguments(["--model", "tiny"]))
        with pytest.raises(SystemExit), user_errors(run_sft.Args):
            run_sft.tell_budget(plan, workers, run_sft.ClusterArguments(), make_console())
        error = capsys.readouterr().err
        assert "a small machine has under 0.01 GB; lower --micro-batch-size or --max-image-tokens, or set" in error


class TestDevices:
    """Where something computes."""

    @pytest.mark.parametrize(("is_there", "expected"), [(True, "cuda"), (False, "cpu")])
    def test_auto(self, monkeypatch: pytest.MonkeyPatch, is_there: bool, expected: str) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: is_there)
        assert chosen_device("auto") == expected
        assert chosen_device("cpu") == "cpu"
        assert chosen_device("cuda:1") == "cuda:1"

    @pytest.mark.parametrize(
        ("device", "num_gpus", "message"),
        [
            ("gpu", 1, "device: expected auto, cpu, cuda or cuda:1 and the like, got 'gpu'"),
            ("cuda:x", 1, "device: expected auto, cpu, cuda or cuda:1 and the like, got 'cuda:x'"),
            ("cuda", 0, "--device cuda: this machine has no CUDA device that torch can use"),
            ("cuda:1", 1, "--device cuda:1: this machine has 1 CUDA devices, from cuda:0 on"),
            ("auto", 0, None),
            ("cpu", 0, None),
            ("cuda:1", 2, None),
        ],
    )
    def test_what_a_command_takes(
        self, monkeypatch: pytest.MonkeyPatch, device: str, num_gpus: int, message: str | None
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
        if message is None:
            PolicyArguments(device=device).check_device()
            return
        with pytest.raises(ValueError, match=message):
            PolicyArguments(device=device).check_device()

    def test_this_machine(self) -> None:
        device = device_of("cpu")
        assert device.free is not None
        assert 0 < device.free <= device.total
        assert not device.is_gpu
        assert device.peak_flops is None
        assert GPU.peak_flops == devices.PEAK_FLOPS["H100"]

    def test_a_gpu_that_is_not_used_is_spoken_of(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        console = make_console()
        tell_unused_gpu(console, [worker(1)], "`use_gpu`")
        assert capsys.readouterr().out == "" or torch.cuda.is_available()
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        tell_unused_gpu(console, [worker(1, num_gpus=1)], "`use_gpu`")
        assert capsys.readouterr().out == ""
        tell_unused_gpu(console, [worker(1)], "`use_gpu`")
        text = capsys.readouterr().out
        assert "this machine has a GPU, and this run computes on the CPU; `use_gpu` changes that" in text


def test_the_presets_carry_the_papers_budgets() -> None:
    for command in (sft, grpo):
        args: Any = command.parse_arguments(["--preset", "paper"])
        assert args.model.max_image_tokens * 28**2 <= 276_480 < (args.model.max_image_tokens + 1) * 28**2
        assert args.model.validation_max_image_tokens * 28**2 <= 2_304_000
        assert (args.finetuning.lora_rank, args.finetuning.lora_alpha, args.finetuning.precision) == (8, 16, "bf16")
    second = grpo.parse_arguments(["--preset", "paper"])
    assert (second.sampling.group_size, second.learning.lr, second.learning.warmup) == (4, 1e-5, 0.01)
    assert (second.learning.grad_clip, second.learning.micro_batch_groups) == (1.0, 1)
    assert grpo.parse_arguments(["--preset", "paper", "--group-size", "8"]).sampling.group_size == 8
    assert grpo.parse_arguments([]).sampling.group_size == 8


def test_the_preset_of_short_videos() -> None:
    """It starts from the model that comes with the package for it; flags beside it count."""
    plan, _ = grpo.check_arguments(grpo.parse_arguments(["--preset", "tracks", "--num-iterations", "3"]))
    assert (plan.model.model, plan.settings.num_iterations) == ("focus-small-start", 3)
    assert plan.schedule.num_validation_episodes == 256
    own, default = (grpo.parse_arguments(words).data for words in (["--preset", "tracks"], []))
    assert (own.scenes, default.scenes) == ("tracks", "one_look")
