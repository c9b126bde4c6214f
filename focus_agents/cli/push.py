"""Share a policy on the hub: a folder of weights or of an adapter, with a card.

How to run:
    focus push --model exported --to somebody/my-policy --dry-run
    focus push --model exported --to somebody/my-policy

The model is private until --public is given. The token is that of `hf auth login`, or HF_TOKEN.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from focus_agents.cli.command_line import parse, quiet_libraries
from focus_agents.cli.errors import make_console, print_warning, user_errors, work_errors
from focus_agents.cli.export import card_of
from focus_agents.models.references import absolute_reference
from focus_agents.settings import Settings
from focus_env.errors import FocusError

EMPTY_CARD = "[More Information Needed]"
"""The text that PEFT writes throughout the cards of its own."""


@dataclass(frozen=True, kw_only=True)
class Args(Settings):
    """Share a policy on the hub."""

    model: str
    """Folder of the policy, such as checkpoints/final of a run, or of an export."""
    to: str
    """The repository's name on the hub, OWNER/NAME."""
    public: bool = False
    """Make the model public."""
    revision: str | None = None
    """Branch to write to; None: main."""
    message: str = "A policy trained by focus-localization"
    """Message of the commit."""
    scores: tuple[Path, ...] = ()
    """Folders of evaluations, whose tables a new card shows; an existing card in the folder is used unchanged."""
    dry_run: bool = False
    """Show the card and the files, and send nothing."""


def main() -> None:
    with user_errors(Args):
        args = parse(Args, __doc__)
        quiet_libraries()
        from focus_agents.models.loading import check_model  # here and below: a command line is read without torch
        from focus_agents.runs.push import base_of_this_machine, check_name, files_to_push, push_files

        check_name(args.to)
        text = absolute_reference(args.model)
        files = files_to_push(text)
        check_model(text)
        card = own_card(text, args.to) or card_of(text, args.to, tables=args.scores)
    who = "public" if args.public else "private"
    print(f"{args.to}, {who}:\n" + "\n".join(f"  {file.stat().st_size:>14,}  {name}" for name, file in files.items()))
    if (base := base_of_this_machine(text)) is not None:
        print_warning(
            f"the adapter names its base by a folder of this machine, {base}, where nobody else finds it; push what "
            "`focus export` writes, or write the adapter anew on the base's name on the hub: "
            "`focus export --form adapter --base-model OWNER/NAME`"
        )
    if args.dry_run:
        print(f"nothing is sent (--dry-run); the card:\n\n{card}")
        return
    with work_errors(Args, make_console(stderr=True, arguments=Args), FocusError):
        url = push_files(files, args.to, card=card, is_public=args.public, revision=args.revision, message=args.message)
    print(f"{url}, {who}; load it by `focus evaluate --policy vlm:{args.to}`")


def own_card(model: str, name: str) -> str | None:
    """Return the card that lies in a policy's folder, under the name that it gets; None: there is none.

    An export has one with what is known of its run, and a user may have written another.
    """
    from focus_agents.models.loading.sources import find_source
    from focus_agents.reports.model_card import CARD, rename_card

    source = find_source(model)
    file = CARD if source.adapter is None else source.adapter.name_of(CARD)
    files = source.files if source.adapter is None else source.adapter.files
    card = files.path(file).read_text(encoding="utf-8") if files.has(file) else EMPTY_CARD
    return None if EMPTY_CARD in card else rename_card(card, name)


if __name__ == "__main__":
    main()
