"""Check that both sides of a case do the same work; each check raises AssertionError where they do not."""

from __future__ import annotations

import math
from collections.abc import Callable
from unittest import mock

import torch

from benchmarks.step.cases import CaseName
from benchmarks.step.setup import SEED, Setup
from benchmarks.step.sides import generate, learn, reward_texts, sample
from benchmarks.step.trl_learning import trl_learners
from benchmarks.step.trl_side import KeepGradients, trl_trainer
from focus_agents.engine.forward import prefill
from focus_agents.grpo.advantage import group_advantages
from focus_agents.models.attention import set_focus_attention

TOLERANCE = 1e-5
"""Of log-probabilities and gradients, relative to the norm of all."""
ADVANTAGE_TOLERANCE = 1e-5
"""Of advantages, absolute; TRL computes them in float32."""


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Norm of the difference over the norm of the other."""
    return float((one - other).norm() / other.norm())


def check_same_answers(setup: Setup) -> None:
    """Check that our sampler and transformers' draw the same tokens, by likelihood and by chance."""
    prompts = setup.collate(setup.encode())
    answers = {}
    for is_greedy in (True, False):
        setup.use_stock_attention()
        peer = generate(setup, prompts, is_greedy=is_greedy)
        ours = sample(setup, prompts, temperature=0.0 if is_greedy else 1.0)
        how = "greedy" if is_greedy else "sampled"
        same = peer.expand(-1, ours.shape[1], -1)
        assert ours.tolist() == same.tolist(), f"{how} answers: {ours.tolist()}, generate {peer.tolist()}"
        answers[how] = ours
    assert len(torch.unique(answers["sampled"], dim=1)[0]) > 1, "sampled answers: all the same, which shows nothing"


def random_answers(setup: Setup) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ([N, G, T] tokens, each a byte; [N, G] advantages), to learn from."""
    generator = torch.Generator().manual_seed(SEED)
    size = setup.size
    token_ids = torch.randint(256, (len(setup.messages), size.group_size, size.answer_tokens), generator=generator)
    advantages = torch.randn(len(setup.messages), size.group_size, generator=generator)
    return token_ids.to(setup.device), advantages.to(setup.device)


def check_same_learning(setup: Setup) -> float:
    """Shared, fused and repeated prompts give equal log-probabilities and gradients; returns the gap of gradients."""
    prompts = setup.collate(setup.encode())
    token_ids, advantages = random_answers(setup)
    setup.use_stock_attention()
    _, peer_logprobs = learn(setup, prompts, token_ids, advantages, shared_prefix=False)
    peer = setup.take_gradients()
    gaps = []
    for name in ("shared", "fused"):
        set_focus_attention(setup.model)
        prefix = prefill(setup.model, prompts) if name == "fused" else None
        if prefix is not None:
            sample(setup, prompts, prefix=prefix)  # which is to leave the prefix as it was
        _, logprobs = learn(setup, prompts, token_ids, advantages, prefix=prefix)
        gaps.append(difference(setup.take_gradients(), peer))
        for what, gap in (("log-probabilities", difference(logprobs, peer_logprobs)), ("gradients", gaps[-1])):
            assert gap <= TOLERANCE, f"{what}: {name} and repeated prompts differ by {gap:.1e} of their norm"
    return max(gaps)


def check_same_without_silent(setup: Setup) -> float:
    """Check that a group without signal adds nothing to the gradients, and return the gap."""
    encoded = setup.encode()
    token_ids, advantages = random_answers(setup)
    advantages[1:] = 0.0
    learn(setup, setup.collate(encoded), token_ids, advantages)
    peer = setup.take_gradients()
    learn(setup, setup.collate(encoded[:1]), token_ids[:1], advantages[:1], num_groups=len(encoded))
    gap = difference(setup.take_gradients(), peer)
    assert gap <= TOLERANCE, f"gradients: with and without groups that have no signal, they differ by {gap:.1e}"
    return gap


def check_same_as_trl(setup: Setup) -> float:
    """Check that our code has TRL's gradients, from its prompts, answers and advantages; returns the gap."""
    kept = KeepGradients(setup)
    setup.use_stock_attention()
    with (
        trl_trainer(setup, 1, kept, learning_rate=0.0, max_grad_norm=0.0) as trainer,
        mock.patch.object(trainer, "_compute_loss", wraps=trainer._compute_loss) as spy,
    ):
        peer_loss = trainer.train().training_loss
    inputs = spy.call_args.args[1]
    prompts = setup.collate(setup.encode())
    repeated = prompts.repeat(setup.size.group_size)
    for name, ours in (("prompt_ids", repeated.input_ids), ("pixel_values", repeated.images["pixel_values"])):
        assert torch.equal(ours, inputs[name].to(ours)), f"{name}: TRL has others"
    shape = len(setup.messages), setup.size.group_size, setup.size.answer_tokens
    assert bool(inputs["completion_mask"].all()), "completions: expected none of TRL's to end before the limit"
    token_ids = inputs["completion_ids"].view(shape)
    advantages = inputs["advantages"].view(shape[:2])
    ours = torch.from_numpy(group_advantages(reward_texts(setup, token_ids))).to(advantages)
    gap = float((ours - advantages).abs().max())
    assert gap <= ADVANTAGE_TOLERANCE, f"advantages: ours and TRL's differ by {gap:.1e}"
    loss, _ = learn(setup, prompts, token_ids, advantages)
    # Advantages sum to 0 and so does the loss of the policy that sampled.
    assert math.isclose(loss, peer_loss, abs_tol=ADVANTAGE_TOLERANCE), f"loss: ours {loss}, TRL's {peer_loss}"
    gap = difference(setup.take_gradients(), kept.gradients)
    assert gap <= TOLERANCE, f"gradients: ours and TRL's differ by {gap:.1e} of their norm"
    return gap


def check_same_trainers(setup: Setup) -> float:
    """Check that our subclass of TRL's trainer has TRL's loss and gradients; returns the gap of gradients."""
    setups = {"ours": setup, "peer": Setup.build(setup.size, device=setup.device, num_prompts=len(setup.messages))}
    losses, gradients = {}, {}
    with trl_learners(setups) as prepare:
        for side, own in setups.items():
            losses[side] = prepare(side)()
            gradients[side] = own.take_gradients()
    assert math.isclose(losses["ours"], losses["peer"], abs_tol=TOLERANCE), f"losses: {losses}"
    gap = difference(gradients["ours"], gradients["peer"])
    assert gap <= TOLERANCE, f"gradients: our trainer's and TRL's differ by {gap:.1e} of their norm"
    return gap


CHECKS: dict[CaseName, Callable[[Setup], float | None]] = {
    "sampling": check_same_answers,
    "learning": check_same_learning,
    "step": check_same_as_trl,
    "trl_learning": check_same_trainers,
    "fused": check_same_learning,
    "without_signal": check_same_without_silent,
}
