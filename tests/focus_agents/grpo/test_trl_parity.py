"""Our losses and advantages against TRL's own code, number by number; skipped where TRL is not installed.

TRL is no dependency. Its trainer's methods run here without its constructor, without a model and without processes:
`trl_batch` lets TRL make a batch out of given completions, rewards and log-probabilities (its advantages, its weights
for the sampler's probabilities, its token count), and `trl_loss` lets it compute that batch's loss, all in float64.

Axis letters: B completions, T completion tokens, N groups, G completions per group.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch

from focus_agents.grpo.advantage import AdvantageScale, group_advantages
from focus_agents.grpo.loss import (
    StepTotals,
    policy_loss,
    rollout_weights,
)
from focus_agents.grpo.settings import GRPOSettings, LossName, RolloutCorrection

TOLERANCE = 1e-12
NUM_COMPLETIONS, NUM_TOKENS = 8, 7
# Valid tokens: different lengths, a completion that is masked in its middle, and two that are masked whole, which make
# up a micro-batch of their own where there are four.
MASK = torch.arange(NUM_TOKENS) < torch.tensor([7, 1, 3, 5, 0, 0, 2, 6])[:, None]
MASK[3, 1] = False
REWARDS: dict[str, list[list[float]]] = {
    "groups of 4": [[0.1, 0.9, 0.5, 0.5], [1.0, 0.0, 0.0, 0.2]],
    "groups of 2": [[0.1, 0.9], [0.4, 0.3], [1.0, 0.0], [0.0, 0.2]],
    "an equal group": [[0.3, 0.3, 0.3, 0.3], [0.9, 0.1, 0.2, 0.9]],
    "nothing but equal groups": [[0.5] * 4, [0.1] * 4],
    "all from one group": [[0.1, 0.9, 0.4, 0.3, 1.0, 0.0, 0.0, 0.2]],
    "nearly equal": [[0.3, 0.3 + 1e-9, 0.3, 0.3], [0.5, 0.5, 0.5 - 1e-6, 0.5]],
}
CLIPS = [(0.2, 0.2), (0.2, 0.28), (0.1, 1.0)]
DELTA = 2.2
CAP = 1.5  # of the weights for the sampler's probabilities
VLLM_MODES = {"token_tis": "token_truncate", "seq_mask": "sequence_mask"}


@pytest.fixture(scope="module")
def trainer_class() -> Any:
    """TRL's trainer, imported only where a test runs: that takes seconds."""
    reason = "TRL is not installed; `pip install trl` to compare with it"
    pytest.importorskip("trl", minversion="1.16", reason=reason)
    return pytest.importorskip("trl.trainer.grpo_trainer", reason=reason).GRPOTrainer


@pytest.fixture
def float64_by_default() -> Iterator[None]:
    """TRL makes SAPO's temperatures and the sampler's log-probabilities in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


# ---- from given log-probabilities to a loss, and from rewards to advantages


@dataclasses.dataclass(frozen=True)
class Logprobs:
    """[B, T] log-probabilities of the same tokens by four policies."""

    policy: torch.Tensor
    old: torch.Tensor
    sampler: torch.Tensor
    reference: torch.Tensor


def draw_logprobs() -> Logprobs:
    """Ratios on both sides of all bounds, of tokens and of completions; see the test of the grid."""
    generator = torch.Generator().manual_seed(0)
    shape = (NUM_COMPLETIONS, NUM_TOKENS)
    old = -3 * torch.rand(shape, generator=generator) - 2.5
    step, mismatch, drift = 0.5 * torch.randn((3, *shape), generator=generator)
    shift = torch.tensor([0.9, -0.4, 0.2, -0.5, 0, 0, 1, 0.05])[:, None]  # moves GSPO's mean ratios out as well
    return Logprobs(policy=old + step + shift, old=old, sampler=old + 0.6 * mismatch, reference=old + drift)


def trl_trainer(
    trainer_class: Any,
    *,
    loss: LossName = "dapo",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    delta: float | None = None,
    beta: float = 0.0,
    correction: RolloutCorrection = "none",
    scale: AdvantageScale = "group",
    num_micro_batches: int = 1,
) -> Any:
    """A trainer of which only what making a batch and its loss read is there.

    Each of its models is its log-probabilities: `model.logprobs` is what the next forward pass returns.
    """
    trainer = object.__new__(trainer_class)
    accelerator = SimpleNamespace(
        device=torch.device("cpu"),
        num_processes=1,
        process_index=0,
        gather=lambda tensor: tensor,
        reduce=lambda tensor, reduction: tensor,
    )
    args = SimpleNamespace(
        delta=delta,
        sapo_temperature_pos=1.0,
        sapo_temperature_neg=1.05,
        use_bias_correction_kl=False,
        steps_per_generation=num_micro_batches,
        gradient_accumulation_steps=num_micro_batches,
        per_device_train_batch_size=NUM_COMPLETIONS,
        gradient_checkpointing_kwargs=None,
    )
    attributes: dict[str, Any] = {
        "accelerator": accelerator,
        "args": args,
        "model": SimpleNamespace(training=True, is_gradient_checkpointing=False, logprobs=None),
        "ref_model": SimpleNamespace(logprobs=None),
        "_get_per_token_logps_and_entropies": lambda model, *_, **__: (
            model.logprobs,
            torch.zeros_like(model.logprobs),  # entropies
            None,
        ),
        "_metrics": {"train": defaultdict(list)},
        "_logs": defaultdict(list) | {"rewards": defaultdict(list), "extra": defaultdict(list)},
        "_pending_extra_logs": {},
        "_pending_metrics": {},
        "_tokenizer": SimpleNamespace(pad_token_id=0),
        "reward_func_names": ["reward"],
        "reward_weights": torch.ones(1),
        # the loss
        "loss_type": "grpo" if loss == "gspo" else loss,
        "importance_sampling_level": "sequence" if loss == "gspo" else "token",
        "epsilon_low": clip_low,
        "epsilon_high": 1 + clip_high if loss == "cispo" else clip_high,
        "beta": beta,
        "max_completion_length": NUM_TOKENS + 3,
        "current_gradient_accumulation_steps": num_micro_batches,
        "num_iterations": 2,  # more than one pass, so that TRL keeps the old log-probabilities
        "scale_rewards": scale,
        "multi_objective_aggregation": "sum_then_normalize",
        "use_vllm": correction != "none",
        "vllm_importance_sampling_correction": True,
        "vllm_importance_sampling_mode": VLLM_MODES.get(correction),
        "vllm_importance_sampling_clip_min": None,
        "vllm_importance_sampling_clip_max": CAP,
        # what we have no counterpart of, switched off
        "aux_loss_enabled": False,
        "environment_factories": None,
        "environments": None,
        "log_multimodal": False,
        "mask_truncated_completions": False,
        "off_policy_mask_threshold": None,
        "pad_to_multiple_of": None,
        "tools": None,
        "top_entropy_quantile": 1.0,
        "_entropy_bonus_enabled": False,
    }
    for name, value in attributes.items():
        setattr(trainer, name, value)
    return trainer


def trl_batch(trainer: Any, logprobs: Logprobs, rewards: np.ndarray[Any, Any]) -> dict[str, torch.Tensor]:
    """The batch that TRL makes of B completions with [N, G] rewards: advantages, weights, masks, number of tokens.

    Every completion fills the T tokens; the mask goes in as that of a tool's answers, which TRL does not train on.
    """
    ids = [[1] * NUM_TOKENS] * NUM_COMPLETIONS
    prompts = [[1]] * NUM_COMPLETIONS
    generated = (prompts, ids, MASK.long().tolist(), ids, logprobs.sampler.tolist(), {}, None, None)
    trainer._generate = lambda _: generated
    trainer._calculate_rewards = lambda *_: torch.tensor(rewards).reshape(-1, 1)
    trainer.num_generations = rewards.shape[1]
    trainer.model.logprobs, trainer.ref_model.logprobs = logprobs.old, logprobs.reference
    return trainer._generate_and_score_completions([{"prompt": "?"}] * NUM_COMPLETIONS)


def trl_loss(
    trainer: Any, batch: Mapping[str, torch.Tensor], logprobs: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """TRL's loss of a batch, and its gradient in the log-probabilities."""
    trainer.model.logprobs = logprobs.clone().requires_grad_()
    loss = trainer._compute_loss(trainer.model, batch)
    return loss.detach(), torch.autograd.grad(loss, trainer.model.logprobs)[0]


def our_loss(
    settings: GRPOSettings,
    logprobs: Logprobs,
    advantages: torch.Tensor,
    weights: torch.Tensor | None,
    rows: slice,
    num_micro_batches: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Our loss of some rows of the same batch, and its gradient in the log-probabilities."""
    policy = logprobs.policy[rows].clone().requires_grad_()
    loss, _ = policy_loss(
        policy,
        logprobs.old[rows],
        advantages[rows],
        MASK[rows],
        settings=settings,
        totals=StepTotals(int(MASK.sum()), NUM_COMPLETIONS, num_micro_batches),
        ref_logprobs=logprobs.reference[rows] if settings.kl_coeff else None,
        rollout_weights=None if weights is None else weights[rows],
    )
    return loss.detach(), torch.autograd.grad(loss, policy)[0]


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, what: str) -> None:
    difference = (ours - theirs).abs().max().item()
    assert difference <= TOLERANCE, f"{what}: {difference}"


@pytest.mark.usefixtures("float64_by_default")
@pytest.mark.parametrize("kl_coeff", [0.0, 0.1])
@pytest.mark.parametrize("correction", get_args(RolloutCorrection))
@pytest.mark.parametrize("name", get_args(LossName))
def test_losses_and_their_gradients(
    trainer_class: Any, name: LossName, correction: RolloutCorrection, kl_coeff: float
) -> None:
    """From the same completions, rewards and log-probabilities, each side with its own advantages and weights."""
    logprobs, rewards = draw_logprobs(), np.array(REWARDS["groups of 4"])
    weights = rollout_weights(logprobs.old, logprobs.sampler, MASK, correction=correction, cap=CAP)
    advantages = torch.tensor(group_advantages(rewards)).flatten()
    deltas = [None] if name in ("cispo", "sapo") else [None, DELTA]
    for (clip_low, clip_high), delta, num_micro_batches in itertools.product(CLIPS, deltas, [1, 4]):
        settings = GRPOSettings(
            loss=name,
            clip_low=clip_low,
            clip_high=clip_high,
            delta=delta,
            kl_coeff=kl_coeff,
            max_completion_tokens=NUM_TOKENS + 3,
        )
        trainer = trl_trainer(
            trainer_class,
            loss=name,
            clip_low=clip_low,
            clip_high=clip_high,
            delta=delta,
            beta=kl_coeff,
            correction=correction,
            num_micro_batches=num_micro_batches,
        )
        batch = trl_batch(trainer, logprobs, rewards)
        if weights is not None:
            assert_same(*(w.masked_fill(~MASK, 0) for w in (weights, batch["importance_sampling_ratio"])), "weights")
        # Both signs and zeros as they come from the rewards, then all good, then all bad
        own = batch["advantages"]
        size = NUM_COMPLETIONS // num_micro_batches
        for signs, ours, theirs in [
            ("both", advantages, own),
            ("good", advantages.abs() + 0.1, own.abs() + 0.1),
            ("bad", -advantages.abs() - 0.1, -own.abs() - 0.1),
        ]:
            for start in range(0, NUM_COMPLETIONS, size):
                rows = slice(start, start + size)
                part = {k: v[rows] if v.ndim else v for k, v in (batch | {"advantages": theirs}).items()}
                loss, gradient = our_loss(settings, logprobs, ours, weights, rows, num_micro_batches)
                expected_loss, expected_gradient = trl_loss(trainer, part, logprobs.policy[rows])
                where = f"{settings}, {signs}, {rows} of {num_micro_batches} micro-batches"
                assert_same(loss, expected_loss, f"loss, {where}")
                assert_same(gradient, expected_gradient, f"gradient, {where}")


@pytest.mark.usefixtures("float64_by_default")
def test_the_grid_reaches_both_sides_of_every_bound() -> None:
    logprobs = draw_logprobs()
    log_ratio = (logprobs.policy - logprobs.old).masked_fill(~MASK, 0)
    tokens = log_ratio[MASK].exp()
    completions = (log_ratio.sum(1) / MASK.sum(1))[MASK.any(1)].exp()
    bounds = {bound for low, high in CLIPS for bound in (1 - low, 1 + high)} | {DELTA}
    for bound, ratios in itertools.product(sorted(bounds), (tokens, completions)):
        assert (ratios < bound).any(), bound
        assert (ratios > bound).any(), bound
    difference = (logprobs.old - logprobs.sampler).masked_fill(~MASK, 0)
    for ratios in (difference[MASK].exp(), difference.sum(1)[MASK.any(1)].exp()):
        assert (ratios < CAP).any()
        assert (ratios > CAP).any()


@pytest.mark.usefixtures("float64_by_default")
@pytest.mark.parametrize("scale", get_args(AdvantageScale))
@pytest.mark.parametrize("rewards", REWARDS.values(), ids=REWARDS)
def test_advantages(trainer_class: Any, rewards: list[list[float]], scale: AdvantageScale) -> None:
    """Both from the rewards alone; an equal group has none on either side."""
    batch = trl_batch(trl_trainer(trainer_class, scale=scale), draw_logprobs(), np.array(rewards))
    ours = group_advantages(np.array(rewards), scale=scale).flatten()
    np.testing.assert_allclose(ours, batch["advantages"].numpy(), rtol=0, atol=TOLERANCE)
