"""Workers of stage 1 that divide the weights among them, as gloo processes without Ray."""

from __future__ import annotations

import datetime
import json
import multiprocessing
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed
from torch.distributed.tensor import DTensor

from focus_agents.models.weights import is_finite
from focus_agents.sft.plan import SFTPlan
from focus_agents.sft.worker import SFTWorker


def run_workers(folder: Path, size: int, plans: Sequence[SFTPlan]) -> None:
    """Carry out whole runs, one after the other, each with what its processes held in `held_<rank>.json`.

    Args:
        folder: Where the processes meet.
        size: How many there are.
        plans: Of the runs.
    """
    multiprocessing.set_forkserver_preload([__name__])  # imports once
    torch.multiprocessing.start_processes(_work, (folder, size, plans), nprocs=size, start_method="forkserver")


def _work(rank: int, folder: Path, size: int, plans: Sequence[SFTPlan]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet{size}",
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(minutes=3),  # processes that wait for one another would do so for half an hour
    )
    _pretend_ray(rank, size)
    for plan in plans:
        worker = SFTWorker(plan, shard_weights=True)
        held: dict[str, Any] = {}
        worker.optimizer.register_step_post_hook(lambda *step, seen=worker, found=held: found.update(_held(seen)))
        worker.run()
        held["weights after a validation"] = _num_bytes(worker.model.parameters())
        parameter = next(iter(worker.parameters.values())).detach()
        spoiled = parameter.clone()
        if rank == size - 1:
            spoiled.to_local().fill_(torch.nan)
        held["finite"] = [is_finite(parameter), is_finite(spoiled)]
        (plan.run_path / f"held_{rank}.json").write_text(json.dumps(held))
    torch.distributed.destroy_process_group()


def _held(worker: SFTWorker) -> dict[str, int]:
    """Bytes that a process holds between two steps, by what they are."""
    means = [state[name] for state in worker.optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    return {
        "weights": _num_bytes(worker.model.parameters()),
        "gradients": _num_bytes(parameter.grad for parameter in worker.parameters.values()),
        "optimizer": _num_bytes(means),
    }


def _num_bytes(tensors: Iterable[Any]) -> int:
    local = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in local}
    return sum(storages.values())


def _pretend_ray(rank: int, size: int) -> None:
    context = SimpleNamespace(
        get_world_rank=lambda: rank, get_world_size=lambda: size, get_local_world_size=lambda: size
    )
    ray.train.get_context = lambda: context  # type: ignore[assignment,return-value]
    ray.train.torch.get_device = lambda: torch.device("cpu")
    ray.train.report = lambda metrics: torch.distributed.barrier()
