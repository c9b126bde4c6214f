"""One search from its arguments to its files: everything is checked before the first picture is decoded."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from focus_agents.errors import PolicyError, RunInterrupted
from focus_agents.finding import drawing
from focus_agents.finding.answers import Looked, in_words
from focus_agents.finding.looking import Looker, batches
from focus_agents.finding.sources import Sources
from focus_agents.finding.unfinished import Unfinished, outputs_of
from focus_agents.finding.video import check_ending, load_av
from focus_agents.finding.wanted import Wanted
from focus_agents.rollout.records import Policy
from focus_agents.runs.interruption import stop_requests
from focus_env.annotations import (
    AnnotationFormat,
    LabelledPicture,
    check_free,
    check_pictures,
    format_named,
    format_to_write,
    write_annotations,
)
from focus_env.calibration import Calibration
from focus_env.prompts import PromptTemplate

OnDone = Callable[[str, int], None]
"""Called with a kind of work ("pictures", "drawn", "clip") and the number of pictures that are done."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The files that a search writes.

    Attributes:
        out: The file of annotations, or the folder of a format that has a file for each picture; None: no annotations.
        format: A name of `focus_env.annotations.FORMATS`; None: by the ending of `out`.
        draw: A folder for the pictures with their boxes, or a picture file for a contact sheet; None: neither.
        video: A video file for the pictures with their boxes; None: no clip.
        copy_pictures: Whether the pictures are copied beside the annotations, where the format expects them.
        overwrite: Whether existing outputs are replaced, a folder with all of its files.
    """

    out: Path | None = None
    format: str | None = None
    draw: Path | None = None
    video: Path | None = None
    copy_pictures: bool = False
    overwrite: bool = False

    @property
    def annotations(self) -> AnnotationFormat | None:
        """The format of `out`."""
        if self.out is None:
            return None
        return format_to_write(self.out) if self.format is None else format_named(self.format)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The paths of all outputs."""
        return tuple(path for path in (self.out, self.draw, self.video) if path is not None)

    def check(self, sources: Sources, wanted: Sequence[Wanted]) -> None:
        """Check that every output can be written, and that no given picture is overwritten.

        Existing outputs are the business of `check_free`.

        Raises:
            ValueError: If an output cannot be written, or would overwrite a given picture.
            MissingDependencyError: If a clip is asked for, and the package for videos is not installed.
        """
        given = [source.path for source in sources.files if source.path is not None]
        given += [file for one in wanted for file in one.files if file is not None]
        if len({os.path.abspath(path) for path in self.paths}) < len(self.paths):
            raise ValueError(f"out: expected a path of its own for each output, got {', '.join(map(str, self.paths))}")
        for path in self.paths:
            _check_apart(path, given)
        has_pictures = [self.draw, self.out if self.copy_pictures else None]
        for path in filter(None, has_pictures):
            if folder := next((f for f in sources.folders if Path(os.path.abspath(path)).is_relative_to(f)), None):
                raise ValueError(
                    f"{path}: expected a path outside of {folder}, whose pictures are searched; the next search "
                    "would find what is drawn there"
                )
        found = self.annotations
        if found is not None:
            if found.write is None:
                raise ValueError(f"annotation format {found.name!r} is only read, not written; choose another")
            if self.copy_pictures and found.pictures_folder is None:
                raise ValueError(f"annotation format {found.name!r} is one file: leave out `copy_pictures`")
            if self.copy_pictures and (memory := next((s for s in sources.files if s.is_video or not s.path), None)):
                raise ValueError(f"copy_pictures: expected files to copy, got {memory.name!r}, which has none")
            usable = [source for source in sources.files if not source.fault and not source.is_video]
            check_pictures([LabelledPicture(source.name, (1, 1), path=source.path) for source in usable], found)
        elif self.format is not None:
            raise ValueError("format: expected `out` beside it, which is written in it")
        if self.video is not None:
            check_ending(self.video)
            load_av()

    def check_free(self, *, may_replace: Sequence[str] = ()) -> None:
        """Refuse outputs that exist already.

        Args:
            may_replace: Paths that an earlier part of this search was free to write.

        Raises:
            ValueError: If an output exists.
        """
        found = self.annotations
        if self.out is not None and found is not None:
            check_free(self.out, found, overwrite=self.overwrite)
        for path in (self.draw, self.video):
            if path is None or self.overwrite or str(path) in may_replace:
                continue
            if any(path.iterdir()) if path.is_dir() else os.path.lexists(path):
                raise ValueError(
                    f"{path}: expected a free path, found a file or folder there; choose another path, or pass "
                    "`overwrite`"
                )
        if self.draw is not None and self.draw.exists() and drawing.is_sheet(self.draw) == self.draw.is_dir():
            raise ValueError(f"{self.draw}: expected a picture file for a contact sheet, or a folder, got the other")

    def check_free_or_unfinished(self) -> None:
        """Refuse outputs that exist already, except those that an unfinished search of the same file may write."""
        self.check_free(may_replace=() if self.out is None else outputs_of(self.out))


def _check_apart(path: Path, given: Sequence[Path]) -> None:
    """Refuse to overwrite a given picture, or a folder that holds one."""
    target = os.path.realpath(path)
    for file in given:
        real = os.path.realpath(file)
        if real == target or real.startswith(target + os.sep) or os.path.abspath(file) == os.path.abspath(path):
            raise ValueError(f"{path}: expected a path that holds none of the given pictures, it has {file}")


@dataclass(frozen=True)
class Findings:
    """The result of a search.

    Attributes:
        looked: A record for each picture, in their order.
        root: The folder at which the names of pictures begin.
        labels: The names of the objects, in the order in which they were given.
        min_score: Boxes of a lower score count as absent.
    """

    looked: tuple[Looked, ...]
    root: Path
    labels: tuple[str, ...]
    min_score: float | None = None

    @property
    def pictures(self) -> tuple[LabelledPicture, ...]:
        """The pictures that could be read, with boxes as `focus_env.annotations` has them."""
        found = (one.labelled(self.min_score) for one in self.looked)
        return tuple(picture for picture in found if picture is not None)

    @property
    def faults(self) -> tuple[str, ...]:
        """Why pictures could not be read."""
        return tuple(one.fault for one in self.looked if one.image_wh is None)

    def counts(self, label: str) -> dict[str, int]:
        """Count the answers about an object by their wording; see `answers.in_words`."""
        answers = (answer for one in self.looked for answer in one.answers if answer.label == label)
        return dict(Counter(in_words(answer, self.min_score) for answer in answers))

    def write(
        self, path: str | Path, *, format: str | None = None, overwrite: bool = False, copy_pictures: bool = False
    ) -> AnnotationFormat:
        """Write all pictures as annotations; see `focus_env.annotations.write_annotations`."""
        return write_annotations(
            path,
            self.pictures,
            format=format,
            labels=self.labels,
            overwrite=overwrite,
            copy_pictures=copy_pictures,
        )

    def with_min_score(self, min_score: float | None) -> Findings:
        """Return the same result with another least score."""
        return replace(self, min_score=min_score)


class Search:
    """One search; the constructor reads the answers of an earlier call, before any model is loaded.

    Args:
        wanted: The objects to find.
        sources: The pictures to search.
        outputs: The files to write; `Outputs.check` has passed.
        identity: All that decides the policy's answers, as plain values.
        min_score: Boxes of a lower score count as absent.
        batch_size: Pictures that the policy answers together.
        calibration: As for `Looker`.

    Attributes:
        num_before: Pictures that an earlier call has answered.

    Raises:
        ValueError: If an output exists already, there is an unfinished search with other arguments, or another process
            is running this search.
        CheckpointError: If the files of an earlier call cannot be read.
    """

    def __init__(
        self,
        wanted: Sequence[Wanted],
        sources: Sources,
        *,
        outputs: Outputs,
        identity: Mapping[str, Any],
        min_score: float | None,
        batch_size: int,
        calibration: Calibration | None = None,
    ) -> None:
        outputs.check_free_or_unfinished()
        self.wanted, self.sources, self.outputs = wanted, sources, outputs
        self.min_score, self.batch_size, self._calibration = min_score, batch_size, calibration
        self._unfinished: Unfinished | None = None
        if outputs.out is not None and not outputs.out.is_char_device():
            self._unfinished = Unfinished(
                outputs.out,
                {
                    "policy": dict(identity),
                    "objects": {one.label: one.digest() for one in wanted},
                    "pictures": sources.digest(),
                    "batch_size": batch_size,
                    **({} if calibration is None else {"calibration": calibration.to_json()}),
                },
                batch_size=batch_size,
                outputs=[path for path in (outputs.draw, outputs.video) if path is not None],
                overwrite=outputs.overwrite,
            )
        self.num_before = len(self._unfinished.looked) if self._unfinished else 0

    def run(self, policy: Policy, template: PromptTemplate, *, on_done: OnDone = lambda what, count: None) -> Findings:
        """Search all pictures, and write the outputs.

        Args:
            policy: The policy that answers.
            template: The prompt of the questions.
            on_done: Called with the progress.

        Raises:
            PolicyError: If the policy gives nothing but failures, or gives no scores and there is a least score.
            RunInterrupted: After a batch, if a signal asks to stop.
            StorageError: If an output cannot be written.
        """
        outputs, unfinished = self.outputs, self._unfinished
        looked = list(unfinished.looked) if unfinished else []
        if unfinished is not None:
            unfinished.start()
        on_done("pictures", len(looked))
        looker = Looker(self.wanted, policy, template, calibration=self._calibration)
        with stop_requests(lambda name: None) as stop:
            for batch, is_last in batches(self.sources, start=len(looked), size=self.batch_size):
                found = looker.look(batch)
                require_scores(found, self.min_score)
                looked += found
                if unfinished is not None:
                    unfinished.append(found, is_last=is_last)
                on_done("pictures", len(looked))
                if stop.received is not None:
                    kept = "which are kept; repeat the command to go on" if unfinished else "which are lost"
                    raise RunInterrupted(
                        f"stopped by {stop.received.name} after {len(looked)} pictures, {kept}",
                        signal_number=stop.received,
                    )
        labels = tuple(one.label for one in self.wanted)
        findings = Findings(tuple(looked), self.sources.root, labels, self.min_score)
        if findings.pictures:
            _draw(findings, self.sources, outputs, on_done)
            if outputs.out is not None:
                findings.write(
                    outputs.out, format=outputs.format, overwrite=outputs.overwrite, copy_pictures=outputs.copy_pictures
                )
        if unfinished is not None:
            unfinished.remove()
        return findings


def require_scores(found: Sequence[Looked], min_score: float | None) -> None:
    """Check that there are scores to compare a least score with.

    Raises:
        PolicyError: If there are boxes, and none has a score.
    """
    boxes = [answer for one in found for answer in one.answers if answer.kind == "found"]
    if min_score is not None and boxes and all(answer.score is None for answer in boxes):
        raise PolicyError("min_score: expected a policy that says how sure it is, got one without scores; leave it out")


def _draw(findings: Findings, sources: Sources, outputs: Outputs, on_done: OnDone) -> None:
    options: dict[str, Any] = {"min_score": findings.min_score}
    if outputs.draw is not None:
        draw = drawing.draw_sheet if drawing.is_sheet(outputs.draw) else drawing.draw_folder
        outputs.draw.parent.mkdir(parents=True, exist_ok=True)
        draw(outputs.draw, sources, findings.looked, on_done=lambda done: on_done("drawn", done), **options)
    if outputs.video is not None:
        outputs.video.parent.mkdir(parents=True, exist_ok=True)
        drawing.draw_clip(
            outputs.video, sources, findings.looked, on_done=lambda done: on_done("clip", done), **options
        )
