"""The requests of a page, and their answers."""

from __future__ import annotations

import io
import secrets
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from focus_agents.app.session import MOST_BYTES, MOST_PICTURES, Session, Sought
from focus_agents.app.uploads import SMALL_SIDE, Upload, as_png
from focus_agents.finding.answers import Answer, in_words
from focus_agents.finding.choice import Choice
from focus_agents.finding.looking import Looker
from focus_agents.finding.sources import Shown
from focus_agents.finding.wanted import Wanted
from focus_agents.policies.licences import licence_note
from focus_agents.rollout.records import Policy
from focus_agents.serving import RefusedError
from focus_env.annotations import FORMATS, format_named, write_annotations
from focus_env.datasets import SyntheticDataset
from focus_env.rendering import render_localization
from focus_env.types import Box, ImageArray

MOST_SESSIONS = 8
SILENT_SECONDS = 30 * 60.0
"""Silence after which a session ends; an open page speaks each minute, but a phone in a pocket does not."""
SHOWN_PIXELS = 128_000_000
"""Most pixels of all pictures with boxes together, decoded for a policy."""
DRAWN: Mapping[str, Any] = {"split": "test", "level": 3, "image_size": SMALL_SIDE, "distractors": "any", "shots": 7}
"""The built-in scenes that a page offers."""


class Policies(Protocol):
    """The policies that answer about objects."""

    def choose(self, wanted: Sequence[Wanted]) -> Choice:
        """Return the policy's name, and why it is taken."""

    def looker(self, wanted: Sequence[Wanted]) -> Looker:
        """Return what asks that policy for the objects."""


@dataclass(frozen=True)
class Reply:
    """An answer to a request.

    Attributes:
        content: Values for JSON, or a file.
        kind: The type of a file's content.
        name: What a file is saved as; empty: it is not.
    """

    content: dict[str, Any] | bytes
    kind: str = "application/json"
    name: str = ""


@dataclass
class _Ready:
    """A policy with its objects decoded, of the session that asked last: one alone is held in memory."""

    session: str
    version: int
    wanted: dict[int, Wanted]
    looker: Looker


class App:
    """Answers what pages ask.

    Args:
        policies: Who answers.
        most_upload: Bytes of a file that is dropped.
        keep: The folder in which sessions are kept, a folder each; None: nothing is kept.
        say: Called with lines for whoever runs the server.
    """

    def __init__(
        self,
        policies: Policies,
        *,
        most_upload: int,
        keep: Path | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.most_upload, self.say = most_upload, say
        self._policies, self._keep = policies, keep
        self._sessions: dict[str, Session] = {}
        self._lock, self._asking, self._decoding = threading.Lock(), threading.Lock(), threading.Lock()
        self._ready: _Ready | None = None
        self.asked: Mapping[str, Callable[[Session, dict[str, Any]], Reply]] = {
            "/alive": lambda session, request: Reply({}),
            "/end": self._end,
            "/remove": self._remove,
            "/scenes": self._scenes,
            "/preview": self._preview,
            "/show": self._show,
            "/find": self._find,
            "/attention": self._attention,
            "/export": self._export,
        }

    def begin(self) -> Reply:
        """Begin a session.

        Raises:
            RefusedError: If there are too many.
        """
        keep = None
        if self._keep is not None:
            keep = self._keep / f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        self.sweep()
        session = Session(keep)
        with self._lock:
            if len(self._sessions) >= MOST_SESSIONS:
                raise RefusedError(
                    f"expected at most {MOST_SESSIONS} open pages, got one more; close another, or wait until one has "
                    f"been silent for {SILENT_SECONDS / 60:.0f} minutes",
                    429,
                )
            self._sessions[session.key] = session
        return Reply(
            {
                "session": session.key,
                "kept": "" if keep is None else str(keep),
                "most_upload": self.most_upload,
                "most_bytes": MOST_BYTES,
                "most_pictures": MOST_PICTURES,
                "formats": [entry.name for entry in FORMATS.load_all()[0].values() if entry.write],
            }
        )

    def session(self, key: str) -> Session:
        """Return a session by its key.

        Raises:
            RefusedError: If there is none, or none any more.
        """
        with self._lock:
            found = self._sessions.get(key)
        if found is None:
            raise RefusedError("this session has ended, and its pictures are gone; reload the page to start again", 410)
        found.last_seen = time.monotonic()
        return found

    def sweep(self) -> None:
        """End the sessions that have been silent for long."""
        now = time.monotonic()
        with self._lock:
            silent = [one for one in self._sessions.values() if now - one.last_seen > SILENT_SECONDS]
        for session in silent:
            self._end(session, {})
        self._forget()

    def add(self, session: Session, content: bytes, name: str) -> Reply:
        """Take in a file that was dropped."""
        with self._decoding:  # one at a time, since a decoded picture is many times its file
            added, note = session.add(content, name)
        return Reply({"pictures": [_described(number, one) for number, one in added.items()], "note": note})

    def _end(self, session: Session, request: dict[str, Any]) -> Reply:
        with self._lock:
            self._sessions.pop(session.key, None)
        self._forget()
        return Reply({})

    def _forget(self) -> None:
        """Let go of the decoded pictures of a session that has ended, perhaps while it was asked."""
        ready = self._ready
        if ready is not None and ready.session not in self._sessions:
            self._ready = None

    def _remove(self, session: Session, request: dict[str, Any]) -> Reply:
        numbers = request.get("pictures")
        if not isinstance(numbers, list) or not all(isinstance(number, int) for number in numbers):
            raise RefusedError(f"pictures: expected a list of numbers, got {numbers!r:.80}")
        session.remove(numbers)
        return Reply({})

    def _scenes(self, session: Session, request: dict[str, Any]) -> Reply:
        """Take in scenes that are drawn, all with one object among others."""
        episode = SyntheticDataset(**DRAWN)[0]
        frames = [*(exemplar.frame for exemplar in episode.support), episode.query_frame]
        added: list[dict[str, Any]] = []
        for number, frame in enumerate(frames, start=1):
            found, _ = session.add(as_png(frame.image()), f"scene_{number}.png")
            added += [_described(key, one) for key, one in found.items()]
        return Reply({"pictures": added, "note": ""})

    def _preview(self, session: Session, request: dict[str, Any]) -> Reply:
        content = session.picture(request.get("picture")).preview
        return Reply(content, "image/png" if content.startswith(b"\x89PNG") else "image/jpeg")

    def _show(self, session: Session, request: dict[str, Any]) -> Reply:
        """Take objects to look for, and say who answers."""
        sought = [one for one in session.read_sought(request.get("objects")) if one.boxes]
        if not sought:
            raise RefusedError("expected a box around the object in at least one picture, got none; draw one")
        shown = {number for one in sought for number, _ in one.boxes}
        num_pixels = sum(wh[0] * wh[1] for wh in (session.picture(number).image_wh for number in shown))
        if num_pixels > SHOWN_PIXELS:
            raise RefusedError(
                f"expected pictures with boxes of at most {SHOWN_PIXELS / 1e6:.0f} million pixels together, got "
                f"{num_pixels / 1e6:.0f}; take boxes away, or smaller pictures",
                413,
            )
        version = session.seek(sought)
        with self._asking:
            ready = self._make_ready(session, sought, version)
            choice = self._policies.choose(list(ready.wanted.values()))
        can_show = hasattr(_model(ready.looker.policy), "locate")
        said = {"policy": choice.text, "reason": choice.reason, "licence": licence_note(choice.text)}
        return Reply({**said, "has_attention": can_show})

    def _make_ready(self, session: Session, sought: Sequence[Sought], version: int) -> _Ready:
        """Return a policy with a session's objects of a version; called with `_asking` held."""
        ready = self._ready
        if ready is None or (ready.session, ready.version) != (session.key, version):
            self._ready = None
            wanted = _wanted(session, sought)
            ready = _Ready(session.key, version, wanted, self._policies.looker(list(wanted.values())))
            self._ready = ready
        return ready

    def _find(self, session: Session, request: dict[str, Any]) -> Reply:
        """Look for all objects in one picture; a box that somebody has drawn in it is the answer."""
        number, upload = request.get("picture"), session.picture(request.get("picture"))
        assert isinstance(number, int)
        sought, version = session.search()
        found: dict[int, Answer] = {}
        asked = []
        for one in sought:
            if drawn := one.boxes_in(number):
                found[one.key] = Answer(one.label, "given", drawn[0])
            else:
                asked.append(one)
        if asked:
            with self._asking:
                ready = self._make_ready(session, sought, version)
                looker = ready.looker.asking_for([ready.wanted[one.key] for one in asked])
                (looked,) = looker.look([(number, Shown(upload.name, upload.pixels(), clip=upload.clip))])
            found |= {one.key: answer for one, answer in zip(asked, looked.answers, strict=True)}
        session.keep_answers(number, found, version)
        return Reply({"answers": [_told(one.key, found[one.key]) for one in sought]})

    def _attention(self, session: Session, request: dict[str, Any]) -> Reply:
        """Draw where a model looks for an object in a picture."""
        upload = session.picture(request.get("picture"))
        with self._asking:
            ready = self._make_ready(session, *session.search())
            wanted = ready.wanted.get(request.get("object", -1))
            locate = getattr(_model(ready.looker.policy), "locate", None)
            if wanted is None or locate is None:
                raise RefusedError(
                    "expected an object that was looked for, by a model that can show where it looks", 409
                )
            query: ImageArray = upload.pixels()
            found = locate(wanted.supports, query, with_attention=True)
        picture = render_localization(list(wanted.supports), query, found.box, found.attention)
        return Reply(as_png(picture), "image/png")

    def _export(self, session: Session, request: dict[str, Any]) -> Reply:
        """Write the answers, with the boxes and names of now in place of those of the search."""
        name, min_score = request.get("format"), request.get("min_score")
        if not isinstance(name, str) or not (min_score is None or isinstance(min_score, int | float)):
            raise RefusedError(f"expected a format and a least score, got {name!r:.80} and {min_score!r:.80}")
        sought = session.read_sought(request.get("objects"))
        pictures = session.labelled(sought, min_score)
        if not pictures:
            raise RefusedError("expected answers to write, got none yet; draw a box, and look for it", 409)
        with tempfile.TemporaryDirectory(prefix="focus-app-") as folder:
            try:
                file = _file_of(format_named(name).name)
                path = Path(folder) / "found" / file.removesuffix(".zip")
                write_annotations(path, pictures, format=name, labels=[one.label for one in sought])
            except ValueError as error:
                raise RefusedError(str(error)) from error
            if path.is_dir():
                return Reply(_zipped(path), "application/zip", file)
            return Reply(path.read_bytes(), "application/octet-stream", file)


def _model(policy: Policy) -> Any:
    """Return the model inside of a policy that keeps supports; of any other, the policy."""
    return getattr(policy, "policy", policy)


def _wanted(session: Session, sought: Sequence[Sought]) -> dict[int, Wanted]:
    """Return objects as policies are shown them, each picture decoded once."""
    pixels: dict[int, ImageArray] = {}

    def pair(number: int, box: Box) -> tuple[ImageArray, Box]:
        if number not in pixels:
            pixels[number] = session.picture(number).pixels()
        return pixels[number], box

    return {
        one.key: Wanted(one.label, tuple(pair(number, box) for number, box in one.boxes), (None,) * len(one.boxes))
        for one in sought
    }


def _described(number: int, upload: Upload) -> dict[str, Any]:
    width, height = upload.image_wh
    return {"id": number, "name": upload.name, "width": width, "height": height, "clip": upload.clip}


def _told(key: int, answer: Answer) -> dict[str, Any]:
    return {
        "object": key,
        "kind": answer.kind,
        "box": answer.box and list(answer.box),
        "score": answer.score,
        "words": in_words(answer, None),
        "text": answer.text,
    }


def _file_of(name: str) -> str:
    """Return the name of a file of annotations for saving."""
    found = format_named(name)
    return f"found_{name}{'.zip' if found.is_folder else (found.endings or ('.json',))[0]}"


def _zipped(folder: Path) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder))
    return file.getvalue()
