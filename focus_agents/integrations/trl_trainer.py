"""TRL's `GRPOTrainer`, learning from a prompt once for all its answers. Written for TRL 1.16.

    trainer = SharedPrefixGRPOTrainer(...)      the arguments of GRPOTrainer

Loss, gradients and settings are TRL's. One method is another: that which computes the log-probabilities of a batch. It
finds the rows that have a prompt in common, has the model compute that prompt and its pictures once (`trl_rows.py`
lays them out, `models/shared_prefix.py` says why the result is the same), and hands TRL what TRL expects. The model is
called as TRL calls it, by its fused head, so temperature, entropies, autocast, adapters and wrappers stay as they are.

Where it cannot, TRL's own method runs, and a warning says why, once.

Axis letters: B rows, N different prompts, P prompt columns, T answer columns.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import torch
from trl import GRPOTrainer

from focus_agents.engine.scoring import LARGEST_GAP
from focus_agents.integrations.trl_rows import Pictures, group_rows, pack_rows, pictures_of_rows
from focus_agents.models.adapters import base_model, family_of
from focus_agents.models.attention import FOCUS_ATTENTION, can_share_prefix, set_focus_attention
from focus_agents.models.inputs import PromptBatch
from focus_agents.models.shared_prefix import SharedPrefix, additive, answer_mask, prompt_mask
from focus_env.errors import MissingDependencyError

METHOD = "_get_per_token_logps_and_entropies"
"""TRL's method that is overridden."""
PICTURES = (
    "pixel_values", "image_grid_thw", "num_images", "pixel_attention_mask", "spatial_shapes", "num_tiles",
    "image_sizes", "image_position_ids",
)  # fmt: skip
"""Arguments of that method that describe pictures."""
TOKEN_TYPES = ("token_type_ids", "mm_token_type_ids")
"""Arguments of that method with a number for each token."""
PARAMETERS = {
    "self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size", "compute_entropy",
    "compute_aux_loss", *PICTURES, *TOKEN_TYPES,
}  # fmt: skip
"""All of them, as TRL 1.16 has them."""

Scores = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]
"""Log-probabilities, entropies and a mixture's balancing loss, as TRL's method returns them."""


def check_trl() -> None:
    """See that TRL's trainer has the method that is overridden, with the arguments that are known here.

    Raises:
        MissingDependencyError: If not.
    """
    method = getattr(GRPOTrainer, METHOD, None)
    found = set() if method is None else set(inspect.signature(method).parameters)
    if found != PARAMETERS:
        what = "no such method" if method is None else f"others: {', '.join(sorted(found ^ PARAMETERS))}"
        raise MissingDependencyError(
            f"TRL {importlib.metadata.version('trl')}: expected GRPOTrainer.{METHOD} with the arguments of TRL 1.16, "
            f"got {what}; pip install 'trl>=1.16,<1.17', or use TRL's own GRPOTrainer"
        )


class SharedPrefixGRPOTrainer(GRPOTrainer):
    """TRL's trainer, with each prompt of a micro-batch computed once for all its answers there.

    Args:
        *args: Of `trl.GRPOTrainer`.
        **kwargs: Likewise.

    Raises:
        MissingDependencyError: If this version of TRL computes log-probabilities by another method.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        check_trl()
        self._warned: set[str] = set()
        self._is_checked = False
        self._refusal = ""
        super().__init__(*args, **kwargs)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **inputs: Any,
    ) -> Scores:
        """Compute what TRL's method does: [B, T] log-probabilities, entropies on demand, 0 at padding."""

        def by_trl() -> Scores:
            own = super(SharedPrefixGRPOTrainer, self)._get_per_token_logps_and_entropies
            return own(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, compute_aux_loss,
                **inputs,
            )  # fmt: skip

        num_rows, num_prompt_columns = len(input_ids), input_ids.shape[1] - logits_to_keep
        pictures = pictures_of_rows({name: inputs.get(name) for name in PICTURES}, num_rows)
        why_not = self._refusal or self._why_not(model, input_ids, attention_mask, logits_to_keep, pictures)
        if compute_aux_loss:
            why_not = "the balancing loss of a mixture of experts counts a prompt once for each answer"
        if why_not or pictures is None:
            return self._decline(why_not, by_trl)
        types = {name: inputs[name] for name in TOKEN_TYPES if inputs.get(name) is not None}
        prompts = [part[:, :num_prompt_columns] for part in (input_ids, attention_mask, *types.values())]
        size = batch_size or num_rows
        parts = [slice(start, start + size) for start in range(0, num_rows, size)]  # as TRL cuts a batch
        groups = [group_rows([tokens[part] for tokens in prompts], pictures[part]) for part in parts]
        num_prompts = sum(map(len, groups))
        if num_prompts == num_rows:
            return self._decline(
                "no two rows of a micro-batch have a prompt in common; a larger per_device_train_batch_size keeps the "
                "answers to a prompt together",
                by_trl,
            )
        if not all(bool(attention_mask[part, num_prompt_columns:].any()) for part in parts):
            return by_trl()  # nothing is scored
        self._tell_of_cut_groups(num_rows, num_prompts)
        scored = [
            self._score(
                model, input_ids[part], attention_mask[part], logits_to_keep, own, pictures[part],
                {name: value[part] for name, value in types.items()},
            )
            for part, own in zip(parts, groups, strict=True)
        ]  # fmt: skip
        logprobs = torch.cat([part for part, _ in scored])
        if not self._is_checked:
            with torch.no_grad():
                expected, _, _ = by_trl()
            if refusal := self._difference(logprobs.detach(), expected, attention_mask[:, num_prompt_columns:].bool()):
                self._refusal = refusal
                return self._decline(refusal, by_trl)
            self._is_checked = True
        entropies = [part for _, part in scored if part is not None]
        return logprobs, torch.cat(entropies) if compute_entropy else None, None

    def _score(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        num_tokens: int,
        groups: list[list[int]],
        pictures: list[Pictures],
        types: dict[str, torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return ([B, T] log-probabilities, [B, T] entropies), from a row for each group.

        A reference's head makes no entropies, which nobody asks it for.
        """
        inner = self._inner(model)
        family, firsts = family_of(inner), [rows[0] for rows in groups]
        set_focus_attention(inner)
        num_columns = input_ids.shape[1] - num_tokens - 1
        own_pictures = {name: torch.cat([pictures[row][name] for row in firsts]) for name in pictures[0]}
        prompts = self._prompts(input_ids[firsts, :-num_tokens], attention_mask[firsts, :-num_tokens], own_pictures)
        lengths = attention_mask[:, -num_tokens:].sum(1)
        packed = pack_rows(prompts.input_ids[:, -1], input_ids[:, -num_tokens:], lengths, groups, num_columns)
        positions, starts = family.prompt_positions(inner, prompts)
        own_positions = family.text_positions(starts[:, None] - 1 + packed.answers.offset)
        seen, reach = prompts.attention_mask[:, :-1], family.prompt_reach(prompts)
        layout = SharedPrefix(num_columns, prompt_mask(seen, None if reach is None else reach[:, :-1]))
        pad = (0, packed.answers.input_ids.shape[1])
        with self.accelerator.autocast():
            output = model(
                input_ids=torch.cat([prompts.input_ids[:, :-1], packed.answers.input_ids], dim=1),
                attention_mask=additive(answer_mask(packed.answers, seen), inner.dtype),
                position_ids=torch.cat([positions[..., :-1], own_positions], dim=-1),
                shared_prefix=layout,
                shift_labels=packed.labels,
                fused_lm_head=True,
                **{n: torch.nn.functional.pad(value[firsts, :num_columns], pad) for n, value in types.items()},
                **own_pictures,
            )
        entropies = None if output.entropy is None else packed.by_row(output.entropy)
        return packed.by_row(output.log_probs), entropies

    def _prompts(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, pictures: Pictures) -> PromptBatch:
        """Return prompts with what a family counts their positions by."""
        grids = input_ids.new_zeros(0, 2)
        if "image_grid_thw" in pictures:
            grids = pictures["image_grid_thw"][:, 1:] // self.processing_class.image_processor.merge_size
        return PromptBatch(input_ids, attention_mask, input_ids == self._image_token_id(), grids, (), {}, {})

    def _image_token_id(self) -> int:
        """Return the token that stands for a part of a picture."""
        tokenizer: Any = getattr(self.processing_class, "tokenizer", self.processing_class)
        return int(tokenizer.convert_tokens_to_ids(family_of(self._inner(self.model)).image_token))

    def _inner(self, model: Any) -> Any:
        """Return the model of transformers in all that is around it."""
        return base_model(self.accelerator.unwrap_model(model))

    def _why_not(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        num_tokens: int,
        pictures: list[Pictures] | None,
    ) -> str:
        """Return why prompts cannot be shared, as a sentence; "": they can."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return "the weights are cut by FSDP or DeepSpeed"
        inner = self._inner(model)
        try:
            family_of(inner)
        except ValueError as error:
            return f"the model's family is not known ({error})"
        text = inner.config.get_text_config()
        if not can_share_prefix(inner.config):
            return "the model has recurrent layers or sliding windows"
        if text._attn_implementation not in ("sdpa", FOCUS_ATTENTION):
            return f"the language model's attention is {text._attn_implementation!r}; load it with 'sdpa'"
        if any(config.is_prompt_learning for config in getattr(self.model, "peft_config", {}).values()):
            return "the adapter puts tokens before the prompt"
        if model.training and _has_dropout(inner):
            return (
                "dropout is on, which would be drawn once for a group; set disable_dropout=True, and attention's to 0"
            )
        if input_ids.shape[1] - num_tokens < 2:  # one to be shared, one to predict from
            return "the prompts have a single token"
        is_image = input_ids == self._image_token_id()
        if pictures is None or bool(is_image.any()) != bool(pictures[0]):
            return "the pictures are laid out in a way that is not known"
        if bool((is_image & attention_mask.bool())[:, -num_tokens - 1 :].any()):
            return "a prompt ends with a picture, or an answer has one"
        prompt, answer = attention_mask[:, :-num_tokens], attention_mask[:, -num_tokens:]
        if bool((prompt.diff(dim=1) < 0).any() | (answer.diff(dim=1) > 0).any() | (prompt[:, -1] == 0).any()):
            return "prompts are padded on the right, or answers have gaps"
        return ""

    def _decline(self, why_not: str, by_trl: Callable[[], Scores]) -> Scores:
        """Say why a batch is left to TRL, and leave it."""
        self._warn(f"prompts are computed once for each answer, as by TRL's own trainer: {why_not}")
        return by_trl()

    def _tell_of_cut_groups(self, num_rows: int, num_prompts: int) -> None:
        """Warn where micro-batches hold less of a group than they could: TRL shuffles answers between them."""
        if self.model.training and torch.is_grad_enabled() and num_prompts * self.num_generations > num_rows:
            self._warn(
                f"a micro-batch of {num_rows} answers has {num_prompts} prompts, so each is computed for "
                f"{num_rows / num_prompts:.1f} answers in place of {self.num_generations}, since TRL shuffles answers "
                "between micro-batches; set gradient_accumulation_steps=1 and per_device_train_batch_size to a "
                "multiple of num_generations"
            )

    def _difference(self, ours: torch.Tensor, expected: torch.Tensor, is_scored: torch.Tensor) -> str:
        """Return why the first batch shows that numbers differ from TRL's, as a sentence; "": they do not."""
        is_exact = self.accelerator.mixed_precision == "no" and self._inner(self.model).dtype == torch.float32
        limit = LARGEST_GAP["fp32" if is_exact else "bf16"]
        gap = float((ours - expected)[is_scored].float().abs().mean())
        if gap <= limit:
            return ""
        return f"log-probabilities of the first batch differ from TRL's by {gap:.1e} nats a token, more than {limit}"

    def _warn(self, message: str) -> None:
        """Warn, once for each reason, whatever numbers it names."""
        kind = "".join(letter for letter in message if not letter.isdigit())
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(f"SharedPrefixGRPOTrainer: {message}", UserWarning, stacklevel=4)


def _has_dropout(model: Any) -> bool:
    """Return whether a model in training mode draws what it drops, in modules or in attention."""
    configs = [model.config, *(getattr(model.config, name, None) for name in model.config.sub_configs)]
    in_attention = any(getattr(config, "attention_dropout", 0.0) for config in configs)
    return in_attention or any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in model.modules())
