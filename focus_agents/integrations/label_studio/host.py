"""The Label Studio that pictures and boxes are read from: its own address, and one folder of this disk."""

from __future__ import annotations

import json
import time
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qs, quote, urljoin, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from focus_env.annotations.lookup import Lookup
from focus_env.arrays import as_picture
from focus_env.errors import DatasetError
from focus_env.images import read_picture
from focus_env.picture_files import LARGEST_FILE
from focus_env.types import ImageArray

LARGEST_EXPORT = 256 * 2**20
"""Bytes of a project's export."""
SECONDS = 60.0
"""After which a host that says nothing is given up."""
ACCESS_SECONDS = 60.0
"""For which a token that was asked for is used."""
LOCAL_FILES = "/data/local-files"


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Follow none: it could lead elsewhere."""


class Host:
    """The Label Studio whose pictures and boxes are read, and no other.

    Args:
        url: Its address, such as http://localhost:8080.
        token: An access token of its API, of either kind; empty: that which it sends at setup, if any.
        data_root: The folder that its local files begin at, LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT; None: they are
            asked of it.

    Raises:
        ValueError: If the address is none, or there is no such folder.
    """

    def __init__(self, url: str, *, token: str = "", data_root: Path | None = None) -> None:
        self.origin = _origin(url)
        if not self.origin:
            raise ValueError(f"url: expected the address of Label Studio, such as http://localhost:8080, got {url!r}")
        if data_root is not None and not data_root.is_dir():
            raise ValueError(f"data_root: expected the folder of the pictures, there is none at {data_root}")
        self.token = token
        self._lookup = None if data_root is None else Lookup(data_root)
        self._access = "", "", 0.0
        self._opener = build_opener(_NoRedirects)

    def picture(self, address: object, token: str = "") -> ImageArray:
        """Return a picture [H, W, 3] uint8 by its address in a task.

        Raises:
            DatasetError: If it is of another host or leads out of the folder, or there is no picture.
        """
        if not isinstance(address, str) or not address:
            raise DatasetError(f"expected the address of a picture, got {address!r:.80}")
        try:
            parts = urlsplit(urljoin(f"{self.origin}/", address))
        except ValueError as error:
            raise DatasetError(f"expected the address of a picture, got {address!r:.200}: {error}") from error
        if _origin(parts.geturl()) != self.origin:
            raise DatasetError(
                f"expected a picture of {self.origin}, got {address!r:.200}; no other host is asked: upload it "
                "there, or serve it as a local file"
            )
        if self._lookup is not None and parts.path.rstrip("/") == LOCAL_FILES:
            name = parse_qs(parts.query).get("d", [""])[0]
            path, _ = self._lookup.find(name, near=[self._lookup.root], where=f"{address:.200}")
            if path is None:
                raise DatasetError(f"{address:.200}: expected the picture below {self._lookup.root}, found none")
            return read_picture(path)
        content = self._get(f"{parts.path}?{parts.query}" if parts.query else parts.path, token, LARGEST_FILE)
        try:
            return as_picture(content, address[:200])
        except ValueError as error:
            raise DatasetError(str(error)) from error

    def labelled(self, project: str, token: str) -> list[dict[str, Any]]:
        """Return the tasks of a project that people have labelled, from its export.

        Raises:
            DatasetError: If it does not give them.
        """
        path = f"/api/projects/{quote(project, safe='')}/export?exportType=JSON"
        try:
            found = json.loads(self._get(path, token, LARGEST_EXPORT))
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{path}: expected the tasks of the project, got no JSON: {error}") from error
        if not isinstance(found, list):
            raise DatasetError(f"{path}: expected the tasks of the project, got {found!r:.80}")
        return [task for task in found if isinstance(task, dict)]

    def _authorization(self, token: str) -> dict[str, str]:
        """Return the header that tells the host who asks, with a token of either kind; empty without one."""
        if not token:
            return {}
        if token.count(".") != 2:
            return {"Authorization": f"Token {token}"}
        # A personal token, by which one asks for another that holds for minutes.
        known, access, until = self._access
        if known != token or time.monotonic() > until:
            path = "/api/token/refresh"
            answer = self._fetch(path, {}, LARGEST_EXPORT, json.dumps({"refresh": token}).encode())
            try:
                access = str(json.loads(answer)["access"])
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise DatasetError(f"{path}: expected a token, got {answer!r:.80}") from error
            self._access = token, access, time.monotonic() + ACCESS_SECONDS
        return {"Authorization": f"Bearer {access}"}

    def _get(self, path: str, token: str, limit: int) -> bytes:
        """Return the bytes that the host has there."""
        return self._fetch(path, self._authorization(self.token or token), limit)

    def _fetch(self, path: str, headers: dict[str, str], limit: int, body: bytes | None = None) -> bytes:
        url = self.origin + quote(path, safe="/%?=&:+,;@~!$'()*")
        headers = headers | ({} if body is None else {"Content-Type": "application/json"})
        try:
            with self._opener.open(Request(url, body, headers), timeout=SECONDS) as response:
                content: bytes = response.read(limit + 1)
        except HTTPError as error:
            advice = "; give a token of its API, LABEL_STUDIO_API_KEY" if error.code in (401, 403) else ""
            raise DatasetError(f"{url}: expected content, got status {error.code}, {error.reason}{advice}") from error
        except (OSError, HTTPException, ValueError) as error:
            raise DatasetError(f"{url}: expected content, got {error}") from error
        if len(content) > limit:
            raise DatasetError(f"{url}: expected at most {limit} bytes, got more")
        return content


def _origin(url: str) -> str:
    """Return the scheme, host and port of an address; empty of what is none."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return f"{parts.scheme}://{host}:{port}" if host and parts.username is None else ""
    except (KeyError, ValueError):
        return ""
