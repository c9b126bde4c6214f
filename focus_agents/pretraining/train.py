"""The pretraining loop: draw a batch, predict the answers, step; checkpoints on the way, scores at the end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from focus_agents.engine.forward import image_inputs
from focus_agents.engine.hidden_states import seen_states
from focus_agents.models.adapters import base_model, model_parts
from focus_agents.models.inputs import IGNORED
from focus_agents.models.loading import SMALL, check_model, load_config, load_processor, load_trainable_model
from focus_agents.models.loading.sources import find_source
from focus_agents.monitoring.alarms import Watcher
from focus_agents.monitoring.curves import Facts
from focus_agents.monitoring.recorder import Recorder
from focus_agents.monitoring.report import ReportSink
from focus_agents.pretraining.data import DocumentBatch, PretrainingBatches, name_tokens, number_values
from focus_agents.pretraining.heads import PREFIX, name_loss, new_heads
from focus_agents.pretraining.settings import PretrainingConfig
from focus_agents.probing.probe import probe_model
from focus_agents.probing.settings import ProbeSettings
from focus_agents.processes.loader import drawn_ahead
from focus_agents.runs.checkpoint import (
    Checkpoints,
    check_finite,
    load_training_state,
    save_policy,
    save_training_state,
)
from focus_agents.runs.folder import CONFIG_FILE, RunDirectory
from focus_agents.runs.progress import Pace, progress_bar
from focus_agents.runs.starts import noting_a_stop
from focus_agents.runs.terminal import PlainConsole, fitted, width_of
from focus_env.boxes import iou
from focus_env.datasets.synthetic.paints import Split
from focus_env.prompts import PromptTemplate

CHECKPOINT_PREFIX = "step_"
LINE_INTERVAL = 50
NUM_SCORING_BATCHES = 32
SCORING_STEP = 10**6
"""Far beyond any training, so that its pictures are new in every way."""
SCORES = ("lm_loss", "box_iou", "name_accuracy")
SHOWN = (*SCORES, "name_head_accuracy")
"""Metrics of a printed line, those of them that there are."""


def check_start(config: PretrainingConfig) -> None:
    """Check the model to start from, but for its weights, and that it has the layer that heads are to read.

    Raises:
        ValueError: If it is of another kind, or has too few layers.
        CheckpointError: If there is no such model.
    """
    source = config.init_from or SMALL
    has_its_tokens = check_model(source).tokenizer.get_vocab() == load_processor(SMALL).tokenizer.get_vocab()
    if not has_its_tokens or find_source(source).adapter is not None:
        raise ValueError(
            f"init_from: expected whole weights with the tokens of the small model, such as focus-small-base or "
            f"checkpoints/final of an earlier pretraining, got {config.init_from}"
        )
    num_layers = load_config(source).get_text_config().num_hidden_layers
    if config.name_weight > 0 and config.name_layer > num_layers:
        raise ValueError(
            f"name_layer: expected a number from 1 to {num_layers}, the model's layers, got {config.name_layer}"
        )


class Pretraining:
    """One run; `run` is the order of things.

    Args:
        directory: The run's folder.
        config: Settings.
        template: Writes boxes.
        probe: The linear probe of the model at the end; None: it is not probed.
    """

    def __init__(
        self,
        directory: RunDirectory,
        config: PretrainingConfig,
        template: PromptTemplate,
        *,
        probe: ProbeSettings | None = None,
    ) -> None:
        self.directory, self.config, self.template, self.probe = directory, config, template, probe
        self.checkpoints = Checkpoints(directory.checkpoints, CHECKPOINT_PREFIX, num_kept=1)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.processor = load_processor(SMALL)
        self.model = load_trainable_model(config.init_from or SMALL, seed=config.seed).to(self.device)
        self.parameters: dict[str, torch.nn.Parameter] = dict(self.model.named_parameters())
        self.heads: torch.nn.Linear | None = None
        if config.name_weight > 0:
            hidden_size = base_model(self.model).config.get_text_config().hidden_size
            self.heads = new_heads(hidden_size, seed=config.seed).to(self.device)
            self.parameters |= {f"{PREFIX}{name}": weight for name, weight in self.heads.named_parameters()}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=config.lr, betas=(0.9, 0.98), weight_decay=config.weight_decay
        )
        self.number_values = number_values(self.processor).to(self.device)
        self.is_name = name_tokens(self.processor).to(self.device)

    def run(self, console: Console) -> dict[str, Any]:
        """Train from the first step, or the newest checkpoint, to the exported model.

        Returns:
            The summary, as written to `summary.json`.

        Raises:
            CheckpointError: If the checkpoint is damaged, or weights are not finite.
            StorageError: If the outcome cannot be written; of a log or a checkpoint it is told only.
        """
        started = time.perf_counter()
        num_steps, first = self.config.num_steps, self._restore(console)
        window: list[dict[str, float]] = []
        watcher = Watcher(self.directory, console, Facts(num_steps, "step"))
        recorder = Recorder(self.directory, console, [watcher, ReportSink(self.directory.path)])
        pace = Pace(first, num_steps, console, from_first=True)
        bar = progress_bar("pretraining", num_steps, console, first=first, pace=pace, has_lines=True)
        with contextlib.closing(recorder), noting_a_stop(self.directory.path / CONFIG_FILE), bar as move_to:
            for step, batch in zip(range(first, num_steps), self._batches(range(first, num_steps)), strict=True):
                step_started = time.perf_counter()
                metrics = self._step(step, batch)
                recorder.log({"step": step + 1, **metrics, "seconds": time.perf_counter() - step_started})
                window.append(metrics)
                move_to(step + 1)
                left = pace.left(step + 1)
                if (step + 1) % LINE_INTERVAL == 0:
                    found = {name: [m[name] for m in window if name in m] for name in SHOWN}
                    shown = {name: np.mean(values) for name, values in found.items() if values}
                    parts = [(rank, f"  {name} {value:.3f}") for rank, (name, value) in enumerate(shown.items(), 1)]
                    line = fitted([(0, f"{step + 1:>6}"), *parts, (0, left)], width_of(console))
                    console.print(line, highlight=False)
                    window = []
                if (step + 1) % self.config.checkpoint_interval == 0:
                    kept = self.checkpoints.describe_kept()
                    recorder.checkpoint(f"step {step + 1}", partial(self._checkpoint, step + 1), kept=kept)
            final = self.directory.checkpoints / "final"
            check_finite(self.parameters, what=f"policy {final}")
            save_policy(final, self.model, self.processor, template=self.template)
            summary: dict[str, Any] = dict(self.score())
            if self.probe is not None:
                console.print("the linear probe reads hidden states", highlight=False)
                summary["probe"] = probe_model(self.model, self.processor, self.template, self.probe).as_dict()
            summary |= {"warnings": watcher.kept(), "seconds": time.perf_counter() - started}
            return self.directory.write_summary(summary)

    def score(self) -> dict[str, float]:
        """Return means over pictures of identities that were never trained on, in the last stage of the curriculum."""
        self.model.eval()
        steps = range(SCORING_STEP, SCORING_STEP + NUM_SCORING_BATCHES)
        with torch.no_grad():
            scores = [self._answer(batch)[1] for batch in self._batches(steps, split="val")]
        return {name: float(np.mean([s[name] for s in scores])) for name in SCORES}

    def _batches(self, steps: range, *, split: Split = "train") -> Iterator[DocumentBatch]:
        """Return the batches of these steps, drawn ahead by another process."""
        dataset = PretrainingBatches(
            self.processor,
            self.template,
            seed=self.config.seed,
            split=split,
            is_further=self.config.init_from is not None,
            finds_boxes=self.heads is not None and split == "train",
        )
        return drawn_ahead(dataset, num_processes=1, sampler=steps)

    def _step(self, step: int, batch: DocumentBatch) -> dict[str, float]:
        """Take one optimizer step."""
        lr = self.config.lr_at(step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        loss, scores = self._answer(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        grad_norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.config.grad_clip)
        self.optimizer.step()
        return scores | {"lr": lr, "grad_norm": float(grad_norm)}

    def _answer(self, batch: DocumentBatch) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the loss, with gradient, and what the likeliest answers are worth with the truth before each token."""
        prompts, labels = batch.prompts.to(self.device), batch.labels[:, 1:].to(self.device)
        parts = model_parts(self.model)
        states: dict[int, torch.Tensor] = {}
        has_heads = self.heads is not None and batch.boxes is not None
        watched = seen_states(self.model, states.__setitem__) if has_heads else contextlib.nullcontext()
        with torch.autocast(self.device.type, torch.bfloat16), watched:
            hidden = parts.backbone(
                input_ids=prompts.input_ids,
                attention_mask=prompts.attention_mask,
                use_cache=False,
                **image_inputs(self.model, prompts),
            ).last_hidden_state
            logits = parts.head(hidden[:, :-1][labels != IGNORED]).float()
        targets = labels[labels != IGNORED]
        loss = torch.nn.functional.cross_entropy(logits, targets)
        guesses = logits.detach().argmax(-1)
        is_number, is_name = self.number_values[targets] >= 0, self.is_name[targets]
        values = torch.where(self.number_values < 0, torch.nan, self.number_values.float())
        answered, true = (values[ids[is_number]].view(-1, 4).cpu() for ids in (guesses, targets))
        scores = {
            "lm_loss": float(loss.detach()),
            "box_iou": float(iou(answered, true).mean()),
            "name_accuracy": float((guesses == targets)[is_name].float().mean()),
        }
        if self.heads is not None and batch.boxes is not None:
            by_heads, more = name_loss(self.heads, states[self.config.name_layer], batch.boxes.to(self.device))
            loss, scores = loss + self.config.name_weight * by_heads, scores | more
        return loss, scores

    def _restore(self, console: Console | None = None) -> int:
        """Load the newest checkpoint, if there is one; the steps behind it."""

        def load(folder: Path) -> int:
            return int(load_training_state(folder, self.parameters, self.optimizer)["step"])

        warn = (console or PlainConsole()).print
        restored = self.checkpoints.restore(load, lambda message: warn(f"warning: {message}", style="yellow"))
        step = 0 if restored is None else restored[1]
        self.directory.rewind(step, counter="step")
        return step

    def _checkpoint(self, step: int) -> None:
        """Write a checkpoint, which is whole once it has its name, and drop the one before it."""
        with self.checkpoints.write(step) as folder:
            folder.mkdir()
            save_training_state(folder, self.parameters, self.optimizer, {"step": step})
