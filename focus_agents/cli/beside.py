"""Compare a policy that was trained on your own pictures with the baselines that it has to beat, after the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from focus_agents.cli.errors import print_warning
from focus_agents.policies.registry import PolicySpec
from focus_agents.runs.figures import in_digits
from focus_agents.runs.files import write_json
from focus_agents.settings import Settings
from focus_env.errors import FocusError

if TYPE_CHECKING:
    from rich.console import Console

    from focus_agents.runs.folder import RunDirectory
    from focus_env.types import EpisodeDataset

BESIDE_FILE = "beside.json"
VERDICTS = {"better": "this policy is better", "worse": "this policy is worse", "open": "the two cannot be told apart"}


@dataclass(frozen=True, kw_only=True)
class BesideArguments(Settings):
    """The policy that the trained one has to beat."""

    beside: Annotated[
        tuple[str, ...] | None,
        tyro.conf.arg(
            help="Policies, named as in `focus evaluate`, that answer validation episodes after the training, which "
            "then says whether its own is better. None: copy_support:nearest and match, unless the data are synthetic; "
            "nothing behind the flag: none."
        ),
    ] = None

    def specs(self, dataset: str) -> tuple[PolicySpec, ...]:
        """Return the policies that answer.

        Args:
            dataset: The name of the data set that is trained on.

        Raises:
            ValueError: If there is no such policy.
            FocusError: If a package or a model is missing, and the policy was asked for.
        """
        from focus_agents.evaluation.beside import DEFAULT  # a command line is read without gymnasium

        usual = () if dataset == "synthetic" else DEFAULT
        texts = usual if self.beside is None else self.beside
        specs = tuple(PolicySpec(text=text).with_absolute_path() for text in texts)
        if self.beside is not None:
            for spec in specs:
                spec.check()
        return specs


def tell_beside(
    run: RunDirectory, episodes: EpisodeDataset, specs: Sequence[PolicySpec], console: Console
) -> dict[str, Mapping[str, Any]]:
    """Ask the policies, and print whether the trained one is better; a policy that fails is warned of.

    Args:
        run: Of the training, which has ended.
        episodes: Of its validation.
        specs: The policies.
        console: Where it is printed.

    Returns:
        What `evaluation.beside.compare` says of each policy, as the file `beside.json` of the run has it.
    """
    from focus_agents.evaluation.beside import answer_beside, chosen_episodes, compare
    from focus_agents.runs.progress import progress_bar

    if not specs:
        return {}
    trained = run.read_answers("after")
    indices = chosen_episodes(len(trained))
    identities = [episodes[index].identity for index in indices]
    found: dict[str, Mapping[str, Any]] = {}
    for spec in specs:
        try:
            with progress_bar(spec.text, len(indices), console, unit="episodes") as on_batch:
                answers = answer_beside(episodes, indices, spec, on_batch=on_batch)
        except (FocusError, ValueError) as error:
            print_warning(f"{spec.text} did not answer the validation episodes: {error}")
            continue
        found[spec.text] = compare([trained[index] for index in indices], answers, identities)
        console.print(describe(spec.text, found[spec.text]), soft_wrap=True, markup=False, highlight=False)
    write_json(run.path / BESIDE_FILE, found)
    if unbeaten := [name for name, each in found.items() if each["verdict"] != "better"]:
        print_warning(
            f"this training has not shown that its policy is better than {' or '.join(unbeaten)}, which "
            "need no training; docs/own_pictures.md says what to try"
        )
    return found


def describe(name: str, found: Mapping[str, Any]) -> str:
    """Return a line on the trained policy beside another one."""
    lead, low, high = in_digits(found["lead"], found["interval"], digits=3, is_signed=True)
    num = found["num_objects"]
    objects = "one object, so nothing is said of others" if num == 1 else f"{num} objects"
    return (
        f"beside it: {name} has {found['miou_beside']:.3f} where this policy has {found['miou']:.3f} (lead {lead}, 95% "
        f"interval {low} to {high}; {found['num_episodes']} validation episodes of {objects}): "
        f"{VERDICTS[found['verdict']]}"
    )
