"""Answers about a picture, as records that are kept and written: a line of JSON for each picture.

An answer is of one of these kinds:

    found     a box
    given     the box of a support that is this very picture
    absent    the policy says that the object is not there
    unread    the policy's text neither holds a usable box nor says that the object is absent
    failed    the policy could not be asked, or could not answer

The least score of a box is applied at the end, by `Looked.labelled`. Scores are those of `focus_agents.rollout.scores`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from focus_agents.errors import CheckpointError
from focus_agents.rollout.records import Completion
from focus_agents.rollout.scores import completion_score
from focus_env.annotations import LabelledBox, LabelledPicture
from focus_env.prompts import PromptTemplate
from focus_env.types import Box, ParseStatus

Kind = Literal["found", "given", "absent", "unread", "failed"]
KINDS: tuple[Kind, ...] = ("found", "given", "absent", "unread", "failed")
MOST_TEXT = 200
"""Characters that are kept of a text that could not be read."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer about one object in one picture.

    Attributes:
        label: The object's name.
        kind: See the module.
        box: `xyxy` in pixels of the picture, for "found" and "given".
        score: How sure the policy is, 0 to 1; None: the policy gives no score.
        text: Why there is no box, for "unread" and "failed".
    """

    label: str
    kind: Kind
    box: Box | None = None
    score: float | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Looked:
    """The answers about one picture.

    Attributes:
        index: Place of the picture among all pictures.
        name: Name of the picture, see `focus_agents.finding.sources`.
        image_wh: (width, height); None: the picture could not be read.
        answers: One for each object; for an object whose supports lie in this picture, one for each of their boxes.
        path: File of the picture; None: a frame of a video, or in memory.
        clip: Video of the frame; "" for other pictures.
        fault: Why the picture could not be read.
    """

    index: int
    name: str
    image_wh: tuple[int, int] | None
    answers: tuple[Answer, ...] = ()
    path: Path | None = None
    clip: str = ""
    fault: str = ""

    def labelled(self, min_score: float | None = None) -> LabelledPicture | None:
        """Return the picture with its boxes; None if the picture could not be read.

        An object that the policy calls absent, or whose box has a score below `min_score`, is written as absent.
        """
        if self.image_wh is None:
            return None
        objects = []
        for one in self.answers:
            if one.kind in ("unread", "failed"):
                continue
            is_kept = one.box is not None and not is_below(one, min_score)
            score = one.score if is_kept or one.kind == "absent" else None
            objects.append(LabelledBox(one.label, one.box if is_kept else None, score=score))
        return LabelledPicture(self.name, self.image_wh, tuple(objects), self.path, self.clip)

    def as_json(self) -> dict[str, Any]:
        """Return the record for JSON."""
        answers = [[one.label, one.kind, one.box and list(one.box), one.score, one.text] for one in self.answers]
        path = None if self.path is None else str(self.path)
        return {
            "index": self.index, "name": self.name, "image_wh": self.image_wh and list(self.image_wh),
            "answers": answers, "path": path, "clip": self.clip, "fault": self.fault,
        }  # fmt: skip


def in_words(answer: Answer, min_score: float | None) -> str:
    """Return an answer in a few words."""
    words = {"found": "found", "given": "given", "absent": "not there", "unread": "no box", "failed": "failed"}
    return "below the least score" if is_below(answer, min_score) else words[answer.kind]


def is_below(answer: Answer, min_score: float | None) -> bool:
    """Tell whether a box counts as absent because its score is too low."""
    is_sure = answer.kind == "given" or answer.score is None or min_score is None
    return answer.box is not None and not is_sure and (answer.score or 0.0) < (min_score or 0.0)


def from_json(record: Mapping[str, Any]) -> Looked:
    """Return the record that `Looked.as_json` has written.

    Raises:
        CheckpointError: If the mapping is not such a record.
    """
    try:
        answers = tuple(
            Answer(label, kind, None if box is None else Box(*box), score, text)
            for label, kind, box, score, text in record["answers"]
        )
        image_wh, path = record["image_wh"], record["path"]
        return Looked(
            index=int(record["index"]),
            name=record["name"],
            image_wh=None if image_wh is None else (int(image_wh[0]), int(image_wh[1])),
            answers=answers,
            path=None if path is None else Path(path),
            clip=record["clip"],
            fault=record["fault"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"expected a picture that was looked at, got {record!r:.200}") from error


def read_completion(
    completion: Completion, *, label: str, template: PromptTemplate, image_wh: tuple[int, int], decode: Any = None
) -> Answer:
    """Read a policy's answer about an object.

    Args:
        completion: The policy's answer.
        label: The object's name.
        template: The prompt of the question.
        image_wh: (width, height) of the picture in pixels.
        decode: Gives the text of one token, `decode([token])`; None: the policy does not speak in tokens.
    """
    if completion.error is not None:
        return Answer(label, "failed", text=completion.error[:MOST_TEXT])
    parse = template.parse(completion.text, image_wh)
    score = completion_score(completion, has_box=parse.box is not None, decode=decode)
    if parse.status is ParseStatus.ABSENT:
        return Answer(label, "absent", score=score)
    if parse.box is None:
        return Answer(label, "unread", text=f"{parse.status.value}: {completion.text[:MOST_TEXT]!r}")
    return Answer(label, "found", Box(*map(float, parse.box)), score)
