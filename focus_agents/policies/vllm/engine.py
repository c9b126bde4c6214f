"""vLLM in this process: started once, given new weights again and again, and asked with pictures.

Three caches hold what weights have made: keys and values of prompts, the vision tower's outputs, and preprocessed
pictures. All are on, and all are forgotten with each new version of the weights.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from focus_agents.errors import PolicyError
from focus_agents.models.loading import load_family
from focus_agents.models.settings import Precision
from focus_env.errors import MissingDependencyError

MAX_PICTURES = 512
"""Of a prompt; vLLM takes so many, and no video."""
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""For which vLLM has room; an adapter takes the next larger one."""
DTYPES: Mapping[Precision, str] = {"fp32": "float32", "bf16": "bfloat16"}


def require_vllm() -> None:
    """See that vLLM is installed, without importing it, which takes its time.

    Raises:
        MissingDependencyError: If not.
    """
    if importlib.util.find_spec("vllm") is None:
        raise MissingDependencyError(
            "the engine vllm needs the package vllm, which is not installed; run: pip install "
            '"focus-localization[vllm]" on a machine with a GPU, or set `engine` to transformers'
        )


def check_vllm(name_or_path: str | Path) -> None:
    """See that vLLM is installed and takes prompts of a model, before either is loaded.

    Args:
        name_or_path: As for `focus_agents.models.loading.load_model`.

    Raises:
        MissingDependencyError: If vLLM is not installed.
        CheckpointError: If there is no such model.
        ValueError: If vLLM computes prompts of the model's family otherwise.
    """
    require_vllm()
    family = load_family(name_or_path)
    if family.vllm_fault:
        raise ValueError(
            f"engine: expected transformers for models of the family {family.name!r}, got 'vllm', {family.vllm_fault}"
        )


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """The options with which vLLM is started.

    Attributes:
        precision: What it computes in; weights are held in the same.
        memory: Share of the GPU that it may fill, as vLLM's `gpu_memory_utilization`.
        lora_rank: Largest rank of adapters; None: there will be none.
        processor_options: Settings of the image processor for all prompts that differ from those in the model's folder.
            A prompt may have others.
        seed: Of what no prompt's seed decides.
    """

    precision: Precision = "fp32"
    memory: float = 0.9
    lora_rank: int | None = None
    processor_options: Mapping[str, Any] | None = None
    seed: int = 0

    def arguments(self, model: str, revision: str | None = None) -> dict[str, Any]:
        """Return the arguments of vLLM's `LLM`.

        Args:
            model: Folder with the model in transformers' format, or its name on the hub.
            revision: On the hub.

        Raises:
            ValueError: If vLLM has no room for adapters of this rank.
        """
        adapters: dict[str, Any] = {}
        if self.lora_rank is not None:
            adapters = {"enable_lora": True, "max_lora_rank": _room(self.lora_rank), "max_loras": 1, "max_cpu_loras": 1}
        return {
            "model": model,
            "revision": revision,
            "dtype": DTYPES[self.precision],
            "seed": self.seed,
            "gpu_memory_utilization": self.memory,
            "max_model_len": -1,  # as much of the model's context as there is room for
            "enable_prefix_caching": True,
            "limit_mm_per_prompt": {"image": MAX_PICTURES, "video": 0},
            "mm_processor_kwargs": dict(self.processor_options or {}),
            # Of the distribution that tokens are drawn from: its default is that of the raw logits.
            "logprobs_mode": "processed_logprobs",
            # Not the model's own generation_config.json, whose temperature and end tokens would be added to ours.
            "generation_config": "vllm",
            "trust_remote_code": False,
            **adapters,
        }


class VLLMEngine:
    """One vLLM engine, and which weights it has.

    Args:
        model: Folder with the model in transformers' format, or its name on the hub.
        options: How it is started.
        revision: On the hub.

    Attributes:
        version: Counts the weights that it was given; 0: those that it started with.

    Raises:
        MissingDependencyError: If vLLM is not installed.
        PolicyError: If vLLM cannot start, for whatever reason it names.
    """

    def __init__(self, model: str, options: EngineOptions, revision: str | None = None) -> None:
        require_vllm()
        arguments = options.arguments(model, revision)
        try:
            from vllm import LLM

            self._llm: Any = LLM(**arguments)
        except Exception as error:  # of vLLM, of CUDA, of pydantic: there is no family of them
            raise PolicyError(
                f"engine vllm: it does not start with the model {model!r} ({type(error).__name__}: {error}); see that "
                "it has a GPU with room (`engine_memory`) and knows the architecture, or set `engine` to transformers"
            ) from error
        self._adapter: Any = None
        self.version = 0

    @property
    def max_tokens(self) -> int:
        """The most tokens of a prompt and its answer."""
        return int(self._llm.model_config.max_model_len)

    def generate(self, prompts: Sequence[Mapping[str, Any]], sampling: Sequence[Any]) -> list[Any]:
        """Return vLLM's `RequestOutput` for each prompt.

        Args:
            prompts: As vLLM's `TokensPrompt`.
            sampling: vLLM's `SamplingParams` for each.
        """
        outputs: list[Any] = self._llm.generate(
            list(prompts), list(sampling), use_tqdm=False, lora_request=self._adapter
        )
        return outputs

    def load_adapter(self, folder: Path) -> None:
        """Answer with an adapter on the model's weights from now on, in place of the one before.

        Args:
            folder: With the adapter in PEFT's format; it must stay until there is another.

        Raises:
            PolicyError: If the caches cannot be cleared.
        """
        from vllm.lora.request import LoRARequest

        before, self.version = self._adapter, self.version + 1
        # A number and a name that were never used: vLLM keeps an adapter by its number, whatever lies in the folder,
        # and keys and values by its name.
        self._adapter = LoRARequest(f"focus-{self.version}", self.version, str(folder))
        if before is not None:
            self._llm.llm_engine.remove_lora(before.lora_int_id)
        self._forget()

    def load_weights(self, folder: Path) -> None:
        """Answer with other weights of the model itself from now on.

        Args:
            folder: With the weights as safetensors, named as in the model's own files; those that are missing stay.

        Raises:
            PolicyError: If the caches cannot be cleared.
        """
        self.version += 1
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        self._forget()

    def _forget(self) -> None:
        """Clear what other weights have made."""
        if not self._llm.reset_prefix_cache():
            raise PolicyError(
                "engine vllm: its prefix cache could not be cleared after new weights, since requests are running; "
                "answers would mix two policies"
            )
        self._llm.reset_mm_cache()
        self._llm.llm_engine.reset_encoder_cache()  # the tower's outputs, which the call above leaves on the GPU


def _room(rank: int) -> int:
    """Return the smallest of `LORA_RANKS` that holds a rank."""
    for room in LORA_RANKS:
        if rank <= room:
            return room
    raise ValueError(f"lora_rank: expected at most {LORA_RANKS[-1]} for the engine vllm, got {rank}")
