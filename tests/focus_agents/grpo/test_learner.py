"""The learner without Ray's processes: one update of the small model, and the gradient that it comes from."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from focus_agents.engine.scoring import score_completions
from focus_agents.grpo.algorithm import GRPOConfig
from focus_agents.grpo.batch import collate_groups
from focus_agents.grpo.loss import policy_loss
from focus_agents.grpo.module import VLMModule
from focus_agents.grpo.steps import TrainingGroup
from focus_env.prompts import get_template
from tests.focus_agents.grpo.learners import (
    GROUP_SIZE,
    assert_same,
    build_learner,
    gradient_of,
    module_of,
    sample_groups,
    update,
)


@pytest.fixture(scope="module")
def groups() -> list[TrainingGroup]:
    return sample_groups(build_learner())


def test_the_gradient_is_that_of_the_loss(groups: list[TrainingGroup]) -> None:
    """By hand: the repeated path, one completion a time, and the loss's definition."""
    learner = build_learner()
    module = module_of(learner)
    total = sum(group.num_tokens for group in groups)
    loss = torch.zeros(())
    for group in groups:
        batch = collate_groups([group], module.processor)
        for g in range(GROUP_SIZE):
            length = batch.lengths[:, g : g + 1]
            logprobs, _ = score_completions(
                module.policy,
                batch.prompts,
                batch.token_ids[:, g : g + 1, : int(length)],
                length,
                shared_prefix=False,
                banned_token_ids=module.processor.banned_token_ids,
            )
            loss = loss - float(group.advantages[g]) * logprobs.sum() / total
    names = dict(module.policy.named_parameters())
    expected = torch.autograd.grad(loss, list(names.values()))
    update(learner, groups)
    ours = learner.gradients[0]
    assert len(ours) == len(expected)
    for one, other in zip(ours.values(), expected, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


@pytest.mark.parametrize("loss", ["grpo", "dapo", "dr_grpo", "gspo", "cispo", "sapo"])
def test_micro_batches_add_up(groups: list[TrainingGroup], loss: str) -> None:
    expected = gradient_of(groups, loss=loss)
    for size in (1, 3):
        assert_same(gradient_of(groups, loss=loss, micro_batch_groups=size), expected)


def test_bnpo_weighs_micro_batches_alike(groups: list[TrainingGroup]) -> None:
    parts = [gradient_of([group], loss="bnpo") for group in groups]
    mean = {key: torch.stack([part[key] for part in parts]).mean(0) for key in parts[0]}
    assert_same(gradient_of(groups, loss="bnpo", micro_batch_groups=1), mean)


class TestSharedPrefix:
    """`shared_prefix` changes what a step costs, and nothing else."""

    def test_on_equals_off(self, groups: list[TrainingGroup]) -> None:
        assert_same(gradient_of(groups, shared_prefix="on"), gradient_of(groups, shared_prefix="off"))

    def test_auto_keeps_to_it_where_it_is_right(self, groups: list[TrainingGroup]) -> None:
        learner = build_learner()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            update(learner, groups)
        assert module_of(learner).uses_shared_prefix

    def test_auto_falls_back_where_it_is_wrong(
        self, groups: list[TrainingGroup], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A model that lets answers see each other: the shared row is another function of the weights."""
        expected = gradient_of(groups, shared_prefix="off")
        monkeypatch.setattr(
            "focus_agents.engine.scoring.answer_mask",
            lambda packed, mask: torch.ones(
                len(mask), 1, packed.answer.shape[1], mask.shape[1] + packed.answer.shape[1], dtype=torch.bool
            ),
        )
        learner = build_learner()
        with pytest.warns(UserWarning, match="prompts are repeated for each answer"):
            update(learner, groups)
        assert not module_of(learner).uses_shared_prefix
        assert_same(learner.gradients[0], expected)
        with warnings.catch_warnings():  # said once
            warnings.simplefilter("error")
            update(learner, groups)

    def test_off_and_on_do_not_ask(self, groups: list[TrainingGroup], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(VLMModule, "shared_prefix_gap", lambda *_: pytest.fail("compared"))
        for choice in ("on", "off"):
            learner = build_learner(shared_prefix=choice)
            update(learner, groups)
            assert module_of(learner).uses_shared_prefix == (choice == "on")


@pytest.mark.parametrize("micro_batch_groups", [None, 1])
def test_the_samplers_pass_over_the_prompts_serves_the_learner(
    groups: list[TrainingGroup], micro_batch_groups: int | None
) -> None:
    learner = build_learner(micro_batch_groups=micro_batch_groups)
    kept = sample_groups(learner, keeps_prefix=True)
    for ours, other in zip(kept, groups, strict=True):
        for one, another in zip(ours.token_ids, other.token_ids, strict=True):
            assert one.tolist() == another.tolist()
    num_pictures: list[int] = []
    learner._share_prefixes(True)  # the comparison would run the vision tower, too
    with module_of(learner).policy.model.visual.register_forward_hook(lambda *_: num_pictures.append(1)):
        update(learner, kept)
    assert num_pictures == []
    assert_same(learner.gradients[0], gradient_of(groups))


def test_some_rows_of_the_samplers_pass(groups: list[TrainingGroup]) -> None:
    """Groups without a signal are left out, and the others come from the same pass all the same."""
    learner = build_learner()
    kept = sample_groups(learner, keeps_prefix=True)
    silent = [dataclasses.replace(group, advantages=np.zeros(GROUP_SIZE)) for group in groups]
    mixed = [dataclasses.replace(kept[1], advantages=np.zeros(GROUP_SIZE)) if n == 1 else kept[n] for n in range(4)]
    update(learner, mixed, skip_silent=True)
    assert_same(learner.gradients[0], gradient_of([groups[0], silent[1], *groups[2:]]))


def test_silent_groups_cost_nothing_and_change_nothing(groups: list[TrainingGroup]) -> None:
    mixed = [
        dataclasses.replace(g, advantages=np.zeros(GROUP_SIZE)) if n in (0, 2) else g for n, g in enumerate(groups)
    ]
    learner = build_learner()
    learner._share_prefixes(True)
    rows: list[int] = []
    with module_of(learner).policy.model.language_model.register_forward_hook(
        lambda _, __, output: rows.append(len(output.last_hidden_state))
    ):
        update(learner, mixed, skip_silent=True)
    assert rows == [2]
    assert_same(learner.gradients[0], gradient_of(mixed))
    alone = gradient_of([groups[1], groups[3]])
    key = max(alone, key=lambda k: float(alone[k].norm()))
    share = (groups[1].num_tokens + groups[3].num_tokens) / sum(group.num_tokens for group in groups)
    torch.testing.assert_close(learner.gradients[0][key], share * alone[key], rtol=1e-4, atol=1e-7)


def test_a_frozen_vision_tower_sees_a_picture_once() -> None:
    frozen = {"freeze_vision": True}
    learner = build_learner(model_config=frozen, kl_coeff=0.1, num_passes=2)
    groups = sample_groups(learner)
    assert all(group.prompt.image_features is not None and not group.prompt.images for group in groups)
    seen: list[int] = []
    for model in (module_of(learner).policy, module_of(learner).reference):
        model.model.visual.register_forward_hook(lambda *_: seen.append(1))
    update(learner, groups, num_passes=2)
    assert seen == []
    pixels = sample_groups(build_learner(model_config=frozen), keeps_image_features=False)
    assert all(group.prompt.image_features is None for group in pixels)
    expected = gradient_of(pixels, model_config=frozen, kl_coeff=0.1)
    assert_same(learner.gradients[0], expected)
    assert len(learner.gradients) == 2
    trained = sum(parameter.requires_grad for parameter in module_of(learner).policy.parameters())
    assert len(expected) == trained < len(list(module_of(learner).policy.parameters()))


def with_sampler_gap(groups: list[TrainingGroup], gap: float) -> list[TrainingGroup]:
    """The groups as a sampler would give them whose log-probabilities are too low by `gap`."""
    return [dataclasses.replace(g, sampler_logprobs=tuple(p - gap for p in g.sampler_logprobs)) for g in groups]


class TestRolloutCorrection:
    """A sampler with other probabilities than the learner's."""

    def test_none_takes_the_samplers_word(self, groups: list[TrainingGroup]) -> None:
        learner = build_learner()
        metrics = update(learner, with_sampler_gap(groups, 0.1))
        assert float(metrics["ratio_mean"]) == pytest.approx(np.exp(0.1), rel=1e-4)
        assert float(metrics["sampler_gap"]) == pytest.approx(0.1, rel=1e-3)

    @pytest.mark.parametrize(("gap", "weight"), [(0.1, np.exp(0.1)), (-0.2, np.exp(-0.2)), (3.0, 1.5)])
    def test_token_tis_weighs_the_on_policy_gradient(
        self, groups: list[TrainingGroup], gap: float, weight: float
    ) -> None:
        learner = build_learner(rollout_correction="token_tis", correction_cap=1.5)
        metrics = update(learner, with_sampler_gap(groups, gap))
        assert float(metrics["ratio_mean"]) == pytest.approx(1.0, abs=1e-6)
        expected = {key: weight * grad for key, grad in gradient_of(groups).items()}
        assert_same(learner.gradients[0], expected, 1e-4)

    def test_seq_mask_drops_what_the_sampler_hardly_makes(self, groups: list[TrainingGroup]) -> None:
        odd = [*with_sampler_gap(groups[:1], 5.0), *groups[1:]]
        silent = [dataclasses.replace(groups[0], advantages=np.zeros(GROUP_SIZE)), *groups[1:]]
        settings: dict[str, Any] = {"rollout_correction": "seq_mask", "correction_cap": 2.0}
        assert_same(gradient_of(odd, **settings), gradient_of(silent), 1e-4)

    def test_later_steps_compare_with_the_policy_before_the_first(self, groups: list[TrainingGroup]) -> None:
        """Two steps of two groups: the sampler's gap is a weight, and the first step's change is the ratio."""
        corrected = build_learner(rollout_correction="token_tis", correction_cap=1.5)
        plain = build_learner()
        ratios = [
            float(update(learner, some, groups_per_step=2)["ratio_mean"])
            for learner, some in ((corrected, with_sampler_gap(groups, 0.1)), (plain, groups))
        ]
        assert ratios[0] == pytest.approx(ratios[1], rel=1e-4)
        assert abs(ratios[0] - 1) > 1e-4
        assert len(corrected.gradients) == len(plain.gradients) == 2
        expected = {key: np.exp(0.1) * grad for key, grad in plain.gradients[1].items()}
        assert_same(corrected.gradients[1], expected, 1e-2)


def test_the_reference_is_scored_once_for_several_passes(groups: list[TrainingGroup]) -> None:
    learner = build_learner(kl_coeff=0.1)
    calls: list[int] = []
    module_of(learner).reference.model.register_forward_hook(lambda *_: calls.append(1))
    update(learner, groups, num_passes=3)
    assert calls == [1]
    assert len(learner.gradients) == 3


def test_cut_answers_can_be_left_out(groups: list[TrainingGroup]) -> None:
    keeps = np.array([True, False, True])
    masked = [dataclasses.replace(group, counts=keeps) for group in groups]
    fewer = [
        dataclasses.replace(
            group,
            token_ids=group.token_ids[::2],
            sampler_logprobs=group.sampler_logprobs[::2],
            advantages=group.advantages[::2],
            counts=keeps[::2],
        )
        for group in groups
    ]
    assert_same(gradient_of(masked), gradient_of(fewer))


def test_under_a_grammar_both_sides_normalise_over_the_same_tokens() -> None:
    learner = build_learner(constrained=True)
    metrics = update(learner, sample_groups(learner))
    assert float(metrics["sampler_gap"]) < 1e-5
    assert float(metrics["ratio_mean"]) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("is_told", [False, True])
def test_the_grammar_has_an_answer_for_an_absent_object_where_the_prompt_has(is_told: bool) -> None:
    template = dataclasses.replace(get_template("compact"), allow_absent=is_told)
    module = module_of(build_learner(template=template, constrained=True))
    ids = torch.tensor([[*module.processor.encode_answer(template.answer(None, (56, 56)))]])
    allowed = module.grammar.allowed_along(ids)
    assert bool(allowed.gather(-1, ids[..., None]).all()) == is_told


def test_the_loss_is_the_one_of_the_settings() -> None:
    settings = GRPOConfig().training(loss="gspo", clip_low=3e-4, clip_high=4e-4, kl_coeff=0.1, kl_estimator="k2")
    assert settings.settings.loss == "gspo"
    assert settings.settings.kl_estimator == "k2"
    assert policy_loss.__module__ == "focus_agents.grpo.loss"


def test_the_learning_rate_follows_its_schedule_and_its_optimizers_memory(groups: list[TrainingGroup]) -> None:
    schedule = {"lr": 1e-3, "num_iterations": 5, "warmup": 0.4, "cooldown": 0.4, "lr_end": 0.2}
    learner = build_learner(**schedule)

    def rate_of_an_update(learner: Any) -> float:
        """That of the step itself; RLlib sets a constant one after it."""
        (optimizer,) = learner._named_optimizers.values()
        rates: list[float] = []
        handle = optimizer.register_step_pre_hook(lambda *_: rates.append(optimizer.param_groups[0]["lr"]))
        update(learner, groups)
        handle.remove()
        (rate,) = rates
        return float(rate)

    rates = [rate_of_an_update(learner) for _ in range(2)]
    state = learner._get_optimizer_state()
    rates += [rate_of_an_update(learner) for _ in range(4)]
    assert rates == pytest.approx([0.5e-3, 1e-3, 1e-3, 1e-3, 0.6e-3, 0.2e-3])
    resumed = build_learner(**schedule)
    resumed._set_optimizer_state(state)
    assert [rate_of_an_update(resumed) for _ in range(4)] == pytest.approx(rates[2:])
    assert rate_of_an_update(build_learner(lr=1e-3)) == pytest.approx(1e-3)
