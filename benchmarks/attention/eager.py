"""The peer: both losses from the attention maps that transformers returns."""

from __future__ import annotations

import torch
from transformers import Qwen2VLForConditionalGeneration

from focus_agents.engine.forward import image_inputs
from focus_agents.models.inputs import IGNORED
from focus_agents.sft.data import SFTBatch
from focus_agents.sft.loss import attention_loss, lm_loss, margin_unit, support_delta
from focus_agents.sft.settings import SFTConfig
from focus_agents.sft.step import token_labels


def take_eager_step(
    model: Qwen2VLForConditionalGeneration, batch: SFTBatch, config: SFTConfig, *, keeps_maps: bool = False
) -> dict[str, float]:
    """Return the peer, for one example: the model returns its attention maps, [1, A, N, N] of each layer.

    The peer uses as little memory for its maps as possible. It reads only the query picture's rows. Without
    `keeps_maps`, it holds no map during backward that autograd does not hold; under checkpointing autograd holds none.
    """
    prompts, num_answer = batch.prompts, batch.answer_ids.shape[1]
    ids = torch.cat([prompts.input_ids, batch.answer_ids], dim=1)
    labels = token_labels(batch, config.labels)[:, -num_answer - 1 :]
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        output = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **image_inputs(model, prompts, num_answer),
            use_cache=False,
            logits_to_keep=num_answer + 1,
            output_attentions=True,
        )
    lm = lm_loss(output.logits, labels) / (labels[:, 1:] != IGNORED).sum()
    rows = batch.query_mask[0].nonzero().flatten().tolist()
    is_support = torch.nn.functional.pad(batch.support_mask, (0, num_answer)).float()[:, None, :, None]
    masses = [(maps[:, :, rows[0] : rows[-1] + 1].float() @ is_support)[..., 0].mean(1) for maps in output.attentions]
    kept = output if keeps_maps else None
    del output
    num_support = batch.support_mask.sum(1)
    delta = support_delta(torch.stack(masses).mean(0), num_support, torch.full_like(num_support, ids.shape[1]))
    unit = margin_unit(num_support, is_relative=config.margin_unit == "reachable")
    attention = attention_loss(delta, torch.ones_like(delta, dtype=torch.bool), config.margin, unit).sum()
    (lm + config.beta * attention).backward()  # type: ignore[no-untyped-call]
    del kept
    return {"lm_loss": lm.item(), "attention_loss": attention.item()}
