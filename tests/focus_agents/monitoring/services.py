"""Stand-ins for the libraries of tracking services: the few calls that are made of them, and what they were told."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any


class Server:
    """What a service knows: by run, the points and pictures that it was shown."""

    def __init__(self) -> None:
        self.points: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        self.pictures: dict[str, list[tuple[int, str]]] = {}
        self.ended: list[str] = []
        self.options: list[dict[str, Any]] = []

    def tell(self, run: str, values: dict[str, Any], step: int) -> None:
        for name, value in values.items():
            if isinstance(value, float):
                self.points.setdefault(run, []).append((step, {name: value}))
            else:
                self.pictures.setdefault(run, []).append((step, name))


def modules(server: Server) -> dict[str, ModuleType]:
    """The stand-ins by name, as `sys.modules` takes them."""

    def run_of(name: str) -> Any:
        return SimpleNamespace(
            id=name,
            dir="run/files",
            url="https://there",
            log=lambda values, step: server.tell(name, values, step),
            finish=lambda: server.ended.append(name),
        )

    def init(**options: Any) -> Any:
        server.options.append(options)
        return run_of(options.get("id") or f"run-{len(server.options)}")

    wandb, trackio, mlflow = (ModuleType(name) for name in ("wandb", "trackio", "mlflow"))
    for module in (wandb, trackio):
        module.init, module.Image = init, bytes  # type: ignore[attr-defined]
    wandb.Settings = dict  # type: ignore[attr-defined]
    trackio.init = lambda **options: (server.options.append(options), run_of(options["name"]))[1]  # type: ignore[attr-defined]

    def finish() -> None:
        raise RuntimeError("another thread's run")

    trackio.finish = finish  # type: ignore[attr-defined]

    class Client:
        def __init__(self, uri: str) -> None:
            server.options.append({"uri": uri})

        def get_experiment_by_name(self, name: str) -> None:
            return None

        def create_experiment(self, name: str, artifacts: str | None) -> str:
            return "1"

        def create_run(self, experiment: str, run_name: str) -> Any:
            return SimpleNamespace(info=SimpleNamespace(run_id=f"id of {run_name}"))

        def update_run(self, run_id: str, status: str) -> None:
            assert run_id in server.points

        def log_param(self, run_id: str, key: str, value: Any) -> None:
            server.points.setdefault(run_id, [])

        def log_batch(self, run_id: str, metrics: list[Any]) -> None:
            for metric in metrics:
                server.tell(run_id, {metric.key: metric.value}, metric.step)

        def log_image(self, run_id: str, picture: Any, key: str, step: int) -> None:
            server.tell(run_id, {key: picture}, step)

        def set_terminated(self, run_id: str) -> None:
            server.ended.append(run_id)

    tracking, entities = ModuleType("mlflow.tracking"), ModuleType("mlflow.entities")
    tracking.MlflowClient = Client  # type: ignore[attr-defined]
    entities.Metric = lambda key, value, now, step: SimpleNamespace(key=key, value=value, step=step)  # type: ignore[attr-defined]
    return {
        "wandb": wandb, "trackio": trackio, "mlflow": mlflow, "mlflow.tracking": tracking, "mlflow.entities": entities,
    }  # fmt: skip
