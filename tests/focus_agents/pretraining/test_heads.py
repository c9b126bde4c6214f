"""Throw-away heads that tell a name at a box's last number: what they see, what they change, and that they go."""

from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from focus_agents.engine.forward import image_inputs
from focus_agents.errors import CheckpointError
from focus_agents.models.inputs import IGNORED
from focus_agents.models.loading import (
    SMALL,
    WEIGHTS,
    load_model,
    load_processor,
    load_template,
    load_trainable_model,
)
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.small import VOCAB_SIZE
from focus_agents.pretraining import train
from focus_agents.pretraining.data import (
    CURRICULUM,
    SCENES,
    AskedBoxes,
    DocumentBatch,
    PretrainingBatches,
    draw_document,
    encode_documents,
)
from focus_agents.pretraining.heads import PREFIX, name_loss, new_heads
from focus_agents.pretraining.settings import PretrainingConfig
from focus_agents.pretraining.train import Pretraining, check_start
from focus_agents.runs.checkpoint import save_policy
from focus_agents.runs.folder import RunDirectory
from focus_agents.runs.metrics import METRICS

TEMPLATE = load_template(SMALL)
PLAIN = PretrainingConfig(num_steps=3, lr=1e-3, warmup=0.4, checkpoint_interval=2, seed=1)
WITH_HEADS = dataclasses.replace(PLAIN, name_weight=1.0)
QUESTION = re.compile(r"What is at \[(?:\d+, ){3}(\d+)\]\? Answer:([a-z]+)")


def start(folder: Path, config: PretrainingConfig = WITH_HEADS) -> Pretraining:
    return Pretraining(RunDirectory.create(folder, dataclasses.asdict(config)), config, TEMPLATE)


@pytest.fixture
def batch(processor: VLMProcessor) -> DocumentBatch:
    """Documents of two, one and four pictures, so that two of them are padded."""
    rng = np.random.default_rng(0)
    documents = [
        draw_document(rng, CURRICULUM[number], SCENES, split="train", template=TEMPLATE, size=64)
        for number in (2, 0, 3, 0)
    ]
    batch = encode_documents(processor, documents, finds_boxes=True)
    assert not batch.prompts.attention_mask.all()
    return batch


def asked(batch: DocumentBatch) -> AskedBoxes:
    assert batch.boxes is not None
    return batch.boxes


class TestBoxes:
    """The boxes that are asked about."""

    def test_each_ends_with_its_last_number(self, processor: VLMProcessor, batch: DocumentBatch) -> None:
        """Padding on the left included; by the text before and behind the token."""
        boxes = asked(batch)
        texts = [
            [processor.decode([token]) for token in ids if token != processor.pad_token_id]
            for ids in batch.prompts.input_ids.tolist()
        ]
        expected = [found for text in texts for found in QUESTION.findall("".join(text))]
        assert len(boxes.ends) == len(expected) > 5
        assert sorted(set(boxes.rows.tolist())) == boxes.rows.unique_consecutive().tolist()
        ids = batch.prompts.input_ids
        words = processor.tokenizer.convert_ids_to_tokens(boxes.names[:, 0].tolist())
        found = [processor.decode([token]) for token in ids[boxes.rows, boxes.ends].tolist()]
        assert found == [number for number, _ in expected]
        assert {processor.decode([token])[0] for token in ids[boxes.rows, boxes.ends + 1].tolist()} == {"]"}
        assert all(answer.startswith(word.strip()) for word, (_, answer) in zip(words, expected, strict=True))

    def test_names_are_the_answers(self, processor: VLMProcessor, batch: DocumentBatch) -> None:
        """The four labels behind the cue that follows the box."""
        cue = processor.tokenizer.convert_tokens_to_ids("Answer:")
        boxes = asked(batch)
        for row, end, name in zip(boxes.rows.tolist(), boxes.ends.tolist(), boxes.names.tolist(), strict=True):
            at = end + int((batch.prompts.input_ids[row, end:] == cue).nonzero()[0, 0])
            assert batch.labels[row, at + 1 : at + 6].tolist() == [*name, processor.eos_token_id]
            assert (batch.labels[row, end : at + 1] == IGNORED).all()

    def test_nobody_looks_for_them_without_need(self, processor: VLMProcessor, tiny_curriculum: None) -> None:
        plain = PretrainingBatches(processor, TEMPLATE, seed=1)[5]
        assert plain.boxes is None


def planted(boxes: AskedBoxes, shape: torch.Size, *, shift: int = 0) -> tuple[torch.nn.Linear, torch.Tensor]:
    """Heads that read a code for each word, and states that hold the codes of a name at its box's last number."""
    codes = torch.randn(VOCAB_SIZE, 32, generator=torch.Generator().manual_seed(0))
    heads = new_heads(128, seed=0)
    with torch.no_grad():
        heads.bias.zero_()
        heads.weight.copy_(torch.block_diag(codes, codes, codes, codes))
    states = torch.zeros(*shape, 128)
    states[boxes.rows, boxes.ends + shift] = codes[boxes.names].flatten(1)
    return heads, states


class TestLoss:
    """What the heads make of hidden states."""

    def test_they_see_the_last_number_and_no_token_beside_it(self, batch: DocumentBatch) -> None:
        boxes, shape = asked(batch), batch.labels.shape
        loss, scores = name_loss(*planted(boxes, shape), boxes)
        assert scores["name_head_accuracy"] == 1.0
        assert loss.item() == pytest.approx(scores["name_head_loss"])
        for shift in (-1, 1):
            _, beside = name_loss(*planted(boxes, shape, shift=shift), boxes)
            assert beside["name_head_accuracy"] < 0.1

    def test_the_gradient_reaches_these_states_alone(self, batch: DocumentBatch) -> None:
        boxes = asked(batch)
        states = torch.randn(*batch.labels.shape, 128, requires_grad=True)
        name_loss(new_heads(128, seed=0), states, boxes)[0].backward()
        assert states.grad is not None
        reached = {tuple(place) for place in states.grad.abs().sum(-1).nonzero().tolist()}
        assert reached == set(zip(boxes.rows.tolist(), boxes.ends.tolist(), strict=True))

    def test_a_batch_without_such_a_question_adds_nothing(self) -> None:
        none = torch.zeros(0, dtype=torch.int64)
        loss, scores = name_loss(new_heads(8, seed=0), torch.randn(2, 5, 8), AskedBoxes(none, none, none.view(0, 4)))
        assert (float(loss), scores) == (0.0, {})

    def test_new_heads_are_a_function_of_the_seed(self) -> None:
        torch.manual_seed(5)
        before = torch.get_rng_state()
        first, second, other = (new_heads(8, seed=seed) for seed in (0, 0, 1))
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(first.weight, second.weight)
        assert not torch.equal(first.weight, other.weight)


@pytest.mark.usefixtures("tiny_curriculum")
class TestTraining:
    """Runs with heads, and without."""

    @pytest.mark.parametrize("layer", [1, 3, 5])
    def test_they_read_the_state_behind_their_layer(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: DocumentBatch, layer: int
    ) -> None:
        run = start(tmp_path / "run", dataclasses.replace(WITH_HEADS, name_layer=layer))
        seen: list[torch.Tensor] = []

        def spy(heads: torch.nn.Linear, states: torch.Tensor, boxes: AskedBoxes) -> Any:
            seen.append(states)
            return name_loss(heads, states, boxes)

        monkeypatch.setattr(train, "name_loss", spy)
        loss, scores = run._answer(batch)
        kept: list[torch.Tensor] = []
        hook = run.model.model.language_model.layers[layer - 1].register_forward_hook(
            lambda module, args, output: kept.append(output)
        )
        lm_loss, _ = run._answer(dataclasses.replace(batch, boxes=None))
        hook.remove()
        assert torch.equal(seen[0], kept[0])
        assert float(loss) == pytest.approx(float(lm_loss) + scores["name_head_loss"])
        assert scores["lm_loss"] == float(lm_loss)

    def test_a_step_without_heads_is_what_it_was(self, tmp_path: Path, processor: VLMProcessor) -> None:
        """To the bit, against a training loop written out: the labels' likelihood, AdamW, a clipped gradient."""
        run = start(tmp_path / "run", PLAIN)
        twin = load_trainable_model(SMALL, seed=PLAIN.seed)
        optimizer = torch.optim.AdamW(twin.parameters(), lr=PLAIN.lr, betas=(0.9, 0.98), weight_decay=0.01)
        batches = PretrainingBatches(processor, TEMPLATE, seed=PLAIN.seed)
        for step in range(2):
            batch = batches[step]
            optimizer.param_groups[0]["lr"] = PLAIN.lr_at(step)
            optimizer.zero_grad()
            labels = batch.labels[:, 1:]
            with torch.autocast("cpu", torch.bfloat16):
                hidden = twin.model(
                    input_ids=batch.prompts.input_ids,
                    attention_mask=batch.prompts.attention_mask,
                    use_cache=False,
                    **image_inputs(twin, batch.prompts),
                ).last_hidden_state
                logits = twin.lm_head(hidden[:, :-1][labels != IGNORED]).float()
            torch.nn.functional.cross_entropy(logits, labels[labels != IGNORED]).backward()
            torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
            optimizer.step()
            metrics = run._step(step, batch)
        assert set(metrics) == {"lm_loss", "box_iou", "name_accuracy", "lr", "grad_norm"}
        weights = zip(run.model.parameters(), twin.parameters(), strict=True)
        assert all(torch.equal(ours, theirs) for ours, theirs in weights)

    def test_heads_are_learned_and_teach_the_model(self, tmp_path: Path, batch: DocumentBatch) -> None:
        """On one batch over and over; the model's own weights move otherwise than without heads."""
        config = dataclasses.replace(WITH_HEADS, lr=3e-3, warmup=0, cooldown=0.0)
        run = start(tmp_path / "run", config)
        plain = start(tmp_path / "plain", dataclasses.replace(config, name_weight=0.0))
        plain._step(0, batch)
        losses = [run._step(0, batch)["name_head_loss"]]
        assert not torch.equal(run.model.lm_head.weight, plain.model.lm_head.weight)
        losses += [run._step(0, batch)["name_head_loss"] for _ in range(5)]
        assert losses[-1] < losses[0] / 2

    def test_killed_and_resumed_it_is_the_same_run_and_no_head_is_saved(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        straight = start(tmp_path / "straight")
        summary = straight.run(Console(file=io.StringIO()))
        original = Pretraining._step

        def strike(self: Pretraining, step: int, batch: DocumentBatch) -> dict[str, float]:
            if step == 2:
                raise KeyboardInterrupt
            return original(self, step, batch)

        killed = start(tmp_path / "killed")
        with monkeypatch.context() as patch:
            patch.setattr(Pretraining, "_step", strike)
            with pytest.raises(KeyboardInterrupt):
                killed.run(Console(file=io.StringIO()))
        resumed = Pretraining(RunDirectory(tmp_path / "killed"), WITH_HEADS, TEMPLATE)
        again = resumed.run(Console(file=io.StringIO()))
        assert again["lm_loss"] == summary["lm_loss"]
        assert straight.heads is not None
        assert resumed.heads is not None
        assert torch.equal(straight.heads.weight, resumed.heads.weight)
        files = [tmp_path / name / "checkpoints/final/model.safetensors" for name in ("straight", "killed")]
        weights, others = map(load_file, files)
        assert all(torch.equal(value, others[name]) for name, value in weights.items())
        logged = [run.directory.read_metrics() for run in (straight, resumed)]
        assert [line["name_head_loss"] for line in logged[0]] == [line["name_head_loss"] for line in logged[1]]
        assert {"name_head_loss", "name_head_accuracy"} <= set(logged[0][0]) <= set(METRICS)

        state = load_file(tmp_path / "straight/checkpoints/step_000002/parameters.safetensors")
        assert [name for name in state if name.startswith(PREFIX)] == [f"{PREFIX}bias", f"{PREFIX}weight"]
        assert not [name for name in weights if "head" in name and name != "lm_head.weight"]
        assert weights.keys() == load_file(WEIGHTS / "focus-small-base/model.safetensors").keys()
        assert load_model(str(files[0].parent)).state_dict().keys() == straight.model.state_dict().keys()


@pytest.mark.usefixtures("tiny_curriculum")
class TestFurther:
    """Pretraining that starts from a model."""

    def test_it_starts_from_the_models_weights(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """And with documents of the further curriculum, from the first step on."""
        config = dataclasses.replace(PLAIN, init_from="focus-small-base")
        check_start(config)
        run = start(tmp_path / "run", config)
        expected = load_model("focus-small-base").state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in run.model.state_dict().items())
        (first, *_) = run._batches(range(1))
        straight = PretrainingBatches(run.processor, TEMPLATE, seed=PLAIN.seed)
        further = PretrainingBatches(run.processor, TEMPLATE, seed=PLAIN.seed, is_further=True)
        assert torch.equal(first.prompts.input_ids, further[0].prompts.input_ids)
        assert first.prompts.input_ids.shape != straight[0].prompts.input_ids.shape

    def test_its_own_outcome_can_be_gone_on_with(self, tmp_path: Path) -> None:
        model = load_model(SMALL, seed=3)
        folder = save_policy(tmp_path / "final", model, load_processor(SMALL), template=TEMPLATE)
        config = dataclasses.replace(PLAIN, init_from=str(folder))
        check_start(config)
        assert torch.equal(start(tmp_path / "run", config).model.lm_head.weight, model.lm_head.weight)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"init_from": "tiny"}, "init_from: expected whole weights with the tokens of the small model, such as"),
            ({"name_layer": 6}, "name_layer: expected a number from 1 to 5, the model's layers, got 6"),
        ],
    )
    def test_another_kind_of_model_is_refused(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            check_start(dataclasses.replace(WITH_HEADS, **change))

    def test_a_model_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="nowhere"):
            check_start(dataclasses.replace(PLAIN, init_from=str(tmp_path / "nowhere")))


def test_the_layer_does_not_matter_without_heads() -> None:
    check_start(dataclasses.replace(PLAIN, name_layer=9))
