"""A client that asks the backend as Label Studio does, and what it sends."""

from __future__ import annotations

import http.client
import json
from typing import Any

from focus_agents.finding.choice import make_policy
from focus_agents.finding.looking import Looker
from focus_agents.integrations.label_studio.backend import Backend
from focus_agents.integrations.label_studio.host import Host
from focus_agents.integrations.label_studio.server import make_server
from focus_agents.policies.localizers import LocalizerPolicy
from tests.focus_agents.finding.scenes import SIDE, TEMPLATE, FindsBright

CONFIG = (
    '<View><Image name="img" value="$photo"/><RectangleLabels name="box" toName="img">'
    '<Label value="mug"/><Label value="a cup" alias="cup"/></RectangleLabels></View>'
)
WIDTH, HEIGHT = 80, 60
ORIGIN = "http://127.0.0.1:9"


class Client:
    """Asks a backend over HTTP, as Label Studio does, and keeps what it says to whoever runs it."""

    def __init__(self, host: Host, localizer: Any = None, **options: Any) -> None:
        self.localizer = FindsBright() if localizer is None else localizer
        looker = Looker([], *make_policy(LocalizerPolicy(self.localizer, TEMPLATE), TEMPLATE))
        self.said: list[str] = []
        self.backend = Backend(host, looker.asking_for, name="bright", say=self.said.append, **options)
        self.server = make_server(self.backend)

    def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=20)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, given)
        answer = connection.getresponse()
        found = answer.status, answer.reason, json.loads(answer.read())
        connection.close()
        return found

    def post(self, path: str, **request: Any) -> Any:
        status, reason, answer = self.send("POST", path, json.dumps(request).encode(), Content_Type="application/json")
        assert status == 200, reason
        return answer

    def predict(self, *tasks: Any, project: str = "1.1700000000", **params: Any) -> Any:
        return self.post("/predict", tasks=tasks, project=project, label_config=CONFIG, params=params)

    def webhook(self, action: str, **payload: Any) -> None:
        assert self.post("/webhook", action=action, project={"id": 1}, **payload) == {}

    def version(self) -> str:
        text: str = self.post("/setup", project="1.17", schema=CONFIG, hostname="http://elsewhere")["model_version"]
        return text


def task(number: int, name: str, *annotations: Any) -> dict[str, Any]:
    return {"id": number, "data": {"photo": f"/data/local-files/?d={name}"}, "annotations": [*annotations]}


def drawn(corner: tuple[int, int], label: str = "mug", number: int = 1, **value: Any) -> dict[str, Any]:
    """An annotation with one box."""
    x, y = corner
    shares = {"x": 100 * x / WIDTH, "y": 100 * y / HEIGHT, "width": 100 * SIDE / WIDTH, "height": 100 * SIDE / HEIGHT}
    return {"id": number, "result": [{
        "id": "r", "from_name": "box", "to_name": "img", "type": "rectanglelabels", "original_width": WIDTH,
        "original_height": HEIGHT, "value": {**shares, "rotation": 0, "rectanglelabels": [label], **value},
    }]}  # fmt: skip


def boxes(prediction: Any) -> dict[str, list[float]]:
    """The boxes of a prediction in pixels, by label."""
    found = {}
    for one in prediction["result"]:
        value = one["value"]
        assert len(value["rectanglelabels"]) == 1
        corner = value["x"] * WIDTH / 100, value["y"] * HEIGHT / 100
        size = value["width"] * WIDTH / 100, value["height"] * HEIGHT / 100
        found[value["rectanglelabels"][0]] = [round(number, 6) for number in (*corner, *size)]
    return found
