"""A step of TRL's trainer on a small vision-language model, and the same step by our code, in float32.

TRL encodes two conversations with pictures, samples answers, scores them and takes a gradient; ours gets the same
conversations and TRL's answers, and nothing else.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch

from focus_agents.grpo.advantage import group_advantages
from focus_agents.models.attention import set_focus_attention

pytest.importorskip("trl", minversion="1.16", reason="TRL is not installed; `pip install trl` to compare with it")

from transformers import TrainerCallback  # of its parts for TRL, which take seconds to import

from benchmarks.step.setup import Setup, Size
from benchmarks.step.sides import learn, reward_texts
from benchmarks.step.trl_side import trl_trainer

TOLERANCE = 1e-5


class KeepGradients(TrainerCallback):
    """TRL's gradients, by parameter, before they are used."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.gradients: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        named = self.model.named_parameters()
        self.gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}
        self.model.zero_grad()


@pytest.mark.parametrize("shared_prefix", [True, False])
def test_logprobs_advantages_loss_and_gradients(shared_prefix: bool) -> None:
    size = Size(prompt_tokens=130, group_size=3, answer_tokens=6)
    setup = Setup.build(size, num_prompts=2)
    kept = KeepGradients(setup.model)
    setup.use_stock_attention()
    with (
        trl_trainer(setup, 1, kept, learning_rate=0.0, max_grad_norm=0.0) as trainer,
        mock.patch.object(trainer, "_compute_loss", wraps=trainer._compute_loss) as loss_spy,
        mock.patch.object(
            trainer, "_get_per_token_logps_and_entropies", wraps=trainer._get_per_token_logps_and_entropies
        ) as logprob_spy,
    ):
        outputs: list[Any] = []
        logprob_spy.side_effect = lambda *a, **k: (
            outputs.append(type(trainer)._get_per_token_logps_and_entropies(trainer, *a, **k)) or outputs[-1]
        )
        expected_loss = trainer.train().training_loss
    inputs = loss_spy.call_args.args[1]
    shape = (2, size.group_size, size.answer_tokens)
    prompts = setup.collate(setup.encode())
    # TRL shuffles its batch; a row belongs to the group whose prompt it has.
    is_second = [torch.equal(row[-len(prompts.input_ids[1]) :], prompts.input_ids[1]) for row in inputs["prompt_ids"]]
    order = sorted(range(len(is_second)), key=lambda row: is_second[row])
    assert sum(is_second) == size.group_size
    token_ids = inputs["completion_ids"][order].view(shape)
    assert len({tuple(row) for row in token_ids.flatten(0, 1).tolist()}) > 4, (
        "answers that are all the same show little"
    )

    set_focus_attention(setup.model)
    rewards = reward_texts(setup, token_ids)
    advantages = torch.from_numpy(group_advantages(rewards))
    torch.testing.assert_close(advantages.flatten().float(), inputs["advantages"][order], rtol=0, atol=TOLERANCE)
    assert (advantages != 0).any(1).all()

    loss, logprobs = learn(setup, prompts, token_ids, advantages, shared_prefix=shared_prefix)
    expected_logprobs = outputs[-1][0].detach()[order].view(shape)
    torch.testing.assert_close(logprobs, expected_logprobs, rtol=0, atol=TOLERANCE)
    assert loss == pytest.approx(expected_loss, abs=TOLERANCE)
    assert len(kept.gradients) > 20
    for name, parameter in setup.model.named_parameters():
        expected = kept.gradients[name]
        assert parameter.grad is not None, name
        assert expected.norm() > 0, name
        assert (parameter.grad - expected).norm() <= TOLERANCE * expected.norm(), name
