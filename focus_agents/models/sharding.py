"""Divide a model among processes by FSDP2: each holds a share of every weight, gradient and mean of the optimizer.

    shard(model, device)            before it has an optimizer
    loss.backward()                 of outputs of model(...): each layer is gathered before it runs, and let go after
    with whole_weights(model): ...  forward passes of any number, different ones in each process
    gather(parameters, ...)         whole tensors, as a model that is not sharded has them

"All processes" are those of torch's process group, which exists. Weights are gathered and gradients exchanged in their
own type, so the numbers are those of one process, up to the order of sums.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from focus_agents.models.adapters import model_parts
from focus_env.errors import MissingDependencyError

_BEGIN = "begin_sharded"


def check_sharding() -> None:
    """Check that this torch can shard a model.

    Raises:
        MissingDependencyError: If it is too old.
    """
    if not hasattr(FSDPModule, "reset_iter_state"):
        raise MissingDependencyError(
            f'shard_weights: expected torch 2.13 or newer, got {torch.__version__}; pip install "torch>=2.13"'
        )


def shard(model: Any, device: torch.device) -> None:
    """Replace the parameters of a model by this process's shares of them, on a device; in place.

    Args:
        model: Of transformers or PEFT, on the CPU and the same in all processes. The parameters of a decoder layer are
            gathered together, and so are all others, as of embedding, head and vision tower; these stay gathered until
            the end of a backward pass.
        device: This process's.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for layer in model_parts(model).layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)  # the loss may use the head after the forward pass
    # FSDP takes the first module that runs for the outermost one. Generation calls inner ones, so this one is first.
    setattr(model, _BEGIN, lambda: None)
    register_fsdp_forward_method(model, _BEGIN)
    getattr(model, _BEGIN)()
    model.reset_iter_state()


def is_sharded(model: Any) -> bool:
    """Return whether a model went through `shard`."""
    return isinstance(model, FSDPModule)


@contextlib.contextmanager
def whole_weights(model: Any) -> Iterator[None]:
    """Hold all weights in each process, for different numbers of forward passes without gradients.

    Args:
        model: Sharded; all processes enter and leave together. One that is not sharded is left as it is.
    """
    if not is_sharded(model):
        yield
        return
    modules = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in modules:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in modules:
            module.set_reshard_after_forward(module is not model, recurse=False)
        model.reset_iter_state()  # lets weights go, and forgets the order of these passes, which is each process's own


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor as a whole; all processes take part if it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather(tensors: Mapping[str, Any], *, keeps: bool) -> dict[str, Any]:
    """Return whole tensors on the CPU; a device holds one of them at a time.

    Args:
        tensors: By name, sharded or not; all processes take part, with the same names. Other values stay as they are.
        keeps: Whether this process gets the tensors; if not, the result is empty.
    """
    found: dict[str, Any] = {}
    for name, value in tensors.items():
        own = whole(value.detach()) if isinstance(value, torch.Tensor) else value
        if keeps:
            found[name] = own.cpu() if isinstance(own, torch.Tensor) else own
    return found


def gather_optimizer(optimizer: torch.optim.Optimizer, *, keeps: bool) -> dict[str, Any]:
    """Return the state of an optimizer as `state_dict` does, its tensors as `gather` returns them."""
    state: dict[str, Any] = optimizer.state_dict()
    return state | {"state": {key: gather(values, keeps=keeps) for key, values in state["state"].items()}}


def share_of(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return this process's share of a whole tensor; no other process takes part.

    Args:
        tensor: Returned as it is if `like` is not sharded, or has another shape.
        like: The tensor whose sharding is taken.
    """
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
