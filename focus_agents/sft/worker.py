"""Run each Ray Train worker: load the model, take the steps, validate, checkpoint, stop.

All workers run `train_worker` side by side on their shares of the same batches. Rank 0 writes the run's folder.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
import torch.distributed
from safetensors.torch import save_file

from focus_agents.errors import CheckpointError, EpisodeError
from focus_agents.models.adapters import base_model
from focus_agents.models.attention import measured_layers
from focus_agents.models.devices import memory_advice
from focus_agents.models.loading import load_processor
from focus_agents.models.sharding import gather, gather_optimizer, is_sharded, shard, whole, whole_weights
from focus_agents.monitoring.recorder import Recorder
from focus_agents.processes.memory import MEMORY, memory_gib
from focus_agents.processes.names import is_actor
from focus_agents.runs.checkpoint import Checkpoints, check_finite, load_training_state, save_training_state
from focus_agents.runs.files import append_json_lines, write_json
from focus_agents.runs.folder import RunDirectory
from focus_agents.runs.scores import validation_metrics
from focus_agents.runs.validations import keep_validation
from focus_agents.sft import notices
from focus_agents.sft.budget import ADVICE, LOADING, TRAINING, VALIDATION
from focus_agents.sft.data import SFTBatch, SFTExamples, load_batches
from focus_agents.sft.heads import Heads, chosen_heads, measured_heads
from focus_agents.sft.model import build_model
from focus_agents.sft.notices import NoticeConsole
from focus_agents.sft.outcome import trained_parameters, whole_policy, write_policies
from focus_agents.sft.plan import SFTPlan
from focus_agents.sft.progress import Progress
from focus_agents.sft.restarts import num_restarts
from focus_agents.sft.step import accumulate_gradients, sum_over_workers
from focus_agents.sft.validation import validate
from focus_env.datasets.order import shuffled_indices
from focus_env.errors import StorageError
from focus_env.files import fresh_file, reason_of
from focus_env.metrics import ScoredAnswer

CHECKPOINT_PREFIX = "step_"
SCORE = "validation_miou"
NOT_VALIDATED = -1.0
"""Score of a checkpoint without a validation: below all others. Not NaN, which Ray Train cannot read back."""
FAILURE_FILE = "failure.json"
logger = logging.getLogger(__name__)
BAD_BATCH_FOLDER = "bad_batch"
SKIPPED_FILE = "skipped_episodes.jsonl"
"""A line for each episode that could not be trained on, with the reason."""


def train_worker(arguments: dict[str, Any]) -> None:
    """Train on this worker's share, from the newest checkpoint if there is one.

    Args:
        arguments: `plan`, an `SFTPlan`, sealed, and `shard_weights`, see `Workers`.
    """
    with memory_advice(ADVICE[LOADING]):  # what its parts run out of says more
        SFTWorker(arguments["plan"].open(), shard_weights=arguments["shard_weights"]).run()


class SFTWorker:
    """One of the processes that train; `run` is the order of things.

    Args:
        plan: What to do; the same for all workers.
        shard_weights: Whether they divide the weights among them; of two workers or more.
    """

    def __init__(self, plan: SFTPlan, *, shard_weights: bool = False) -> None:
        context = ray.train.get_context()
        self.plan, self.config, self.progress = plan, plan.config, Progress()
        self.rank, self.num_workers = context.get_world_rank(), context.get_world_size()
        self.run_directory = RunDirectory(plan.run_path)
        self.num_restarts = num_restarts(plan.run_path)
        self.recorder = Recorder(self.run_directory, NoticeConsole(plan.run_path))
        self.checkpoints = checkpoints_of(self.run_directory)
        self.device = ray.train.torch.get_device()
        if self.device.type == "cpu":
            torch.set_num_threads(max(1, plan.num_threads // context.get_local_world_size()))
        self.pictures = plan.pictures
        self.processor = load_processor(plan.model, max_image_tokens=self.pictures.training)
        self.model = build_model(plan.model, plan.config)
        if shard_weights:
            shard(self.model, self.device)
        else:
            self.model.to(self.device)
        model_config = base_model(self.model).config
        self.layers = measured_layers(plan.config.attention_layers, model_config)
        self.heads: Heads | None = None
        self.examples = SFTExamples(
            plan.training_episodes,
            plan.template,
            self.processor,
            target=plan.config.attention_target,
            contrast=plan.config.attention_contrast,
            max_tokens=model_config.get_text_config().max_position_embeddings,
        )
        self.parameters = trained_parameters(self.model)
        config = plan.config
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=config.lr, betas=(0.9, config.adam_beta2), weight_decay=config.weight_decay
        )
        # DDP wraps the same parameters; validation and checkpoints use the model itself.
        self.training_model = self.model
        if not is_sharded(self.model):
            self.training_model = ray.train.torch.prepare_model(self.model, move_to_device=False)

    def run(self) -> None:
        """Train from the first step, or the newest checkpoint, to the exported policy."""
        answers = self._restore_or_begin()
        try:
            self._train(answers)
        except CheckpointError as error:  # on all workers alike
            self._fail(str(error))

    def _train(self, answers: list[ScoredAnswer] | None) -> None:
        """Take the steps, from where the run stands.

        Raises:
            CheckpointError: If the weights are not finite, before a checkpoint is written; the same on all workers.
        """
        progress = self.progress
        for micro_batches in self._batches():
            started = time.perf_counter()
            self._keep_skipped(micro_batches)
            with memory_advice(ADVICE[TRAINING]):
                metrics = self._step(micro_batches)
            if progress.num_bad_in_a_row >= self.config.max_bad_steps:
                self._give_up(micro_batches)
                return
            if self._is_due(self.plan.schedule.validation_interval) or progress.step == self.config.num_steps:
                answers, measured = self._validate()
                self._keep_validation(answers)
                metrics |= measured
                progress.count_validation(metrics[SCORE])
            self._log(metrics, seconds=time.perf_counter() - started)
            if SCORE in metrics or self._is_due(self.plan.schedule.checkpoint_interval):
                self._checkpoint(metrics)
            if self._is_stale():
                break
        self._finish(answers)

    def _is_due(self, interval: int) -> bool:
        return interval > 0 and self.progress.step % interval == 0

    def _is_stale(self) -> bool:
        return 0 < self.plan.schedule.patience <= self.progress.num_stale

    # ---- where a run begins

    def _restore_or_begin(self) -> list[ScoredAnswer] | None:
        """Load the newest checkpoint that is whole, or answer the validation episodes before the first step.

        Those on the disk count, not those of which Ray Train knows: its own record may have been cut by a kill.
        """
        restored = self.checkpoints.restore(
            lambda folder: load_training_state(folder, self.parameters, self.optimizer), logger.warning
        )
        if restored is None:
            with whole_weights(self.model):
                self.progress.heads = chosen_heads(self.plan, self.model, self.processor, self.layers)
            self.layers, self.heads = measured_heads(self.progress.heads, self.layers)
            answers, measured = self._validate()
            if self.rank == 0:
                self.run_directory.rewind(-1, counter="step")
                self.recorder.answers("before", answers)
                self.recorder.log({"step": 0, **measured})
            return answers
        self.progress = Progress(**restored[1])
        self.layers, self.heads = measured_heads(self.progress.heads, self.layers)
        if self.rank == 0:
            self.run_directory.rewind(self.progress.step, counter="step")
        return None

    def _batches(self) -> Iterator[list[SFTBatch]]:
        """Yield this worker's share of each step that is left."""
        stop = self.progress.step if self._is_stale() else self.config.num_steps
        try:
            yield from load_batches(
                self.examples,
                steps=range(self.progress.step, stop),
                batch_size=self.config.batch_size,
                seed=self.config.seed,
                num_data_workers=self.plan.schedule.num_data_workers,
                micro_batch_size=self.config.micro_batch_size,
                rank=self.rank,
                num_workers=self.num_workers,
                num_one_shot_steps=round(self.config.one_shot * self.config.num_steps),
                warn=self._warn,
            )
        except EpisodeError as error:
            # Raised all the same: the other workers wait for this one's gradients, and Ray Train ends them.
            self._fail(f"training stopped after step {self.progress.step}: {error}")
            raise

    def _keep_skipped(self, micro_batches: Sequence[SFTBatch]) -> None:
        """Keep which episodes others stand in for, and why, for the driver to show."""
        if reasons := [reason for batch in micro_batches for reason in batch.replaces]:
            lines = [{"step": self.progress.step + 1, "reason": reason} for reason in reasons]
            file = self.plan.run_path / SKIPPED_FILE
            self.recorder.attempt(SKIPPED_FILE, lambda: append_json_lines(file, lines))

    # ---- training

    def _step(self, micro_batches: list[SFTBatch]) -> dict[str, float]:
        """Take one optimizer step; one whose loss or gradient is not finite changes nothing and is counted."""
        config, step = self.config, self.progress.step
        torch.manual_seed(int(np.random.SeedSequence([config.seed, step, self.rank]).generate_state(1)[0]))
        lr = config.lr_at(step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.training_model.train()
        self.optimizer.zero_grad(set_to_none=True)
        metrics = accumulate_gradients(
            self.training_model, [batch.to(self.device) for batch in micro_batches], config, self.layers, self.heads
        )
        skipped = torch.tensor(float(sum(len(batch.replaces) for batch in micro_batches)), device=self.device)
        metrics["skipped_episodes"] = float(sum_over_workers(skipped))
        grad_norm = float(whole(torch.nn.utils.clip_grad_norm_(self.parameters.values(), config.grad_clip)))
        # Both are the same on all workers, so all of them decide alike.
        is_finite = math.isfinite(metrics["loss"]) and math.isfinite(grad_norm)
        if is_finite:
            self.optimizer.step()
        self.progress.count_step(is_finite=is_finite)
        return metrics | {"lr": lr, "grad_norm": grad_norm, "skipped_steps": self.progress.num_bad_steps}

    def _give_up(self, micro_batches: Sequence[SFTBatch]) -> None:
        """Save the batch that could not be trained on, and say so where the driver looks."""
        folder = self.plan.run_path / BAD_BATCH_FOLDER
        for number, batch in enumerate(micro_batches):
            file = folder / f"worker{self.rank}_part{number}.safetensors"
            self.recorder.attempt(BAD_BATCH_FOLDER, partial(_keep_batch, file, batch))
        if self.rank == 0:
            step, size = self.progress.step - 1, self.config.batch_size
            indices = shuffled_indices(
                step * size, size, num_episodes=len(self.plan.training_episodes), seed=self.config.seed
            )
            message = (
                f"training stopped at step {step + 1}: expected a finite loss and gradient, got none in "
                f"{self.progress.num_bad_in_a_row} steps in a row; the last batch is in {folder} (episodes {indices}). "
                "Lower `lr` or `grad_clip`, or try `precision` fp32; the last checkpoint is whole"
            )
            self._fail(message)

    def _fail(self, message: str) -> None:
        """Say where the driver looks why the training ends."""
        notices.post(self.plan.run_path, message, key=notices.FAILURE)  # the disk may be full
        with contextlib.suppress(StorageError):
            write_json(self.plan.run_path / FAILURE_FILE, {"message": message})

    def _log(self, metrics: dict[str, float], *, seconds: float) -> None:
        """Append the step to `metrics.jsonl`."""
        if self.rank == 0:
            timing = {"seconds": seconds, "examples_per_second": self.config.batch_size / seconds}
            self.recorder.log({"step": self.progress.step, **metrics, **timing, **self._process_metrics()})

    def _process_metrics(self) -> dict[str, float]:
        """Return the restarts so far, if this process can be restarted, and its resident memory."""
        role, restarts = ("workers", {"worker_restarts": self.num_restarts}) if is_actor() else ("driver", {})
        return {**restarts, **dict.fromkeys((MEMORY, f"{MEMORY}/{role}"), memory_gib())}

    # ---- validation, checkpoints, export

    def _validate(self) -> tuple[list[ScoredAnswer], dict[str, float]]:
        """Answer the validation episodes, dealt to the workers; returns all answers, and what is logged of them."""
        started = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)  # those of the last step have had their effect
        with memory_advice(ADVICE[VALIDATION]), whole_weights(self.model):
            answers = validate(self.plan, self.model, self.processor, rank=self.rank, num_workers=self.num_workers)
        return answers, {**validation_metrics(answers), "seconds_validating": time.perf_counter() - started}

    def _keep_validation(self, answers: Sequence[ScoredAnswer]) -> None:
        """Keep the answers of a validation, for the driver to draw."""
        if self.rank == 0:
            path, step = self.plan.run_path, self.progress.step
            self.recorder.attempt("validation answers", lambda: keep_validation(path, "step", step, answers))

    def _checkpoint(self, metrics: dict[str, float]) -> None:
        """Keep the state, with the newest before it and the best by validation mean IoU; Ray Train gets the metrics.

        Ray Train would copy a checkpoint from elsewhere, file by file, and keep a record beside it that ends the run
        where the disk is full. Here it is whole or not there.
        """
        step = self.progress.step
        check_finite(self.parameters, what=f"checkpoint {self.checkpoints.path(step)}")
        parameters: Mapping[str, torch.Tensor] = self.parameters
        optimizer: torch.optim.Optimizer | Mapping[str, Any] = self.optimizer
        if is_sharded(self.model):  # as a whole, so that any number of workers can go on from it
            parameters = gather(self.parameters, keeps=self.rank == 0)
            optimizer = gather_optimizer(self.optimizer, keeps=self.rank == 0)

        def write() -> None:
            with self.checkpoints.write(step, best=self.progress.best_step) as folder:
                folder.mkdir()
                save_training_state(folder, parameters, optimizer, asdict(self.progress))

        if self.rank == 0:
            self.recorder.checkpoint(f"step {step}", write, kept=self.checkpoints.describe_kept())
        ray.train.report({SCORE: NOT_VALIDATED, **metrics})

    def _finish(self, answers: list[ScoredAnswer] | None) -> None:
        """Write the answers after training, and the last and the best policy in transformers' format."""
        answers = answers or self._validate()[0]
        check_finite(self.parameters, what=f"policy {self.run_directory.checkpoints / 'final'}")
        model = self.model
        if is_sharded(model):
            weights = gather(self.parameters, keeps=self.rank == 0)
            model = whole_policy(self.plan, weights) if self.rank == 0 else None
        if self.rank > 0:
            return
        best = self.checkpoints.path(self.progress.best_step)
        is_other = self.progress.best_step != self.progress.step and best.is_dir()
        try:
            self.run_directory.write_answers("after", answers)
            write_policies(self.plan, model, self.processor, best=best if is_other else None, warn=self._warn)
        except StorageError as error:  # new workers would meet the same
            message = f"all steps are done, but the outcome could not be written ({reason_of(error)})"
            notices.post(self.plan.run_path, message, key=notices.FULL)

    def _warn(self, text: str) -> None:
        notices.post(self.plan.run_path, f"warning: {text}")


def _keep_batch(file: Path, batch: SFTBatch) -> None:
    file.parent.mkdir(exist_ok=True)
    with fresh_file(file) as scratch:
        save_file(batch.tensors(), scratch)


def checkpoints_of(run: RunDirectory) -> Checkpoints:
    """Return the states that a run of stage 1 can go on from."""
    return Checkpoints(run.checkpoints, CHECKPOINT_PREFIX)
