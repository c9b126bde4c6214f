"""Ray Train's set-up of torch, with a rendezvous that listens where its processes are told, not everywhere."""

from __future__ import annotations

from typing import Any

from ray.train.torch import TorchConfig

from focus_agents.processes.loopback import listen_where_told


def local_torch_config() -> TorchConfig:
    """Return Ray Train's configuration of torch, for workers that may all be on one machine."""
    parent: Any = TorchConfig().backend_cls

    class LocalTorchBackend(parent):
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            worker_group.execute(listen_where_told)
            super().on_start(worker_group, backend_config)

    class LocalTorchConfig(TorchConfig):
        @property
        def backend_cls(self) -> type:
            return LocalTorchBackend

    return LocalTorchConfig()
