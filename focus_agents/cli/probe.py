"""Find by a linear probe where a model's hidden states hold the ground colour of the object in a support box.

How to run:
    focus probe --model focus-small-base
    focus probe --model runs/my-base/checkpoints/final --output probe.json
    focus probe --model Qwen/Qwen2-VL-2B-Instruct --probe-image-size 224

For the embedding and each layer, the probe reads four places: the box's numbers, its last number, the end of its text,
and the mean over its region of the picture. `focus pretrain` does the same at its end.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from focus_agents.cli.command_line import parse, quiet_libraries
from focus_agents.cli.common import FrameName, PolicyArguments, TemplateName
from focus_agents.cli.errors import make_console, user_errors, work_errors
from focus_agents.models.references import absolute_reference, on_base
from focus_agents.models.settings import Precision
from focus_agents.probing.settings import ProbeSettings
from focus_agents.reports.probe_table import probe_note, probe_rows
from focus_agents.reports.tables import text_table
from focus_agents.settings import Settings
from focus_env.boxes import CoordinateFrame
from focus_env.errors import FocusError
from focus_env.files import write_text
from focus_env.prompts import spelled_out


@dataclass(frozen=True, kw_only=True)
class Args(Settings):
    """Read a model's hidden states by a linear probe."""

    model: str = "focus-small-base"
    """Model or adapter: a folder or a name on the hub, as in other commands."""
    base_model: str | None = None
    """Base model of the adapter; None: the base that the adapter names."""
    template: TemplateName = None
    frame: FrameName = None
    max_image_tokens: Annotated[int, Ge(1)] | None = None
    """Most tokens per image; larger images are scaled down. None: the limit of the model's image processor."""
    probe: ProbeSettings = ProbeSettings()
    device: str = "auto"
    """Device to compute on: cpu, cuda, cuda:1; auto takes a GPU if there is one."""
    precision: Precision = "fp32"
    """bf16 holds the weights in bfloat16, and computes in it."""
    output: Path | None = None
    """File for the figures in JSON; None: write no file."""


def main() -> None:
    with user_errors(Args):
        args = parse(Args, __doc__)
        PolicyArguments(device=args.device).check_device()
        source = absolute_reference(on_base(args.model, args.base_model))
        template = spelled_out(args.template)
        quiet_libraries()
        import torch  # here and below: a command line is read without it

        from focus_agents.models.adapters import base_model, family_of
        from focus_agents.models.devices import chosen_device
        from focus_agents.models.loading import check_model, load_model, load_template
        from focus_agents.probing.probe import probe_episodes, probe_model
        from focus_agents.probing.states import encode_question

        processor = check_model(source, max_image_tokens=args.max_image_tokens)
        words = load_template(
            source,
            name=template,
            frame=None if args.frame is None else CoordinateFrame(args.frame),
            max_image_tokens=args.max_image_tokens,
        )
        encode_question(processor, processor.fit_template(words), probe_episodes(args.probe)[0])  # its boxes are marked
        if args.output is not None:
            args.output.parent.mkdir(parents=True, exist_ok=True)
    console = make_console(arguments=Args)
    with work_errors(Args, console, FocusError):
        with make_console(stderr=True).status("loading the model") as status:
            dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32
            model = load_model(source, dtype=dtype).to(chosen_device(args.device))
            family_of(model).batch_pictures(base_model(model))
            total = args.probe.num_probe_episodes
            found = probe_model(
                model, processor, words, args.probe, tell=lambda done: status.update(f"{done} of {total} episodes")
            ).as_dict()
        if args.output is not None:
            write_text(args.output, json.dumps({"model": args.model, **found}, indent=2) + "\n")
    console.print(text_table(probe_rows(found), f"linear probe of {args.model}"))
    console.print(probe_note(found))
    if args.output is not None:
        console.print(f"results: {args.output}")


if __name__ == "__main__":
    main()
