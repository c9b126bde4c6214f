"""The plan of the ablation: its table of arms, what runs come of it, how long they take, and what may be chosen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from focus_agents.cli.ablation import QUICK, QUICK_PROBE_EPISODES, Args, chosen_variants, models_of
from focus_agents.studies.ablation.arms import ARMS, BASE, BASES, KINDS, SECONDS, SPLITS
from focus_agents.studies.ablation.claims import CLAIMS, SENTENCES, Kind, verdict
from focus_agents.studies.ablation.costs import estimate
from focus_agents.studies.ablation.grid import Variant, default_arms, planned, quick
from focus_agents.studies.ablation.runs import AblationStudy


def study(folder: Path, variants: Sequence[Variant], **changes: object) -> AblationStudy:
    """The default study, every base of which is the one that comes with the package."""
    args = Args()
    settings = {
        "bases": dict.fromkeys(BASES, "focus-small-base"),
        "seeds": args.seeds,
        "num_sft_steps": args.num_sft_steps,
        "num_grpo_iterations": args.num_grpo_iterations,
        "num_episodes": args.num_episodes,
        "jobs": 2,
    }
    return AblationStudy(folder=folder, variants=tuple(variants), **{**settings, **changes})  # type: ignore[arg-type]


def everything() -> list[Variant]:
    return planned(default_arms(), list(BASES), list(KINDS))


def test_every_arm_has_a_place_and_all_that_it_starts_from_is_an_arm() -> None:
    for name, arm in ARMS.items():
        assert arm.grid, name
        assert arm.grid.keys() <= KINDS.keys(), name
        assert all(set(bases) <= BASES.keys() for bases in arm.grid.values()), name
        assert arm.parent in ARMS
        for kind, bases in arm.grid.items():
            lineage = Variant(name, bases[0], kind).lineage
            assert lineage[0].arm == BASE
            assert [each.parent for each in lineage] == [None, *lineage[:-1]]


def test_claims_compare_arms_and_cells_that_there_are() -> None:
    names = [claim.name for claim in CLAIMS]
    assert len(set(names)) == len(names)
    cells = {f"{name}/{shots}" for name, split in SPLITS.items() for shots in split.shots}
    for claim in CLAIMS:
        assert {claim.before[0], claim.after[0]} <= ARMS.keys()
        assert {claim.before[1], claim.after[1]} <= cells
        assert (claim.kind == "context") == (claim.sentence == "")
    assert {claim.sentence for claim in CLAIMS} - {""} == SENTENCES.keys()
    compared = {(v.base, v.scenes, v.arm) for v in everything()}
    for sentence in SENTENCES:  # each can come out somewhere in what is run where nothing is named
        assert any(
            (base, kind, claim.before[0]) in compared and (base, kind, claim.after[0]) in compared
            for claim in CLAIMS
            if claim.sentence == sentence
            for base in BASES
            for kind in KINDS
        ), sentence


@pytest.mark.parametrize(
    ("kind", "interval", "said"),
    [
        ("gain", [0.001, 0.2], "holds"),
        ("gain", [-0.01, 0.02], "does not hold"),
        ("gain", [-0.09, -0.02], "does not hold"),
        ("gain", [-0.01, 0.06], "open"),
        ("none", [-0.02, 0.04], "holds"),
        ("none", [-0.3, -0.2], "holds"),
        ("none", [0.06, 0.5], "does not hold"),
        ("none", [0.01, 0.06], "open"),
        ("context", [0.1, 0.2], None),
    ],
)
def test_a_verdict_comes_from_the_interval_alone(kind: Kind, interval: list[float], said: str | None) -> None:
    assert verdict(kind, {"mean": sum(interval) / 2, "interval": interval}) == said


def test_parts_come_after_whole_objects_and_grpo_after_its_own_stage_1() -> None:
    parts = Variant("attention-grpo", "how", "parts")
    assert [str(each) for each in parts.lineage] == [
        "base/how/one_look", "attention/how/one_look", "attention/how/parts", "attention-grpo/how/parts",
    ]  # fmt: skip
    before, after = (Variant("attention", "how", kind) for kind in ("one_look", "parts"))
    assert (before.one_shot, after.one_shot) == (KINDS["one_look"].one_shot, 0)
    assert (before.num_steps(1000, 170), after.num_steps(1000, 170)) == (800, 500)


def test_more_of_stage_1_keeps_its_settings_and_is_as_long_as_grpo() -> None:
    more, steps, grpo = (Variant(arm, "where", "tracks") for arm in ("coords-more", "coords-steps", "coords-grpo"))
    flags = more.flags(1000, 170)
    assert flags[flags.index("--attention-target") + 1] == "coords"
    assert flags[flags.index("--one-shot") + 1] == "0"
    assert more.training_seconds(1000, 170) == pytest.approx(grpo.training_seconds(1000, 170), abs=SECONDS["sft"])
    assert steps.num_steps(1000, 170) == grpo.num_steps(1000, 170) == 170
    assert "--attention-target" not in grpo.flags(1000, 170)


def test_what_starts_from_a_bounded_pool_stays_in_it() -> None:
    after = Variant("pool-512-grpo", "where", "tracks").flags(1000, 170)
    assert after[after.index("--num-training-episodes") + 1] == "512"
    assert "--num-training-episodes" not in Variant("coords-grpo", "where", "tracks").flags(1000, 170)


def test_arms_of_fewer_seeds_have_the_first_ones_and_what_they_start_from_is_shared(tmp_path: Path) -> None:
    variants = [Variant("long-grpo", "where", "tracks"), Variant("coords-grpo", "where", "tracks")]
    runs = [(run.variant.split("/")[0], run.seed) for run in study(tmp_path, variants, seeds=(4, 2)).runs()]
    assert runs == [
        ("base", 4), ("long", 4), ("long-grpo", 4), ("target-coords", 4), ("coords-grpo", 4),
        ("target-coords", 2), ("coords-grpo", 2),
    ]  # fmt: skip
    folders = [run.folder for run in study(tmp_path, everything()).runs()]
    assert len(set(folders)) == len(folders)


def test_all_of_it_takes_six_hours_at_most_and_a_quick_look_ten_minutes(tmp_path: Path) -> None:
    cost = estimate(study(tmp_path, everything()))
    assert cost.num_left == cost.num_runs > 150
    assert 3 * 3600 < cost.seconds < 6 * 3600
    assert cost.core_seconds / 2 <= cost.seconds < 0.55 * cost.core_seconds
    fast = estimate(study(tmp_path, quick(), num_probe_episodes=QUICK_PROBE_EPISODES, **QUICK))
    assert fast.seconds < 600
    assert str(fast).startswith(f"{fast.num_runs} runs; what is left takes about ")


def test_all_runs_of_a_study_compute_in_its_precision_and_lie_apart_from_those_in_another(tmp_path: Path) -> None:
    wide, narrow = (study(tmp_path, everything(), precision=precision).runs() for precision in ("fp32", "bf16"))
    for run in narrow:
        assert not run.command or run.command[run.command.index("--precision") + 1] == "bf16"
    assert not {run.folder for run in wide} & {run.folder for run in narrow}


def test_what_is_done_costs_nothing(tmp_path: Path) -> None:
    short = study(tmp_path, [Variant("sft", "where", "one_look")], seeds=(0,))
    before = estimate(short)
    run = short.run("sft/where/one_look", 0)
    run.folder.mkdir()
    (run.folder / "summary.json").write_text("{}")
    after = estimate(short)
    trained = Variant("sft", "where", "one_look").training_seconds(1000, 170) + SECONDS["start"]
    assert before.core_seconds - after.core_seconds == pytest.approx(trained)


def test_only_bases_that_are_asked_for_are_loaded() -> None:
    assert set(models_of(Args(bases=("how",)))) == {"how"}
    assert models_of(Args(base_more="runs/more/checkpoints/final"))["more"] == "runs/more/checkpoints/final"


def test_a_choice_is_what_the_plan_has_of_it() -> None:
    args = Args(arms=("sft", "coords-grpo"), scenes=("tracks",))
    assert [str(each) for each in chosen_variants(args, ("where", "how"))] == [
        "sft/where/tracks", "sft/how/tracks", "coords-grpo/where/tracks",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"arms: expected some that the plan has .* it has long on tracks \(where\)"):
        chosen_variants(Args(arms=("long",), scenes=("parts",)), ("where",))
    fast = chosen_variants(Args(quick=True), ("where",))
    assert {each.scenes for each in fast} == set(KINDS)
    assert len(chosen_variants(Args(quick=True, arms=("heads",)), ("where",))) == 1
