"""A stand-in for vLLM, as small as may be: its classes and signatures, answered by a model of transformers.

It keeps what vLLM keeps, and is stale where vLLM would be: keys and values of prompts (by token ids, pictures and the
adapter's name), outputs of the vision tower (by pictures), preprocessed pictures, and adapters (by their number). It
expands the first placeholders that it finds, whether the prompt was expanded before or not.
"""

from __future__ import annotations

import copy
import hashlib
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from focus_agents.engine.decoding import start_decoding
from focus_agents.engine.forward import encode_images, prefill
from focus_agents.models.adapters import base_model, model_parts, quiet_peft
from focus_agents.models.attention import set_focus_attention
from focus_agents.models.inputs import EncodedPrompt
from focus_agents.models.loading import load_processor

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


@dataclass
class SamplingParams:
    n: int = 1
    temperature: float = 1.0
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    logprobs: int | None = None
    detokenize: bool = True
    logit_bias: dict[int, float] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature must be in [0, 2], got {self.temperature}.")
        if 0 < self.temperature < 0.01:
            self.temperature = 0.01


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: Sequence[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]


@dataclass(frozen=True)
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str = ""

    def __post_init__(self) -> None:
        if self.lora_int_id < 1:
            raise ValueError(f"id must be > 0, got {self.lora_int_id}")
        assert self.lora_path, "lora_path cannot be empty"


@dataclass
class LLMEngine:
    """What `LLM.llm_engine` is asked for."""

    loras: dict[int, Any] = field(default_factory=dict)
    encoder_cache: dict[Any, Any] = field(default_factory=dict)

    def reset_encoder_cache(self) -> None:
        self.encoder_cache.clear()

    def remove_lora(self, lora_id: int) -> bool:
        return self.loras.pop(lora_id, None) is not None


class LLM:
    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        trust_remote_code: bool = False,
        dtype: str = "auto",
        seed: int = 0,
        gpu_memory_utilization: float = 0.92,
        mm_processor_kwargs: dict[str, Any] | None = None,
        max_model_len: int | None = None,
        enable_prefix_caching: bool | None = None,
        limit_mm_per_prompt: dict[str, int] | None = None,
        logprobs_mode: str = "raw_logprobs",
        generation_config: str = "auto",
        enable_lora: bool = False,
        max_lora_rank: int = 16,
        max_loras: int = 1,
        max_cpu_loras: int | None = None,
    ) -> None:
        if max_lora_rank not in LORA_RANKS:
            raise ValueError(f"max_lora_rank must be one of {LORA_RANKS}, got {max_lora_rank}")
        # Half precision where nobody says otherwise, as vLLM has it for weights in float32.
        kinds = {"auto": torch.float16, "float32": torch.float32, "bfloat16": torch.bfloat16}
        self._model = AutoModelForImageTextToText.from_pretrained(model, dtype=kinds[dtype]).eval()
        self._processor = load_processor(model)
        self._processor_kwargs = mm_processor_kwargs or {}
        self._limit = (limit_mm_per_prompt or {}).get("image", 999)
        self._is_processed, self._caches_prefixes = logprobs_mode == "processed_logprobs", bool(enable_prefix_caching)
        self._max_lora_rank, self._max_loras = max_lora_rank if enable_lora else 0, max_loras
        longest = self._model.config.get_text_config().max_position_embeddings
        self.model_config = types.SimpleNamespace(
            max_model_len=longest if max_model_len in (None, -1) else max_model_len
        )
        self.llm_engine = LLMEngine()
        self.prefix_cache: dict[Any, Any] = {}
        self.mm_cache: dict[Any, Any] = {}
        self.num_prefills = 0
        self.is_busy = False

    # ---- what vLLM can be told

    def reset_prefix_cache(self) -> bool:
        if not self.is_busy:
            self.prefix_cache.clear()
        return not self.is_busy

    def reset_mm_cache(self) -> None:
        self.mm_cache.clear()

    def collective_rpc(self, method: str, kwargs: Mapping[str, Any]) -> list[None]:
        assert method == "reload_weights"
        (file,) = Path(kwargs["weights_path"]).glob("*.safetensors")
        loaded, info = type(self._model).from_pretrained(
            None, config=self._model.config, state_dict=load_file(file), output_loading_info=True
        )
        if info["unexpected_keys"]:
            raise ValueError(f"There is no module or parameter named {sorted(info['unexpected_keys'])[0]!r}")
        missing = set(info["missing_keys"])
        with torch.no_grad():
            for (name, parameter), (_, new) in zip(
                self._model.named_parameters(), loaded.named_parameters(), strict=True
            ):
                if name not in missing:
                    parameter.copy_(new)
        return [None]

    def generate(
        self,
        prompts: Sequence[Mapping[str, Any]],
        sampling_params: Sequence[SamplingParams],
        *,
        use_tqdm: bool = True,
        lora_request: LoRARequest | None = None,
    ) -> list[RequestOutput]:
        model = self._model if lora_request is None else self._with_adapter(lora_request)
        set_focus_attention(model)
        try:
            return [self._answer(model, p, s, lora_request) for p, s in zip(prompts, sampling_params, strict=True)]
        finally:
            if lora_request is not None:
                model.unload()

    # ---- how it answers

    def _with_adapter(self, request: LoRARequest) -> Any:
        if not self._max_lora_rank:
            raise ValueError("Got lora_request but LoRA is not enabled!")
        known = self.llm_engine.loras
        if request.lora_int_id not in known:  # by its number alone, wherever it lies
            while len(known) >= self._max_loras:
                known.pop(next(iter(known)))
            known[request.lora_int_id] = load_file(Path(request.lora_path) / "adapter_model.safetensors")
        with quiet_peft():
            model = PeftModel.from_pretrained(self._model, request.lora_path).eval()
        rank = model.peft_config["default"].r
        if rank > self._max_lora_rank:
            raise ValueError(f"LoRA rank {rank} is greater than max_lora_rank {self._max_lora_rank}.")
        named = dict(model.named_parameters())
        for name, tensor in known[request.lora_int_id].items():
            place = name.replace(".weight", ".default.weight")
            named[place].data.copy_(tensor)
        return model

    def _encode(self, prompt: Mapping[str, Any]) -> tuple[EncodedPrompt, tuple[str, ...]]:
        images = prompt["multi_modal_data"]["image"]
        assert all(isinstance(image, Image.Image) for image in images)
        if len(images) > self._limit:
            raise ValueError(f"At most {self._limit} image(s) may be provided in one prompt.")
        hashes = tuple(hashlib.sha256(image.tobytes() + str(image.size).encode()).hexdigest() for image in images)
        changes = self._processor_kwargs | dict(prompt.get("mm_processor_kwargs") or {})
        hashes = (*hashes, str(sorted(changes.items())))  # vLLM's hash of a picture has them in it
        if hashes not in self.mm_cache:
            image_processor = copy.deepcopy(self._processor.image_processor)
            for name, value in changes.items():
                setattr(image_processor, name, value)
            arrays = [np.asarray(image) for image in images]
            self.mm_cache[hashes] = self._processor.family.preprocess(image_processor, arrays)
        grids, arrays_by_name = self.mm_cache[hashes]
        runs = iter(grids.prod(1).tolist())
        ids: list[int] = []
        for token in prompt["prompt_token_ids"]:
            is_target = token == self._processor.image_token_id
            count = next(runs, None) if is_target else None
            ids += [token] * (1 if count is None else count)
        if next(runs, None) is not None:
            raise ValueError(f"Expected there to be {len(images)} prompt placeholders corresponding to the images")
        return EncodedPrompt(np.array(ids), grids, arrays_by_name), hashes

    @torch.no_grad()
    def _answer(
        self, model: Any, prompt: Mapping[str, Any], params: SamplingParams, lora: LoRARequest | None
    ) -> RequestOutput:
        encoded, hashes = self._encode(prompt)
        ids = encoded.input_ids.tolist()
        if len(ids) != int((encoded.input_ids != self._processor.image_token_id).sum() + encoded.grids.prod(1).sum()):
            # Expanded twice: vLLM answers with what it has placed, so the rest of the pictures' tokens are words.
            return RequestOutput(ids, [])
        key = (tuple(ids), hashes, None if lora is None else (lora.lora_name, lora.lora_path))
        prefix = self.prefix_cache.get(key)
        encoder = self.llm_engine.encoder_cache
        batch = self._processor.collate([encoded])
        if hashes not in encoder:
            encoder[hashes] = encode_images(model, batch)
        batch = self._processor.collate(self._processor.replace_pixels([encoded], encoder[hashes]))
        if prefix is None:
            self.num_prefills += 1
            prefix = prefill(model, batch)
            if self._caches_prefixes:
                self.prefix_cache[key] = prefix
        outputs = [self._complete(model, batch, prefix, params, index) for index in range(params.n)]
        return RequestOutput(ids, outputs)

    def _complete(self, model: Any, batch: Any, prefix: Any, params: SamplingParams, index: int) -> CompletionOutput:
        generator = None if params.seed is None else torch.Generator().manual_seed(params.seed + index)
        assert params.max_tokens is not None
        decoder = start_decoding(model, batch, 1, params.max_tokens, prefix)
        head, hidden = model_parts(model).head, decoder.hidden
        tokens: list[int] = []
        logprobs: list[dict[int, Logprob]] = []
        reason = "length"
        for step in range(params.max_tokens):
            logits = head(hidden)[0, 0].float()
            raw = logits.log_softmax(-1)
            for token, bias in (params.logit_bias or {}).items():
                logits[token] += bias
            processed = (logits / (params.temperature or 1.0)).log_softmax(-1)
            greedy = params.temperature == 0
            token = int(processed.argmax() if greedy else torch.multinomial(processed.exp(), 1, generator=generator))
            tokens.append(token)
            logprobs.append({token: Logprob(float((processed if self._is_processed else raw)[token]))})
            ends = [*(params.stop_token_ids or []), *([] if params.ignore_eos else [self._eos()])]
            if token in ends:
                reason = "stop"
                break
            if step + 1 < params.max_tokens:
                hidden = decoder.step(torch.tensor([[token]]))
        total = sum(next(iter(at.values())).logprob for at in logprobs)
        return CompletionOutput(index, "", tokens, total, None if params.logprobs is None else logprobs, reason)

    def _eos(self) -> int:
        return int(base_model(self._model).config.get_text_config().eos_token_id or -1)


def install(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Let `import vllm` find the stand-in for the length of a test; returns the module."""
    module, lora, request = (types.ModuleType(name) for name in ("vllm", "vllm.lora", "vllm.lora.request"))
    vars(module).update(LLM=LLM, SamplingParams=SamplingParams, lora=lora)
    vars(request).update(LoRARequest=LoRARequest)
    module.__spec__ = types.SimpleNamespace(name="vllm")  # type: ignore[assignment]  # what find_spec gives
    for part in (module, lora, request):
        monkeypatch.setitem(sys.modules, part.__name__, part)
    return module
