"""A local HTTP server that plays the hub: models with commits, files to download, and commits to take."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from transformers.utils import hub as transformers_hub

TOKEN = "hf_of_this_test"


@dataclass
class Model:
    """A model on the server: the files of each commit, and the newest one's hash."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    newest: str = ""
    is_gated: bool = False
    is_private: bool = False

    def commit(self, files: dict[str, bytes]) -> str:
        """Add a commit with all of these files."""
        digest = hashlib.sha1(repr(sorted((n, hashlib.sha1(b).hexdigest()) for n, b in files.items())).encode())
        self.newest = digest.hexdigest()
        self.commits[self.newest] = files
        return self.newest


class Hub(ThreadingHTTPServer):
    """The server; `models` are what it has, `log` what it was asked, `sent` the bytes of files that it gave.

    `odd` answers in the handler's place where it returns true, to play a hub that is ill or a proxy before it.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.models: dict[str, Model] = {}
        self.uploads: dict[str, bytes] = {}
        self.log: list[str] = []
        self.sent = 0
        self.created: list[dict[str, Any]] = []
        self.odd: Callable[[Handler], bool] = lambda handler: False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, name: str, folder: Path, **options: Any) -> Model:
        """Put a folder on the hub."""
        model = self.models.setdefault(name, Model(**options))
        model.commit({p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()})
        return model


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, status: int, body: Any = b"", **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        headers = {"Content_Length": str(len(content)), **headers}
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, {"error": code}, X_Error_Code=code, X_Error_Message=code)

    def body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline().strip() or b"0", 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def find(self, name: str, revision: str) -> tuple[Model, str] | None:
        """The model at a commit, or None after an answer that says why not."""
        model = self.server.models.get(name)
        has_token = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if model is None or (model.is_private and not has_token):
            self.refuse(404 if has_token else 401, "RepoNotFound")
            return None
        commit = model.newest if revision == "main" else revision
        if commit not in model.commits:
            self.refuse(404, "RevisionNotFound")
            return None
        return model, commit

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.log.append(f"{self.command} {self.path}")
        if self.server.odd(self):
            return
        path = self.path.partition("?")[0]
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            if found := self.find(match[1], match[2] or "main"):
                model, commit = found
                files = [{"rfilename": name, "size": len(body)} for name, body in model.commits[commit].items()]
                self.answer(200, {"id": match[1], "sha": commit, "private": model.is_private, "siblings": files})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(?:/(.*))?", path):
            if found := self.find(match[1], match[2]):
                files = found[0].commits[found[1]]
                own = [name for name in files if name.startswith(f"{match[3]}/" if match[3] else "")]
                entries = [{"type": "file", "path": n, "size": len(files[n]), "oid": "0"} for n in own]
                self.answer(200, entries) if own else self.refuse(404, "EntryNotFound")
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            if found := self.find(match[1], match[2]):
                model, commit = found
                has_token = self.headers.get("Authorization") == f"Bearer {TOKEN}"
                if model.is_gated and not has_token:
                    self.refuse(403, "GatedRepo")
                elif (body := model.commits[commit].get(match[3])) is None:
                    self.answer(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
                else:
                    etag, size = f'"{hashlib.sha1(body).hexdigest()}"', str(len(body))
                    part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                    status, body = (200, body) if part is None else (206, body[int(part[1]) : int(part[2]) + 1])
                    self.server.sent += len(body) if self.command == "GET" else 0
                    self.answer(status, body, X_Repo_Commit=commit, ETag=etag, X_Linked_Size=size)
        else:
            self.refuse(404, "RepoNotFound")

    def do_POST(self) -> None:
        self.server.log.append(f"{self.command} {self.path}")
        if self.server.odd(self):
            return
        body = self.body()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.refuse(401, "Unauthorized")
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.server.created.append(asked)
            is_new = name not in self.server.models
            self.server.models.setdefault(name, Model(is_private=asked.get("visibility") == "private"))
            self.answer(200 if is_new else 409, {"url": f"{self.server.url}/{name}", "id": name})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)", self.path):
            files = [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular"}
                | {"shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            self.answer(200, {"files": files})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**entry, "actions": {"upload": {"href": f"{self.server.url}/upload/{entry['oid']}", "header": {}}}}
                for entry in json.loads(body)["objects"]
            ]
            self.answer(200, {"transfer": "basic", "objects": objects}, Content_Type="application/vnd.git-lfs+json")
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", self.path):
            files = dict(self.server.models[match[1]].commits.get(self.server.models[match[1]].newest, {}))
            for line in body.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    files[value["path"]] = self.server.uploads[value["oid"]]
            commit = self.server.models[match[1]].commit(files)
            url = f"{self.server.url}/{match[1]}/commit/{commit}"
            self.answer(200, {"commitUrl": url, "commitOid": commit, "success": True})
        else:
            self.answer(200, {"errors": [], "warnings": []})  # of a card's header

    def do_PUT(self) -> None:
        self.server.log.append(f"{self.command} {self.path}")
        self.server.uploads[self.path.rpartition("/")[2]] = self.body()
        self.answer(200)


@contextlib.contextmanager
def serving_hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Hub]:
    """A hub that this process asks, with a cache of its own and without a token."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(transformers_hub, "_hf_api", None)  # made once, for the hub of then
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
