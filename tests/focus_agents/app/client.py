"""A page without a browser: it asks the server as page.js does."""

from __future__ import annotations

import http.client
import io
import json
from typing import Any
from urllib.parse import quote

from PIL import Image

from focus_agents.app.server import AppServer
from focus_agents.app.service import App
from focus_agents.finding.choice import Choice, make_policy
from focus_agents.finding.looking import Looker
from focus_agents.finding.wanted import Wanted
from focus_agents.policies.localizers import LocalizerPolicy
from tests.focus_agents.finding.scenes import SIDE, TEMPLATE, FindsBright, scene

MOST_UPLOAD = 2**20


class Bright:
    """Who answers: what finds bright squares, or another localizer."""

    def __init__(self, localizer: Any = None) -> None:
        self.localizer = FindsBright() if localizer is None else localizer
        self._looker = Looker([], *make_policy(LocalizerPolicy(self.localizer, TEMPLATE), TEMPLATE))

    def choose(self, wanted: list[Wanted]) -> Choice:
        return Choice("bright", f"made for {len(wanted)} bright squares")

    def looker(self, wanted: list[Wanted]) -> Looker:
        return self._looker.asking_for(wanted)


class Client:
    """A server that says nothing, and an open page of it."""

    def __init__(self, localizer: Any = None, *, policies: Any = None, **options: Any) -> None:
        self.said: list[str] = []
        self.policies = policies or Bright(localizer)
        self.app = App(self.policies, **{"most_upload": MOST_UPLOAD, "say": self.said.append, **options})
        self.server = AppServer(self.app)
        self.session = ""

    def send(
        self, path: str, body: bytes | None = b"{}", *, method: str = "POST", **headers: str | None
    ) -> tuple[int, bytes, Any]:
        """The status, the content and the headers; a header that is None is left out."""
        sent = {
            "Content_Type": "application/json",
            "X_Focus_Token": self.server.token,
            "X_Focus_Session": self.session,
            **headers,
        }
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=20)
        given = {name.replace("_", "-"): value for name, value in sent.items() if value is not None}
        connection.request(method, path, body, given)
        answer = connection.getresponse()
        found = answer.status, answer.read(), answer.headers
        connection.close()
        return found

    def ask(self, path: str, **request: Any) -> Any:
        """The values of an answer."""
        status, content, headers = self.send(path, json.dumps(request).encode())
        assert status == 200, content
        is_json = headers.get_content_type() == "application/json"
        return json.loads(content) if is_json else content

    def refused(self, path: str, **request: Any) -> tuple[int, str]:
        """The status and the sentence of a refusal."""
        status, content, _ = self.send(path, json.dumps(request).encode())
        return status, json.loads(content)["error"]

    def open(self) -> Any:
        told = self.ask("/session")
        self.session = told["session"]
        return told

    def upload(self, content: bytes, name: str) -> tuple[int, Any]:
        headers = {"Content_Type": "application/octet-stream", "X_Focus_Name": quote(name)}
        status, found, _ = self.send("/pictures", content, **headers)
        return status, json.loads(found)

    def add(self, corner: tuple[int, int] | None, name: str) -> int:
        """The number of a picture with a bright square."""
        status, found = self.upload(png(scene(corner)), name)
        assert status == 200, found
        return int(found["pictures"][0]["id"])

    def show(self, *boxes: tuple[int, tuple[int, int]], label: str = "mug") -> Any:
        """Look for an object, by pictures and the corners of it there."""
        return self.ask("/show", objects=[sought(*boxes, label=label)])


def sought(*boxes: tuple[int, tuple[int, int]], label: str = "mug", key: int = 1) -> dict[str, Any]:
    """An object as a page describes it."""
    drawn = [{"picture": number, "box": [x, y, x + SIDE, y + SIDE]} for number, (x, y) in boxes]
    return {"id": key, "label": label, "boxes": drawn}


def png(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()
