"""Answer the requests of Label Studio."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from focus_agents.finding import DEFAULT_BATCH_SIZE
from focus_agents.finding.answers import Looked
from focus_agents.finding.looking import Looker
from focus_agents.finding.search import require_scores
from focus_agents.finding.sources import Shown
from focus_agents.finding.wanted import DEFAULT_SHOTS, Wanted, boxes_of, spread
from focus_agents.integrations.label_studio.host import Host
from focus_agents.integrations.label_studio.layout import Layout, read_layout
from focus_agents.serving import RefusedError
from focus_env.annotations import LabelledPicture, read_annotations
from focus_env.annotations.label_studio import region
from focus_env.errors import DatasetError
from focus_env.images import check_size
from focus_env.types import Box

MAX_LABELLED = 10_000
"""Labelled tasks of a project that are kept, the newest."""
MAX_PROJECTS = 64
FRESH_SECONDS = 2.0
"""For which a project's export counts as new."""
SETUP_SECONDS = 2.0

Task = dict[str, Any]
MakeLooker = Callable[[Sequence[Wanted]], Looker]


@dataclass(frozen=True)
class _Support:
    """A box that people have drawn: the picture's address and size, and the box in its pixels."""

    address: str
    image_wh: tuple[int, int]
    box: Box


@dataclass
class _Project:
    """The state of a project.

    Attributes:
        tasks: Those with boxes that people have drawn, by id.
        token: What came at setup.
        read_at: When its export was read, by `time.monotonic`.
        fault: Why it was not.
    """

    tasks: OrderedDict[str, Task] = field(default_factory=OrderedDict)
    token: str = ""
    read_at: float = -math.inf
    fault: str = ""


class Backend:
    """Answers what Label Studio asks.

    Args:
        host: The Label Studio.
        make_looker: Returns what asks for objects; called when the boxes have changed.
        name: Of the policy, for `model_version`.
        shots: Most supports of a label, spread evenly.
        min_score: Boxes of a lower score are not proposed; None: all are.
        batch_size: Pictures that are asked about together.
        say: Called with lines for whoever runs the server.
    """

    def __init__(
        self,
        host: Host,
        make_looker: MakeLooker,
        *,
        name: str,
        shots: int = DEFAULT_SHOTS,
        min_score: float | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        say: Callable[[str], None] = print,
    ) -> None:
        self.host, self.name, self.say = host, name, say
        self._looker_of, self._shots, self._min_score, self._batch_size = make_looker, shots, min_score, batch_size
        self._projects: OrderedDict[str, _Project] = OrderedDict()
        self._lock, self._asking = threading.RLock(), threading.Lock()
        self._looker: tuple[str, Looker | None] = "", None

    def answer(self, path: str, request: Task) -> Task:
        """Return the answer to a request.

        Raises:
            RefusedError: If it is none.
            FocusError: If the policy cannot answer.
        """
        steps = {"/setup": self._setup, "/predict": self._predict, "/webhook": self._webhook, "/train": self._train}
        if path not in steps:
            raise RefusedError(f"path: expected /health, {', '.join(steps)}, got {path:.80}", 404)
        named = request.get("project")
        named = named.get("id") if isinstance(named, dict) else named
        if not isinstance(named, str | int) or not str(named):
            raise RefusedError(f"project: expected its number, got {named!r:.80}")
        key = str(named).partition(".")[0]
        with self._lock:
            project = self._projects.setdefault(key, _Project())
            self._projects.move_to_end(key)
            while len(self._projects) > MAX_PROJECTS:
                self._projects.popitem(last=False)
        return steps[path](request, key, project)

    def _setup(self, request: Task, key: str, project: _Project) -> Task:
        layout = read_layout(request.get("schema"))
        if isinstance(token := request.get("access_token"), str):
            project.token = token
        # Label Studio waits for three seconds, and may give us nothing before it has our answer.
        reading = threading.Thread(target=self._read, args=(key, project), daemon=True)
        reading.start()
        reading.join(SETUP_SECONDS)
        return {"model_version": self._labelled(project, layout, [])[0]}

    def _train(self, request: Task, key: str, project: _Project) -> Task:
        self._keep(project, _tasks(request, "annotations"))
        return {}

    def _webhook(self, request: Task, key: str, project: _Project) -> Task:
        action = str(request.get("action"))
        if action == "START_TRAINING":
            project.read_at = -math.inf
        elif action in ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_CREATED"):
            ones = _tasks(request, "annotation")
            for task in _tasks(request, "task"):
                own = [one for one in ones if one.get("task", task.get("id")) == task.get("id")]
                ids = [one.get("id") for one in own]
                with self._lock:
                    before = project.tasks.get(str(task.get("id")), {}).get("annotations", [])
                    kept = [one for one in before if one.get("id") not in ids]
                    self._keep(project, [{**task, "annotations": kept + own}])
        elif action in ("ANNOTATIONS_DELETED", "TASKS_DELETED"):
            of_tasks = action == "TASKS_DELETED"
            gone = [one.get("id") for one in _tasks(request, "tasks" if of_tasks else "annotations")]
            with self._lock:
                for name, task in list(project.tasks.items()):
                    left = [one for one in task["annotations"] if of_tasks or one.get("id") not in gone]
                    project.tasks[name] = {**task, "annotations": left}
                    if not left or (of_tasks and task["id"] in gone):
                        del project.tasks[name]
        return {}

    def _read(self, key: str, project: _Project) -> None:
        """Read a project's export, where there is a token, and it was not read just now."""
        if time.monotonic() - project.read_at < FRESH_SECONDS or not (self.host.token or project.token):
            return
        try:
            found = self.host.labelled(key, project.token)
        except DatasetError as error:
            if str(error) != project.fault:
                self.say(f"project {key}: what is labelled is known from what Label Studio sends alone: {error}")
            project.fault = str(error)
            return
        with self._lock:
            project.tasks.clear()
            self._keep(project, found)
            project.read_at = time.monotonic()

    def _keep(self, project: _Project, tasks: Sequence[Task]) -> None:
        """Note what is labelled in tasks; of those that come without annotations nothing is known."""
        with self._lock:
            for task in tasks:
                found = task.get("annotations")
                labelled = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
                if labelled and isinstance(task.get("data"), dict):
                    kept = {"id": task.get("id"), "data": task["data"], "annotations": labelled}
                    project.tasks[str(task.get("id"))] = kept
                    project.tasks.move_to_end(str(task.get("id")))
            while len(project.tasks) > MAX_LABELLED:
                project.tasks.popitem(last=False)

    def _labelled(
        self, project: _Project, layout: Layout, drawn: Sequence[Task]
    ) -> tuple[str, dict[str, list[_Support]], dict[str, set[str]]]:
        """Return the version, the supports of each label, and tasks' labels by id; `drawn` was not saved yet."""
        with self._lock:
            tasks = [*project.tasks.values(), *drawn]
        pictures: tuple[LabelledPicture, ...] = ()
        if tasks:
            listed = [
                {
                    "data": {"image": f"{place}.png"},
                    "annotations": [_of(layout, one) for one in task["annotations"]],
                }
                for place, task in enumerate(tasks)
            ]
            with tempfile.TemporaryDirectory(prefix="focus-label-studio-") as folder:
                file = Path(folder) / "tasks.json"
                file.write_text(json.dumps(listed), encoding="utf-8")
                pictures = read_annotations(file, format="labelstudio", on_bad="skip").pictures
        task_of = {picture.name: tasks[int(picture.name.removesuffix(".png"))] for picture in pictures}
        supports = {
            label: [
                _Support(str(task_of[picture.name]["data"].get(layout.key)), picture.image_wh, box)
                for picture, box in spread(known, self._shots)
            ]
            for label, known in sorted(boxes_of(pictures).items())
            if layout.control_of(label) is not None
        }
        labels: dict[str, set[str]] = {}
        for picture in pictures:
            labels.setdefault(str(task_of[picture.name]["id"]), set()).update(one.label for one in picture.objects)
        return f"{self.name} {_short(supports) if supports else 'without boxes'}", supports, labels

    def _predict(self, request: Task, key: str, project: _Project) -> Task:
        layout, tasks = read_layout(request.get("label_config")), _tasks(request, "tasks")
        self._read(key, project)
        self._keep(project, tasks)
        params = request.get("params")
        context = params.get("context") if isinstance(params, dict) else None
        given = context.get("result") if isinstance(context, dict) else None
        drawn = [{**task, "annotations": [{"result": given}]} for task in tasks[:1] if isinstance(given, list)]
        version, supports, labels = self._labelled(project, layout, drawn)
        found: list[Task] = []
        with self._asking:
            if self._looker[0] != version:
                self._looker = version, self._make_looker(supports, project.token)
            looker = self._looker[1]
            for start in range(0, len(tasks) if looker is not None else 0, self._batch_size):
                batch = tasks[start : start + self._batch_size]
                shown = [self._shown(task, layout, project.token) for task in batch]
                looked = looker.look([*enumerate(shown, start)]) if looker is not None else []
                require_scores(looked, self._min_score)
                for task, one in zip(batch, looked, strict=True):
                    found.append(self._proposed(one, layout, version, labels.get(str(task.get("id")), set())))
        found = found or [{"result": [], "model_version": version} for _ in tasks]
        num_boxes = sum(len(one["result"]) for one in found)
        known = ", ".join(f"{label!r} by {len(own)}" for label, own in supports.items()) or "no boxes yet"
        self.say(f"project {key}: {num_boxes} boxes in {len(found)} pictures ({known})")
        return {"results": found, "model_version": version}

    def _make_looker(self, supports: Mapping[str, Sequence[_Support]], token: str) -> Looker | None:
        """Make the looker that asks about objects; None: there is no support that can be read."""
        wanted = []
        for label, own in supports.items():
            pairs = []
            for one in own:
                try:
                    image = self.host.picture(one.address, token)
                    check_size((image.shape[1], image.shape[0]), one.image_wh, one.address[:200])
                    pairs.append((image, one.box))
                except DatasetError as error:
                    self.say(f"a support of {label!r} is left out: {error}")
            if pairs:
                wanted.append(Wanted(label, tuple(pairs), (None,) * len(pairs)))
        return self._looker_of(wanted) if wanted else None

    def _shown(self, task: Task, layout: Layout, token: str) -> Shown:
        """Return the picture of a task."""
        name, data = f"task {task.get('id')}", task.get("data")
        try:
            return Shown(name, self.host.picture(data.get(layout.key) if isinstance(data, dict) else None, token))
        except DatasetError as error:
            self.say(f"{name}: cannot be read: {error}")
            return Shown(name, None, fault=str(error))

    def _proposed(self, looked: Looked, layout: Layout, version: str, drawn: set[str]) -> Task:
        """Return the prediction for a task, in which people have drawn boxes of some labels."""
        for answer in looked.answers:
            if answer.kind in ("unread", "failed"):
                self.say(f"{looked.name}: no answer about {answer.label!r}: {answer.text}")
        picture = looked.labelled(self._min_score)
        boxes = [one for one in picture.objects if one.box is not None and one.label not in drawn] if picture else []
        result = [
            region(_short(version, one.label), one, looked.image_wh, from_name=control, to_name=layout.picture)
            for one in boxes
            if looked.image_wh is not None and (control := layout.control_of(one.label)) is not None
        ]
        scores = [one.score for one in boxes if one.score is not None]
        return {"result": result, "model_version": version, **({"score": min(scores)} if scores else {})}


def _short(*parts: object) -> str:
    """Return a short text that is another for other parts."""
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()[:10]


def _tasks(request: Task, name: str) -> list[Task]:
    """Return a list of objects of a request, or a single one."""
    found = request.get(name)
    found = [found] if isinstance(found, dict) else found
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise RefusedError(f"{name}: expected a list of objects, got {found!r:.80}")
    return found


def _of(layout: Layout, annotation: Task) -> Task:
    """Return an annotation with the regions of the picture alone."""
    result = annotation.get("result")
    own = [one for one in result if isinstance(one, dict)] if isinstance(result, list) else []
    return {**annotation, "result": [one for one in own if one.get("to_name", layout.picture) == layout.picture]}
