"""How many bytes of tensors live while code runs: a count of allocations, as a GPU's allocator would see them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveTensors(TorchDispatchMode):
    """Within this context, bytes of all storages that operations have made and that still live.

    Forward and backward passes are seen alike, and what autograd keeps for a backward pass is counted. A storage counts
    once, whatever views there are. What an operation needs inside of itself is not seen.

    Args:
        known: Tensors that were there before, such as weights; they are not counted.

    Attributes:
        live: Bytes at the last operation.
        peak: The most of these.
    """

    def __init__(self, known: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self._known = {tensor.untyped_storage()._cdata for tensor in known}
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self.live = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._known and storage._cdata not in self._storages:
                    self._storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.measure()
        return result

    def measure(self) -> int:
        """Count what lives now."""
        for key in [key for key, (reference, _) in self._storages.items() if reference.expired()]:
            del self._storages[key]
        self.live = sum(size for _, size in self._storages.values())
        self.peak = max(self.peak, self.live)
        return self.live
