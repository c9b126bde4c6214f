"""One worker of stage 1: precision, adapters, clipping, steps that fail, the best policy, its share of a gradient."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from focus_agents.errors import TrainingError
from focus_agents.models.devices import memory_advice
from focus_agents.models.loading import load_model, load_processor
from focus_agents.runs.checkpoint import save_policy
from focus_agents.runs.folder import RunDirectory
from focus_agents.sft import worker
from focus_agents.sft.budget import ADVICE, TRAINING, VALIDATION
from focus_agents.sft.data import SFTExamples, load_batches
from focus_agents.sft.model import build_model
from focus_agents.sft.progress import Progress
from focus_agents.sft.settings import SFTConfig
from focus_agents.sft.step import accumulate_gradients
from focus_agents.sft.worker import SFTWorker
from focus_env.datasets.order import shuffled_indices
from focus_env.metrics import ScoredAnswer
from focus_env.prompts import get_template
from focus_env.types import ParseStatus
from tests.fakes import FakeDataset
from tests.focus_agents.sft.runs import largest_difference, make_plan, metrics, parameters, train


@pytest.mark.parametrize(
    "options", [{"micro_batch_size": 1}, {"micro_batch_size": 2}, {"gradient_checkpointing": True}]
)
def test_savers_of_memory_change_nothing(tmp_path: Path, options: dict[str, Any]) -> None:
    for name, more in (("plain", {}), ("saving", options)):
        train(make_plan(tmp_path / name, num_steps=1, cooldown=0.0, **more))
    plain, saving = metrics(tmp_path / "plain"), metrics(tmp_path / "saving")
    assert saving[0] == pytest.approx(plain[0], rel=1e-4)
    # Adam's first step is nearly the gradient's sign, so this bound is loose; the gradients' own is in test_step.
    assert largest_difference(tmp_path / "plain", tmp_path / "saving") < 1e-4


@pytest.mark.parametrize("lora_rank", [None, 2])
def test_a_compiled_model_trains_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora_rank: int | None
) -> None:
    """Without the code generator, which would take a minute; validation does not compile at all."""
    compiled: list[Any] = []
    real = torch.nn.Module.compile

    def compile_quickly(module: torch.nn.Module, **options: Any) -> None:
        compiled.append(module)
        real(module, backend="aot_eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_quickly)
    options = {"num_steps": 2, "lora_rank": lora_rank, "gradient_checkpointing": True}
    for name, is_compiled in (("plain", False), ("compiled", True)):
        train(make_plan(tmp_path / name, compile=is_compiled, **options))
    assert len(compiled) == 3
    for ours, theirs in zip(metrics(tmp_path / "compiled"), metrics(tmp_path / "plain"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    assert largest_difference(tmp_path / "compiled", tmp_path / "plain") < 1e-4


def test_the_gradient_is_clipped(tmp_path: Path) -> None:
    """Adam undoes a common factor of the gradient, but not against its eps: a tiny norm stops the training."""
    for name, clip in (("free", 1.0), ("clipped", 1e-12)):
        train(make_plan(tmp_path / name, num_steps=1, cooldown=0.0, grad_clip=clip))
    start = {name: p.detach() for name, p in load_model("tiny").named_parameters()}
    moved = {
        run: max((p - start[name]).abs().max().item() for name, p in parameters(tmp_path / run).items())
        for run in ("free", "clipped")
    }
    assert moved["clipped"] < 1e-6 < 1e-4 < moved["free"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_adapters_leave_the_model_as_it_was_and_are_merged_at_the_end(tmp_path: Path, precision: str) -> None:
    """Only the seven projections of the language model's layers change."""
    options = {"lora_rank": 2, "lora_alpha": 8.0, "precision": precision}
    train(make_plan(tmp_path / "run", num_steps=2, lr=1e-2, **options))
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    start, end = load_model("tiny", dtype=dtype), parameters(tmp_path / "run")
    changed = {name for name, p in start.named_parameters() if not torch.equal(p, end[name].to(p.dtype))}
    assert {name.split(".")[-2] for name in changed} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    assert all("language_model.layers" in name for name in changed)
    assert len(changed) == 7 * 3
    losses = [line["loss"] for line in metrics(tmp_path / "run")]
    assert losses[1] < losses[0]


def test_bf16_keeps_trained_weights_in_float32() -> None:
    whole = build_model("tiny", SFTConfig(precision="bf16"))
    assert {p.dtype for p in whole.parameters()} == {torch.float32}
    adapted = build_model("tiny", SFTConfig(precision="bf16", lora_rank=4))
    assert {p.dtype for p in adapted.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in adapted.parameters() if not p.requires_grad} == {torch.bfloat16}


def test_bf16_trains_to_nearly_the_same_loss(tmp_path: Path) -> None:
    for precision in ("fp32", "bf16"):
        train(make_plan(tmp_path / precision, precision=precision))
    exact, rough = metrics(tmp_path / "fp32"), metrics(tmp_path / "bf16")
    for line, other in zip(exact, rough, strict=True):
        assert other["loss"] == pytest.approx(line["loss"], rel=0.02)
        assert other["loss"] != line["loss"]


def broken_policy(folder: Path) -> Path:
    """A policy with one weight in its vision tower that overflows: every loss is NaN. Infinite ones are not loaded."""
    model = load_model("tiny")
    with torch.no_grad():
        model.model.visual.merger.mlp[0].weight[0, 0] = torch.finfo(torch.float32).max
    return save_policy(folder, model, load_processor("tiny"))


def test_steps_without_a_finite_loss_are_skipped_and_end_the_run(tmp_path: Path) -> None:
    policy = broken_policy(tmp_path / "policy")
    # Two validation episodes without an answer are too few to end the run before its first step.
    options = {"max_bad_steps": 3, "batch_size": 2, "num_validation_episodes": 2}
    plan = make_plan(tmp_path / "run", num_steps=9, model=str(policy), **options)
    with pytest.raises(
        TrainingError, match=r"stopped at step 3: expected a finite loss .* in 3 steps in a row"
    ) as error:
        train(plan)
    assert "`lr`" in str(error.value)
    assert [(line["loss"], line["skipped_steps"]) for line in metrics(plan.run_path)] == [(None, 1), (None, 2)]
    (saved,) = (plan.run_path / "bad_batch").glob("*.safetensors")
    assert load_file(saved)["input_ids"].shape[0] == 2
    indices = shuffled_indices(4, 2, num_episodes=3, seed=0)
    assert str(indices) in str(error.value)


def test_an_earlier_failure_is_not_this_calls(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "run")
    (plan.run_path / "failure.json").write_text('{"message": "the learning rate was too high"}')
    assert train(plan)["num_steps"] == 3


def test_a_few_bad_steps_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of four steps has an infinite gradient norm; the run goes on, and that step did not count."""
    from focus_agents.sft import worker

    real, calls = torch.nn.utils.clip_grad_norm_, []

    def clip(given: Any, limit: float) -> torch.Tensor:
        calls.append(limit)
        return torch.tensor(torch.inf) if len(calls) == 2 else real(given, limit)

    monkeypatch.setattr(worker.torch.nn.utils, "clip_grad_norm_", clip)
    steps: list[int] = []
    real_step = torch.optim.AdamW.step

    def count(optimizer: Any, *arguments: Any) -> Any:
        steps.append(1)
        return real_step(optimizer, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", count)
    train(make_plan(tmp_path / "run", num_steps=4))
    lines = metrics(tmp_path / "run")
    assert [line["skipped_steps"] for line in lines] == [0, 1, 1, 1]
    assert [line["grad_norm"] is None for line in lines] == [False, True, False, False]
    assert len(steps) == 3


class TestProgress:
    """Which validation was the best, and since when none was better."""

    @pytest.mark.parametrize(
        ("scores", "best_step", "num_stale"),
        [([0.1], 1, 0), ([0.1, 0.2], 2, 0), ([0.2, 0.1, 0.1], 1, 2), ([0.0, 0.0], 2, 1), ([0.1, 0.0, 0.2, 0.2], 4, 1)],
    )
    def test_by_hand(self, scores: list[float], best_step: int, num_stale: int) -> None:
        progress = Progress()
        for score in scores:
            progress.count_step(is_finite=True)
            progress.count_validation(score)
        assert (progress.best_step, progress.num_stale) == (best_step, num_stale)


def test_a_run_that_no_longer_improves_stops(tmp_path: Path) -> None:
    """Three tokens hold no box, so every validation scores 0 and the second is not better than the first."""
    summary = train(make_plan(tmp_path / "run", num_steps=9, validation_interval=2, patience=2))
    assert summary["num_steps"] == 6
    assert [line["step"] for line in metrics(tmp_path / "run") if line.get("validation_miou") is not None] == [2, 4, 6]


def test_the_best_policy_is_kept_beside_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validations after steps 1 to 4 score 0.1, 0.6, 0.3 and 0.2; the best one's checkpoint is kept."""
    steady = {"warmup": 0.0, "cooldown": 0.0, "checkpoint_interval": 1}
    train(make_plan(tmp_path / "short", num_steps=2, **steady))
    plan = make_plan(tmp_path / "run", num_steps=4, validation_interval=1, **steady)
    scores = iter((0.0, 0.1, 0.6, 0.3, 0.2))
    (answer, *_) = RunDirectory(tmp_path / "short").read_answers("after")

    def validate(worker: SFTWorker) -> tuple[list[ScoredAnswer], dict[str, float]]:
        score = next(scores)
        return [dataclasses.replace(answer, status=ParseStatus.OK, iou=score)], {"validation_miou": score}

    monkeypatch.setattr(SFTWorker, "_validate", validate)
    assert train(plan)["miou_end"] == 0.2
    best = load_model(str(plan.run_path / "checkpoints/best"))
    expected = parameters(tmp_path / "short")
    assert all(torch.equal(p, expected[name]) for name, p in best.named_parameters())
    assert largest_difference(plan.run_path, tmp_path / "short") > 0


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")])
def test_out_of_memory_names_the_settings_that_help(error: RuntimeError) -> None:
    advice = ADVICE[TRAINING]
    with pytest.raises(MemoryError, match=r"`micro_batch_size` .* `gradient_checkpointing`"), memory_advice(advice):
        raise error
    with pytest.raises(MemoryError, match=r"Lower `validation_batch_size`"), memory_advice(ADVICE[VALIDATION]):
        raise error


def test_the_part_that_ran_out_is_the_one_that_is_spoken_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out(*arguments: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    for name, setting in (("validate", "validation_batch_size"), ("accumulate_gradients", "micro_batch_size")):
        with monkeypatch.context() as patch:
            patch.setattr(worker, name, run_out)
            with pytest.raises(Exception, match=rf"Lower `{setting}`"):
                train(make_plan(tmp_path / name))


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match=r"^size mismatch$"), memory_advice(""):
        raise RuntimeError("size mismatch")


def gradients_of_a_worker(rank: int, folder: Path, config: SFTConfig) -> None:
    """One of two processes, as DDP sees it: its gradients of the first step."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    gradients = first_gradients(
        torch.nn.parallel.DistributedDataParallel(build_model("tiny", config)), config, rank=rank, num_workers=2
    )
    torch.save(gradients, folder / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


def first_gradients(model: Any, config: SFTConfig, **share: int) -> dict[str, torch.Tensor]:
    """Gradients of the first step's loss, and its metrics, by name."""
    episodes = FakeDataset(5, shots=1, with_absent=True)
    examples = SFTExamples(episodes, get_template("compact"), load_processor("tiny"), target="both")
    micro_batches = next(
        load_batches(
            examples,
            steps=range(1),
            batch_size=config.batch_size,
            seed=0,
            num_data_workers=0,
            micro_batch_size=config.micro_batch_size,
            **share,
        )
    )
    means = accumulate_gradients(model, micro_batches, config, frozenset({0, 2}))
    gradients = {f"gradient {name.removeprefix('module.')}": p.grad for name, p in model.named_parameters()}
    return gradients | {name: torch.tensor(value) for name, value in means.items()}


@pytest.mark.parametrize(("labels", "micro_batch_size"), [("answer", None), ("full", 1)])
def test_two_workers_have_the_gradients_of_one(tmp_path: Path, labels: Any, micro_batch_size: int | None) -> None:
    """Five examples, of answers of two lengths, on two workers; a mean of the workers' means would differ."""
    config = SFTConfig(labels=labels, batch_size=5, micro_batch_size=micro_batch_size, freeze_vision=False)
    torch.multiprocessing.spawn(gradients_of_a_worker, args=(tmp_path, config), nprocs=2)
    whole = first_gradients(build_model("tiny", config), dataclasses.replace(config, micro_batch_size=None))
    for rank in range(2):
        shared = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert shared.keys() == whole.keys()
        for name, value in whole.items():
            scale = value.abs().max().clamp(min=1e-3)
            assert ((shared[name] - value).abs().max() / scale).item() < 1e-5, name
