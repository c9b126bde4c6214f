"""Choose a device, and measure its memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import psutil
import torch

from focus_agents.models.settings import Precision

AUTO, CPU, CUDA = "auto", "cpu", "cuda"

PEAK_FLOPS: Mapping[str, float] = {
    "B200": 2250e12, "H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L40": 181e12, "A40": 150e12,
    "4090": 165e12, "3090": 71e12, "V100": 125e12,
}  # fmt: skip
"""bfloat16 (V100: float16) by data sheet, of GPUs whose name holds the key."""


@dataclass(frozen=True, slots=True)
class Device:
    """A place to compute, with its memory.

    Attributes:
        name: As people call it, such as "NVIDIA H100 80GB HBM3" or "this machine's RAM".
        total: Bytes of its memory.
        free: Bytes that nobody holds now; None: not known.
        is_gpu: Whether it is a GPU.
    """

    name: str
    total: int
    free: int | None
    is_gpu: bool

    @property
    def peak_flops(self) -> float | None:
        """Operations a second in bfloat16 by its data sheet; None: not known."""
        return next((flops for key, flops in PEAK_FLOPS.items() if self.is_gpu and key in self.name), None)


def chosen_device(device: str) -> str:
    """Return where to compute: what was asked for, or for "auto" a GPU where this process sees one, else the CPU."""
    return (CUDA if torch.cuda.is_available() else CPU) if device == AUTO else device


def device_of(device: str, *, is_own: bool = True) -> Device:
    """Return a device of this machine.

    Args:
        device: "cpu", or as torch names a GPU.
        is_own: Whether this process computes there. Asking how much memory is free takes some of it, so of a GPU that
            only other processes will use it is not asked.
    """
    if torch.device(device).type == CPU:
        memory = psutil.virtual_memory()
        return Device("this machine's RAM", memory.total + psutil.swap_memory().total, memory.available, is_gpu=False)
    properties = torch.cuda.get_device_properties(device)
    free = torch.cuda.mem_get_info(device)[0] if is_own else None
    return Device(properties.name, properties.total_memory, free, is_gpu=True)


def fast_precision(device: str) -> Precision:
    """Return in which numbers a device computes faster: bfloat16, or single precision on a CPU without units for it.

    Args:
        device: "cpu", or as torch names a GPU.
    """
    if torch.device(device).type != CPU:
        return "bf16"
    # Older torch does not tell.
    units: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bf16" if units.get("avx512_bf16") or units.get("amx_bf16") else "fp32"


@contextlib.contextmanager
def memory_advice(advice: str) -> Iterator[None]:
    """Say what helps where memory runs out.

    Args:
        advice: Names the settings that change what the work inside takes, as in "lower `batch_size`".

    Raises:
        MemoryError: In place of torch's own errors; one that has advice already passes.
    """
    try:
        yield
    except RuntimeError as error:
        is_cpu_allocator = "not enough memory" in str(error) or "can't allocate memory" in str(error)
        if not (isinstance(error, torch.OutOfMemoryError) or is_cpu_allocator):
            raise
        raise MemoryError(f"out of memory: {error}. {advice[:1].upper()}{advice[1:]}") from error
