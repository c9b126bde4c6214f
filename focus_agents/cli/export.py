"""Write a policy as a folder that transformers, PEFT and vLLM load: an adapter merged into its base, or converted.

How to run:
    focus export --model runs/my-sft/checkpoints/final --to exported --dtype bfloat16

The folder has a card, README.md, with the data, seeds and scores of the run that the policy comes from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from focus_agents.cli.command_line import parse, quiet_libraries
from focus_agents.cli.errors import make_console, user_errors, work_errors
from focus_agents.models.references import absolute_reference, on_base
from focus_agents.models.settings import ExportDtype, ExportForm
from focus_agents.settings import Settings
from focus_env.errors import FocusError


@dataclass(frozen=True, kw_only=True)
class Args(Settings):
    """Write a policy as a folder for other programs."""

    model: str
    """Model or adapter: a folder or a name on the hub, as in other commands."""
    to: Path
    """The new folder; an older export there is replaced."""
    base_model: str | None = None
    """Base model of the adapter; None: the base that the adapter names."""
    form: ExportForm = "merged"
    """Whole weights with the adapter merged, or only the adapter, in PEFT's current format."""
    dtype: ExportDtype = "auto"
    """Type of the weights; auto: as in the files, or the finer of the two for an adapter and its base."""


def main() -> None:
    with user_errors(Args):
        args = parse(Args, __doc__)
        quiet_libraries()
        text = absolute_reference(on_base(args.model, args.base_model))
        from focus_agents.models.loading import check_model  # here and below: a command line is read without torch
        from focus_agents.models.loading.sources import find_source
        from focus_agents.runs.target import check_target

        source = find_source(text)
        check_target(args.to, source)
        check_model(text)
    with work_errors(Args, make_console(stderr=True, arguments=Args), FocusError):
        from focus_agents.reports.model_card import CARD
        from focus_agents.runs.export import export_policy, video_processor, written_types

        card = card_of(text, args.to.resolve().name, is_adapter=args.form == "adapter")
        folder = export_policy(text, args.to, dtype=args.dtype, form=args.form, documents={CARD: card})
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    types = written_types(folder)
    what = f"{size / 2**20:.1f} MiB, {args.form}, {' and '.join(types)}"
    print(f"{folder}: {what}; share it by `focus push --model {folder} --to OWNER/NAME`")
    if args.form == "adapter":
        return
    if args.dtype == "auto" and source.adapter is not None and types == ["float32"]:
        print("note: float32 is what the adapter or its base is kept in; --dtype bfloat16 takes half the room")
    if (name := video_processor(folder)) is not None:
        print(
            f"note: transformers' AutoProcessor takes this for a {name}, which makes videos ready, too, and for that "
            "wants torchvision: pip install torchvision; AutoTokenizer and AutoImageProcessor load without"
        )


def card_of(model: str, name: str, *, is_adapter: bool | None = None, tables: tuple[Path, ...] = ()) -> str:
    """Return the card of a policy.

    Args:
        model: As `load_model` takes it.
        name: What it shall be called.
        is_adapter: Whether it is shared as an adapter; None: as it is.
        tables: Folders of evaluations whose tables the card shows.

    Raises:
        FocusError: If the policy, its run or an evaluation cannot be read.
    """
    from focus_agents.models.loading.sources import find_source
    from focus_agents.reports.model_card import CardFacts, report_table, run_facts, write_card
    from focus_agents.runs.export import describe_policy

    source, facts = find_source(model), describe_policy(model)
    place = source.files if source.adapter is None else source.adapter.files
    trained = run_facts(Path(place.place)) if place.hub is None else {}
    if facts["base"] is None and "run" in trained:
        facts["base"] = trained["run"].get("init_from") or trained["run"].get("model")
    if is_adapter is not None:
        facts["is_adapter"] = is_adapter
    return write_card(CardFacts(name=name, tables=[report_table(folder) for folder in tables], **facts, **trained))


if __name__ == "__main__":
    main()
