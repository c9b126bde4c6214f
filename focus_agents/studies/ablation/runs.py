"""The runs of a study: a command line and a folder for each, named by a digest of all that decides the run."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from focus_agents.models.loading import model_folder, weights_digest
from focus_agents.models.settings import Precision
from focus_agents.studies.ablation.arms import ARMS, Stage
from focus_agents.studies.ablation.grid import Variant, in_plan_order
from focus_agents.studies.study import Run, Study


@dataclass(frozen=True, slots=True)
class ArmRun(Run):
    """One variant with one seed; `variant` is the text of a `Variant`.

    Attributes:
        model: The trained model.
        command: Arguments of the Python that trains the model; empty for a base.
        parent: Folder of the run whose model this run starts from; None for a base.
    """

    model: str
    command: tuple[str, ...] = ()
    parent: Path | None = None


@dataclass(frozen=True, kw_only=True)
class AblationStudy(Study):
    """The variants of a study, with the lengths of their runs.

    Attributes:
        bases: The pretrained models, each a name or a folder, by their names in `BASES`.
        variants: Variants to run; the variants that they start from are run too.
        num_sft_steps: Optimizer steps of stage 1, of which a kind of scenes takes its fraction.
        num_grpo_iterations: Iterations of GRPO.
        num_episodes: Episodes answered for each split and number of shots; see `answers.cell_episodes`.
        num_probe_episodes: Episodes of the linear probe of each base.
        precision: Precision of all trainings and answers.
        jobs: Runs at a time.
        use_gpu: Whether runs train on a GPU.
    """

    bases: Mapping[str, str]
    variants: tuple[Variant, ...]
    num_sft_steps: int
    num_grpo_iterations: int
    num_episodes: int
    num_probe_episodes: int = 1500
    precision: Precision = "fp32"
    jobs: int = 1
    use_gpu: bool = False

    def run(self, variant: str | Variant, seed: int) -> ArmRun:
        """Return the run of a variant with a seed.

        Raises:
            ValueError: If there is no such variant, or its base has no weights.
        """
        found = Variant.parse(str(variant))
        stage = ARMS[found.arm].stage
        if stage is None or found.parent is None:
            model = self.bases[found.base]
            digest = _digest(model)
            if digest is None:
                raise ValueError(f"base: expected a model with weights, got {model!r}; train one by `focus pretrain`")
            return ArmRun(str(found), seed, self.folder / f"{_slug(found)}-{self.precision}-{digest[:8]}", model)
        parent = self.run(found.parent, seed)
        flags = (
            *found.flags(self.num_sft_steps, self.num_grpo_iterations),
            *("--precision", self.precision),
            *("--seed", str(seed)),
        )
        folder = self.run_folder(str(found), seed, [stage, flags, parent.folder.name])
        places = ("--init-from", model_folder(parent.model), "--name", folder.name, "--output-dir", str(self.folder))
        command = ("-m", f"focus_agents.cli.{stage}", *_once(flags), *places, "--no-dashboard", *self._hardware(stage))
        return ArmRun(str(found), seed, folder, str(folder / "checkpoints" / "final"), command, parent.folder)

    def runs(self) -> list[ArmRun]:
        """Return all runs once, each after the run whose model it starts from."""
        runs: dict[Path, ArmRun] = {}
        for seed in self.seeds:
            for variant in self.variants:
                if seed in variant.seeds(self.seeds):
                    for needed in variant.lineage:
                        run = self.run(needed, seed)
                        runs.setdefault(run.folder, run)
        return list(runs.values())

    @property
    def all_variants(self) -> list[Variant]:
        """All variants to run, with those that others start from, in the order of the plan."""
        return list(in_plan_order([needed for variant in self.variants for needed in variant.lineage]))

    def _hardware(self, stage: Stage) -> tuple[str, ...]:
        if not self.use_gpu:
            return ()
        return ("--use-gpu",) if stage == "sft" else ("--num-gpus-per-learner", "1")


@functools.lru_cache
def _digest(model: str) -> str | None:
    """Return the digest of a base's weights, which a study needs hundreds of times."""
    return weights_digest(model)


def _slug(variant: Variant) -> str:
    return "-".join(variant)


def _once(flags: Sequence[str]) -> Iterator[str]:
    """Yield flags with their values, each once with its last values, as commands take them.

    An arm's own flags stand behind those that all arms of its stage share.
    """
    values: dict[str, list[str]] = {}
    for word in flags:
        if word.startswith("--"):
            values[flag := word] = []
        else:
            values[flag].append(word)
    for flag, words in values.items():
        yield from (flag, *words)
