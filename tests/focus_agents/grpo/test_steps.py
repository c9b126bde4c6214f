"""Dealing groups to learners and steps."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from focus_agents.grpo.loss import StepTotals
from focus_agents.grpo.steps import GroupTrainingData, OptimizerStep, TrainingGroup, plan_steps
from focus_agents.models.inputs import EncodedPrompt
from tests.focus_agents.grpo.groups import make_group


def sized_groups(num_tokens: Sequence[int], *, silent: Sequence[int] = ()) -> list[TrainingGroup]:
    """Groups of one completion each, of which a plan looks at sizes and advantages only."""
    prompt = EncodedPrompt(np.arange(5), np.zeros((0, 2), dtype=np.int64), {})
    groups = [make_group(prompt, [count]) for count in num_tokens]
    return [
        dataclasses.replace(group, advantages=np.zeros(1)) if n in silent else group for n, group in enumerate(groups)
    ]


@dataclass(frozen=True)
class Plan:
    """Arguments of `plan_steps` that leave each learner a group."""

    num_tokens: list[int]
    num_learners: int
    groups_per_step: int | None
    num_passes: int
    seed: tuple[int, int]
    silent: frozenset[int] = frozenset()
    skip_silent: bool = False

    def steps(self) -> list[OptimizerStep]:
        return plan_steps(
            sized_groups(self.num_tokens, silent=self.silent),
            num_learners=self.num_learners,
            groups_per_step=self.groups_per_step,
            micro_batch_groups=2,
            num_passes=self.num_passes,
            skip_silent=self.skip_silent,
            seed=self.seed,
        )


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    num_tokens = draw(st.lists(st.integers(0, 500), min_size=1, max_size=24))
    num_learners = draw(st.integers(0, len(num_tokens)))
    groups_per_step = draw(st.none() | st.integers(max(1, num_learners), len(num_tokens) + 3))
    return Plan(num_tokens, num_learners, groups_per_step, draw(st.integers(1, 3)), (draw(st.integers(0, 99)), 7))


class TestPlan:
    """`plan_steps` keeps its promises for any sizes."""

    @given(plans())
    def test_each_pass_uses_every_group_exactly_once(self, plan: Plan) -> None:
        steps = plan.steps()
        assert len(steps) % plan.num_passes == 0
        per_pass = len(steps) // plan.num_passes
        for start in range(0, len(steps), per_pass):
            used = [p for step in steps[start : start + per_pass] for shard in step.shards for p in shard]
            assert sorted(used) == list(range(len(plan.num_tokens)))

    @given(plans())
    def test_every_learner_has_a_group_in_every_step(self, plan: Plan) -> None:
        for step in plan.steps():
            sizes = [len(shard) for shard in step.shards]
            assert len(sizes) == max(1, plan.num_learners)
            assert min(sizes) >= 1
            assert max(sizes) - min(sizes) <= 1

    @given(plans())
    def test_learners_differ_by_no_more_tokens_than_the_longest_group(self, plan: Plan) -> None:
        for step in plan.steps():
            loads = [sum(plan.num_tokens[p] for p in shard) for shard in step.shards]
            assert step.totals.num_tokens == sum(loads)
            assert max(loads) - min(loads) <= max(plan.num_tokens[p] for shard in step.shards for p in shard)

    @given(plans())
    def test_the_same_arguments_give_the_same_plan(self, plan: Plan) -> None:
        assert plan.steps() == plan.steps()

    @pytest.mark.parametrize(
        ("num_groups", "groups_per_step", "num_learners", "sizes"),
        [
            (7, 3, 2, [3, 4]),  # one left over for two learners
            (11, 4, 4, [4, 7]),
            (5, 2, 2, [2, 3]),
            (8, 3, 2, [3, 3, 2]),  # two left over are enough for two
            (7, 3, 1, [3, 3, 1]),
            (7, 3, 0, [3, 3, 1]),
            (7, 9, 2, [7]),
            (7, None, 7, [7]),
            (1, 1, 1, [1]),
        ],
    )
    def test_a_remainder_too_small_for_all_learners_joins_the_step_before(
        self, num_groups: int, groups_per_step: int | None, num_learners: int, sizes: list[int]
    ) -> None:
        steps = plan_steps(sized_groups([1] * num_groups), num_learners=num_learners, groups_per_step=groups_per_step)
        assert [step.totals.num_tokens for step in steps] == sizes

    @pytest.mark.parametrize(
        ("num_groups", "groups_per_step", "num_learners", "have"),
        [(0, None, 0, 0), (0, 4, 1, 0), (3, None, 4, 3), (9, 1, 2, 1), (2, 8, 3, 2), (5, 0, 1, 0)],
    )
    def test_fewer_groups_than_learners_are_refused(
        self, num_groups: int, groups_per_step: int | None, num_learners: int, have: int
    ) -> None:
        message = f"has {have} groups for {max(1, num_learners)} learners; expected at least one each: raise"
        with pytest.raises(ValueError, match=message):
            plan_steps(sized_groups([5] * num_groups), num_learners=num_learners, groups_per_step=groups_per_step)

    def test_by_hand(self) -> None:
        """From the longest group to the shortest: 0, 1, 1, 0, 0."""
        steps = plan_steps(sized_groups([4, 9, 1, 6, 2]), num_learners=2, micro_batch_groups=2)
        assert steps == [OptimizerStep(((1, 2, 4), (0, 3)), StepTotals(22, 5, 3))]

    @given(plans(), st.sets(st.integers(0, 23)))
    def test_silent_groups_are_left_out_but_count(self, plan: Plan, silent: set[int]) -> None:
        quiet = dataclasses.replace(plan, silent=frozenset(silent), skip_silent=True)
        for step, full in zip(quiet.steps(), plan.steps(), strict=True):
            used = {p for shard in step.shards for p in shard}
            everything = {p for shard in full.shards for p in shard}
            assert (step.totals.num_tokens, step.totals.num_completions) == (
                full.totals.num_tokens, full.totals.num_completions
            )  # fmt: skip
            assert everything - silent <= used <= everything
            assert min(len(shard) for shard in step.shards) >= 1
            assert len(used & silent) <= max(0, len(step.shards) - len(everything - silent))
            assert step.totals.num_micro_batches == sum(-(-len(shard) // 2) for shard in step.shards)

    def test_prompts_weigh_as_much_as_completions(self) -> None:
        """What a group costs to compute is its prompt once, and its completions."""
        groups = sized_groups([10, 1, 1, 8])
        long = np.arange(50)
        groups[1] = dataclasses.replace(groups[1], prompt=dataclasses.replace(groups[1].prompt, input_ids=long))
        assert [group.cost for group in groups] == [15, 51, 6, 13]
        (step,) = plan_steps(groups, num_learners=2)
        assert step.shards == ((1, 2), (0, 3))

    def test_passes_and_seeds_shuffle_anew(self) -> None:
        def order(seed: tuple[int, ...]) -> list[list[tuple[int, ...]]]:
            steps = plan_steps(sized_groups([1] * 12), num_learners=1, groups_per_step=2, num_passes=2, seed=seed)
            return [[step.shards[0] for step in half] for half in (steps[:6], steps[6:])]

        first, second = order((0, 1))
        assert first != second
        assert order((0, 1)) == [first, second]
        assert order((0, 2))[0] != first

    def test_a_single_step_keeps_the_order(self) -> None:
        """The order within a step changes sums by rounding errors only, so it stays where it can."""
        (step,) = plan_steps(sized_groups([1] * 6), num_learners=1, seed=(3,))
        assert step.shards == ((0, 1, 2, 3, 4, 5),)


class TestTrainingData:
    """The parcel that RLlib cuts up for the learners."""

    def parcel(self, prompt: EncodedPrompt) -> GroupTrainingData:
        groups = {p: make_group(prompt, [p + 1, 2], first_id=10 + p) for p in range(7)}
        steps = plan_steps(list(groups.values()), num_learners=3, groups_per_step=3, num_passes=2)
        return GroupTrainingData(groups=groups, steps=steps)

    def test_shards_are_disjoint_in_each_step_and_hold_all_of_it(self, prompts: list[EncodedPrompt]) -> None:
        data = self.parcel(prompts[0])
        shards = [shard for shard, _ in data.shard(3)]
        for number, step in enumerate(data.steps):
            parts = [shard.steps[number].shards for shard in shards]
            assert [part for (part,) in parts] == list(step.shards)
            assert all(shard.steps[number].totals == step.totals for shard in shards)
        for shard in shards:
            assert set(shard.groups) == {p for step in shard.steps for p in step.shards[0]}
        assert {p for shard in shards for p in shard.groups} == set(data.groups)

    def test_shards_of_one_pass_share_no_group(self, prompts: list[EncodedPrompt]) -> None:
        data = self.parcel(prompts[0])
        one_pass = GroupTrainingData(groups=data.groups, steps=data.steps[: len(data.steps) // 2])
        held = [position for shard, _ in one_pass.shard(3) for position in shard.groups]
        assert sorted(held) == sorted(data.groups)

    def test_iterates_over_its_steps(self, prompts: list[EncodedPrompt]) -> None:
        data = self.parcel(prompts[0])
        for learner, (shard, arguments) in enumerate(data.shard(3)):
            shard.validate()
            shard.solve_refs()
            assert arguments == {}
            walked = list(shard.iterate())
            assert [totals for _, totals in walked] == [step.totals for step in data.steps]
            for (groups, _), step in zip(walked, data.steps, strict=True):
                assert groups == [data.groups[p] for p in step.shards[learner]]

    def test_travels_between_processes(self, prompts: list[EncodedPrompt]) -> None:
        data = self.parcel(prompts[0])
        copy = pickle.loads(pickle.dumps(data))
        assert copy.steps == data.steps
        for position, group in data.groups.items():
            np.testing.assert_array_equal(copy.groups[position].token_ids[0], group.token_ids[0])
            np.testing.assert_array_equal(
                copy.groups[position].prompt.images["pixel_values"], group.prompt.images["pixel_values"]
            )

    def test_an_empty_plan_is_refused(self) -> None:
        with pytest.raises(ValueError, match="steps: expected a plan of at least one optimizer step, got none"):
            GroupTrainingData().validate()
