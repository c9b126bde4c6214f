"""Supervised fine-tuning: settings, batches, loss and a few steps."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from focus_agents.models.loading import load_model
from focus_agents.processing import VLMProcessor
from focus_agents.reporting import RunDirectory
from focus_agents.rollout import shuffled_indices
from focus_agents.sft.data import SFTBatch, SFTExamples, load_batches
from focus_agents.sft.train import SFTConfig, answer_loss, full_loss, lr_factor, train_sft, train_steps
from focus_env.prompts import get_template
from tests.fakes import FakeDataset
from tests.focus_agents.test_generation import score_by_repetition

TEMPLATE = get_template("compact")


@pytest.fixture
def examples(processor: VLMProcessor) -> SFTExamples:
    return SFTExamples(FakeDataset(6, shots=1, with_absent=True), TEMPLATE, processor)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 0}, "num_steps: expected 1 or more, got 0"),
        ({"batch_size": 0}, "batch_size: expected 1 or more, got 0"),
        ({"batch_size": -4}, "batch_size: expected 1 or more, got -4"),
        ({"num_workers": -1}, "num_workers: expected 0 or more, got -1"),
        ({"seed": -1}, "seed: expected 0 or more, got -1"),
        ({"lr": 0.0}, r"lr: expected more than 0, got 0\.0"),
        ({"lr": -1e-3}, r"lr: expected more than 0, got -0\.001"),
        ({"grad_clip": 0.0}, r"grad_clip: expected more than 0, got 0\.0"),
        (
            {"warmup": -0.1},
            r"warmup, cooldown: expected shares of the steps that add up to at most 1, got -0\.1 and 0\.2",
        ),
        ({"cooldown": -0.1}, r"warmup, cooldown: expected shares .* got 0\.05 and -0\.1"),
        ({"warmup": 0.5, "cooldown": 0.6}, r"warmup, cooldown: expected shares .* got 0\.5 and 0\.6"),
        ({"warmup": 1.1, "cooldown": 0.0}, r"warmup, cooldown: expected shares .* got 1\.1 and 0\.0"),
    ],
)
def test_settings_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SFTConfig(**arguments)


class TestLearningRate:
    """A linear rise over the warm-up, a plateau, a linear fall to a tenth over the cool-down."""

    @pytest.mark.parametrize(
        ("num_steps", "warmup", "cooldown", "step", "factor"),
        [
            (1, 0.0, 0.0, 0, 1.0),
            (1, 1.0, 0.0, 0, 1.0),
            (10, 1.0, 0.0, 0, 0.1),  # nothing but a rise
            (10, 1.0, 0.0, 9, 1.0),
            (10, 0.0, 0.0, 0, 1.0),  # nothing but the plateau
            (10, 0.0, 0.0, 9, 1.0),
            (10, 0.0, 1.0, 5, 0.55),  # nothing but a fall
            (10, 0.0, 1.0, 9, 0.19),
            (100, 0.2, 0.2, 0, 1 / 20),
            (100, 0.2, 0.2, 9, 0.5),
            (100, 0.2, 0.2, 19, 1.0),
            (100, 0.2, 0.2, 20, 1.0),
            (100, 0.2, 0.2, 79, 1.0),
            (100, 0.2, 0.2, 90, 0.55),
            (100, 0.2, 0.2, 99, 0.1 + 0.9 / 20),
            (100, 0.2, 0.2, 100, 0.1),  # asked for by the schedule after the last step
        ],
    )
    def test_by_hand(self, num_steps: int, warmup: float, cooldown: float, step: int, factor: float) -> None:
        config = SFTConfig(num_steps=num_steps, warmup=warmup, cooldown=cooldown)
        assert lr_factor(step, config) == pytest.approx(factor)

    @pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 100])
    @pytest.mark.parametrize(("warmup", "cooldown"), [(0.0, 0.0), (0.05, 0.2), (0.5, 0.5), (1.0, 0.0), (0.0, 1.0)])
    def test_shape(self, num_steps: int, warmup: float, cooldown: float) -> None:
        config = SFTConfig(num_steps=num_steps, warmup=warmup, cooldown=cooldown)
        factors = [lr_factor(step, config) for step in range(num_steps)]
        peak = factors.index(max(factors))
        assert factors[: peak + 1] == sorted(factors[: peak + 1])
        assert factors[peak:] == sorted(factors[peak:], reverse=True)
        assert max(factors) == 1.0
        assert min(factors[peak:]) >= 0.1


class TestExamples:
    """Episodes as prompts and right answers."""

    def test_the_answer_is_the_right_one(self, examples: SFTExamples, processor: VLMProcessor) -> None:
        assert len(examples) == 6
        for index in range(6):
            episode = examples.episodes[index]
            _, answer_ids = examples[index]
            assert answer_ids[-1] == processor.eos_token_id
            parsed = TEMPLATE.parse(processor.decode(answer_ids), episode.query_frame.image_wh)
            assert parsed.is_strict
            assert (parsed.box is None) == (episode.target_box is None) == (index == 5)

    def test_the_prompt_does_not_hold_the_answer(self, examples: SFTExamples, processor: VLMProcessor) -> None:
        prompt, answer_ids = examples[0]
        assert processor.decode(answer_ids) not in processor.tokenizer.decode(prompt.input_ids)
        assert processor.tokenizer.decode(prompt.input_ids).endswith("<|im_start|>assistant\n")

    def test_collate_pads_answers_on_the_right(self, examples: SFTExamples, processor: VLMProcessor) -> None:
        items = [examples[index] for index in (0, 5, 2)]
        batch = examples.collate(items)
        lengths = [len(answer_ids) for _, answer_ids in items]
        assert len(set(lengths)) > 1
        assert batch.answer_ids.shape == batch.answer_mask.shape == (3, max(lengths))
        assert batch.answer_mask.dtype == torch.bool
        for row, (_, answer_ids) in enumerate(items):
            assert batch.answer_ids[row].tolist() == answer_ids + [processor.pad_token_id] * (
                max(lengths) - lengths[row]
            )
            assert batch.answer_mask[row].tolist() == [t < lengths[row] for t in range(max(lengths))]
        assert torch.equal(batch.prompts.input_ids, processor.collate([prompt for prompt, _ in items]).input_ids)

    def test_they_travel_between_processes(self, examples: SFTExamples) -> None:
        assert pickle.loads(pickle.dumps(examples))[5][1] == examples[5][1]


class TestBatches:
    """The order of episodes is a function of the seed, whoever draws them."""

    def batches(self, examples: SFTExamples, **options: Any) -> list[SFTBatch]:
        arguments: dict[str, Any] = {"batch_size": 4, "num_steps": 3, "seed": 1, "num_workers": 0}
        return list(load_batches(examples, **(arguments | options)))

    def assert_equal(self, first: list[SFTBatch], second: list[SFTBatch]) -> None:
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            for name in ("input_ids", "pixel_values", "image_grid_thw", "attention_mask"):
                assert torch.equal(getattr(one.prompts, name), getattr(other.prompts, name)), name
            assert torch.equal(one.answer_ids, other.answer_ids)
            assert torch.equal(one.answer_mask, other.answer_mask)

    def test_workers_do_not_change_them(self, examples: SFTExamples) -> None:
        first = self.batches(examples)
        torch.manual_seed(99)
        self.assert_equal(first, self.batches(examples))
        self.assert_equal(first, self.batches(examples, num_workers=1))

    def test_they_hold_the_episodes_in_shuffled_order(self, examples: SFTExamples) -> None:
        order = shuffled_indices(0, 12, num_episodes=6, seed=1)
        expected = [examples.collate([examples[i] for i in order[s : s + 4]]) for s in (0, 4, 8)]
        self.assert_equal(self.batches(examples), expected)

    def test_the_seed_counts(self, examples: SFTExamples) -> None:
        first, other = (self.batches(examples, seed=seed)[0].prompts.pixel_values for seed in (1, 2))
        assert first.shape != other.shape or not torch.equal(first, other)


def test_the_loss_is_the_mean_over_answer_tokens(model: Any, examples: SFTExamples) -> None:
    items = [examples[index] for index in (5, 0, 1)]
    batch = examples.collate(items)
    with torch.no_grad():
        loss = answer_loss(model, batch, device=torch.device("cpu"))
        rows = [
            score_by_repetition(model, [prompt], torch.tensor([[answer_ids]]))[0].flatten()
            for prompt, answer_ids in items
        ]
    assert loss.item() == pytest.approx(-torch.cat(rows).mean().item(), abs=1e-5)


def test_the_full_loss_is_the_mean_over_all_tokens_but_the_first_of_each(model: Any, examples: SFTExamples) -> None:
    items = [examples[index] for index in (5, 0, 1)]
    rows = []
    with torch.no_grad():
        loss = full_loss(model, examples.collate(items), device=torch.device("cpu"))
        for prompt, answer_ids in items:
            ids = torch.tensor([[*prompt.input_ids, *answer_ids]])
            logits = model(
                input_ids=ids,
                mm_token_type_ids=(ids == model.config.image_token_id).int(),
                pixel_values=torch.tensor(prompt.pixel_values),
                image_grid_thw=torch.tensor(prompt.image_grid_thw),
                use_cache=False,
            ).logits
            rows.append(logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0])
    assert len({len(row) for row in rows}) > 1
    assert loss.item() == pytest.approx(-torch.cat(rows).mean().item(), rel=1e-5)


class TestSteps:
    """A few optimizer steps on one repeated batch."""

    EPISODES = FakeDataset(3, shots=1)

    def steps(self, model: Any, processor: VLMProcessor, **options: Any) -> list[dict[str, float]]:
        settings: dict[str, Any] = {
            "num_steps": 3,
            "batch_size": 3,
            "lr": 1e-3,
            "num_workers": 0,
            "warmup": 0.0,
            "cooldown": 0.4,
        }
        return list(train_steps(model, processor, self.EPISODES, TEMPLATE, SFTConfig(**(settings | options))))

    @pytest.mark.parametrize("labels", ["answer", "full"])
    def test_the_loss_falls_and_every_parameter_changes(self, processor: VLMProcessor, labels: str) -> None:
        model = load_model("tiny")
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        metrics = self.steps(model, processor, labels=labels)
        losses = [m["loss"] for m in metrics]
        assert losses == sorted(losses, reverse=True)
        assert losses[2] < losses[0] - 0.1
        unchanged = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
        assert not unchanged
        assert set(metrics[0]) == {"loss", "lr", "grad_norm"}
        assert all(m["grad_norm"] > 0 for m in metrics)

    def test_the_labels_decide_the_loss(self, processor: VLMProcessor) -> None:
        examples = SFTExamples(self.EPISODES, TEMPLATE, processor)
        collated = examples.collate([examples[i] for i in shuffled_indices(0, 3, num_episodes=3, seed=0)])
        for labels, function in (("answer", answer_loss), ("full", full_loss)):
            expected = function(load_model("tiny"), collated, device=torch.device("cpu")).item()
            metrics = self.steps(load_model("tiny"), processor, num_steps=1, cooldown=1.0, labels=labels)
            assert metrics[0]["loss"] == pytest.approx(expected, rel=1e-5)

    def test_frozen_parameters_stay(self, processor: VLMProcessor) -> None:
        model = load_model("tiny")
        model.model.visual.requires_grad_(False)
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        self.steps(model, processor, num_steps=1, cooldown=1.0)
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, before[name]) == name.startswith("model.visual"), name

    def test_runs_with_one_seed_are_equal(self, processor: VLMProcessor) -> None:
        models = [load_model("tiny"), load_model("tiny")]
        first, second = (self.steps(model, processor, num_steps=2, batch_size=2) for model in models)
        assert first == second
        assert all(torch.equal(*pair) for pair in zip(*(model.parameters() for model in models), strict=True))

    def test_the_learning_rate_is_the_schedules(self, processor: VLMProcessor) -> None:
        settings: dict[str, Any] = {"num_steps": 4, "lr": 2e-3, "warmup": 0.5, "cooldown": 0.25}
        rates = [m["lr"] for m in self.steps(load_model("tiny"), processor, batch_size=1, **settings)]
        assert rates == pytest.approx([2e-3 * lr_factor(step, SFTConfig(**settings)) for step in range(4)])

    @pytest.mark.parametrize(("num_steps", "cooldown"), [(2, 0.0), (2, 0.2)])
    def test_a_cooldown_of_no_step_is_none(self, processor: VLMProcessor, num_steps: int, cooldown: float) -> None:
        """The schedule is asked for one step more than are taken."""
        metrics = self.steps(load_model("tiny"), processor, batch_size=1, num_steps=num_steps, cooldown=cooldown)
        assert [m["lr"] for m in metrics] == [1e-3] * num_steps

    def test_the_gradient_is_clipped(self, processor: VLMProcessor) -> None:
        """Adam undoes a common factor of the gradient, but not against its eps: a tiny norm stops the training."""
        model = load_model("tiny")
        before = [parameter.detach().clone() for parameter in model.parameters()]
        self.steps(model, processor, num_steps=1, cooldown=1.0, grad_clip=1e-12)
        moved = max((p - b).abs().max().item() for p, b in zip(model.parameters(), before, strict=True))
        assert moved < 1e-6


def test_a_whole_run(tmp_path: Path, processor: VLMProcessor) -> None:
    model = load_model("tiny")
    run = RunDirectory.create(tmp_path / "run", {})
    episodes = FakeDataset(3, shots=1)
    summary = train_sft(
        model,
        processor,
        episodes,
        episodes,
        TEMPLATE,
        SFTConfig(num_steps=2, batch_size=2, cooldown=0.5, num_workers=0),
        run,
        num_validation_episodes=10,
        max_completion_tokens=3,
        console=Console(file=io.StringIO()),
    )
    assert summary["num_validation_episodes"] == 3
    assert summary["num_steps"] == 2
    assert [answer.episode_id for answer in run.read_answers("after")] == ["fake/0", "fake/1", "fake/2"]
    (line,) = (run.path / "metrics.jsonl").read_text().splitlines()
    assert set(json.loads(line)) == {"step", "loss", "lr", "grad_norm", "seconds", "examples_per_second"}
    restored = load_model(summary["checkpoint"])
    for (name, parameter), other in zip(model.named_parameters(), restored.parameters(), strict=True):
        assert torch.equal(parameter, other), name
    assert json.loads((run.path / "summary.json").read_text())["miou_end"] == summary["miou_end"]
