"""Check that ways to compute the same agree: shared and repeated prompts, our greedy decoding and transformers'."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from focus_agents.diagnosis.findings import Section
from focus_agents.engine.forward import image_inputs
from focus_agents.engine.scoring import LARGEST_GAP, shared_prefix_gap
from focus_agents.models.adapters import base_model
from focus_agents.models.attention import can_share_prefix
from focus_agents.models.inputs import PromptBatch
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.settings import Precision

NUM_TOKENS = 8
"""Of an answer that is decoded twice."""


def check_prefix(
    section: Section, model: Any, batch: PromptBatch, answers: Sequence[Sequence[int]], precision: Precision
) -> None:
    """Compare log-probabilities of answers behind one shared prompt with those behind a prompt each.

    Args:
        section: Gets the notes.
        model: In evaluation mode.
        batch: One prompt, on the model's device.
        answers: Token ids of each answer, at least one each.
        precision: Of the computation.
    """
    config = base_model(model).config
    section.facts["shares_prefix"] = can_share_prefix(config)
    if not can_share_prefix(config):
        section.ok("a hybrid model: prompts are repeated for each answer of a group, as its layers cannot share them")
        return
    device = batch.input_ids.device
    longest = max(map(len, answers))
    ids = torch.tensor([[[*answer, *[0] * (longest - len(answer))] for answer in answers]], device=device)
    lengths = torch.tensor([list(map(len, answers))], device=device)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        gap = shared_prefix_gap(model, batch, ids, lengths)
    section.facts["shared_prefix_gap"] = gap if gap < float("inf") else None
    said = f"shared and repeated prompts differ by {gap:.1e} nats per token"
    if gap <= LARGEST_GAP[precision]:
        section.ok(f"{said}, rounding")
    else:
        section.fault(
            f"{said}, expected at most {LARGEST_GAP[precision]:g} in {precision}; train with `shared_prefix` off, and "
            "report the model's family"
        )


def check_generation(
    section: Section,
    model: Any,
    processor: VLMProcessor,
    batch: PromptBatch,
    answer: Sequence[int],
    precision: Precision,
) -> None:
    """Compare the first tokens of a greedy answer with those of transformers' own `generate`.

    Args:
        section: Gets the notes.
        model: In evaluation mode.
        processor: What ends an answer, and what it may not hold.
        batch: One prompt, on the model's device.
        answer: Token ids of the greedy answer.
        precision: Of the computation.
    """
    num_tokens = min(NUM_TOKENS, len(answer))
    settings = GenerationConfig(
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        max_new_tokens=num_tokens,
        eos_token_id=processor.eos_token_id,
        pad_token_id=processor.pad_token_id,
        suppress_tokens=list(processor.banned_token_ids) or None,
    )
    device = batch.input_ids.device
    whole = base_model(model)
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        output = whole.generate(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            generation_config=settings,
            **image_inputs(model, batch),
        )
    theirs, ours = output[0, batch.input_ids.shape[1] :].tolist(), list(answer[:num_tokens])
    section.facts |= {"greedy_tokens": ours, "transformers_tokens": theirs}
    if theirs == ours:
        section.ok(f"the first {num_tokens} greedy tokens are those of transformers' own generate")
        return
    first = next((n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    said = (
        f"the greedy answer differs from transformers' own generate from token {first} on: "
        f"{processor.tokenizer.decode(ours)!r} and {processor.tokenizer.decode(theirs)!r}"
    )
    if precision == "bf16":
        section.warn(f"{said}; in bfloat16 two tokens may be as likely, see with `precision` fp32")
    else:
        section.fault(f"{said}; report the model's family")
