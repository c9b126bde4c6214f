"""One answer, read in every known unit of coordinates: in the wrong one it hits nothing."""

from __future__ import annotations

from dataclasses import dataclass

from focus_agents.diagnosis.findings import Section
from focus_agents.diagnosis.question import Question
from focus_agents.rollout.records import Completion
from focus_env.boxes import CoordinateFrame, box_iou, frame_to_box
from focus_env.types import Box
from focus_env.units import fits_far_better


@dataclass(frozen=True, slots=True)
class Reading:
    """An answer's numbers in a unit.

    Attributes:
        frame: The unit.
        box: `xyxy` in pixels of the query, wherever it lies.
        iou: With the target; 0 for what is no box, None where the object is absent.
    """

    frame: CoordinateFrame
    box: Box
    iou: float | None


def read_in_units(question: Question, text: str) -> list[Reading]:
    """Read an answer in every known unit; empty if it holds no four numbers.

    Args:
        question: What was asked.
        text: What the model wrote.
    """
    numbers = question.template.parse(text, question.query_wh).numbers
    if numbers is None:
        return []
    target, readings = question.episode.target_box, []
    for frame in CoordinateFrame:
        box = frame_to_box(numbers, frame, image_wh=question.query_wh, input_wh=question.input_whs[-1])
        is_box = box.x1 < box.x2 and box.y1 < box.y2
        overlap = None if target is None else box_iou(box, target) if is_box else 0.0
        readings.append(Reading(frame, box, overlap))
    return readings


def describe_answer(
    section: Section, question: Question, completion: Completion, *, trained: CoordinateFrame | None = None
) -> Box | None:
    """Write down how an answer reads.

    Args:
        section: Gets the notes.
        question: What was asked.
        completion: The greedy answer.
        trained: The unit that the model records; None: it records none, and one answer may show which it means.

    Returns:
        The box in the unit that was asked for; None if there is none.
    """
    frame, text = question.template.frame, completion.text
    parsed = question.template.parse(text, question.query_wh)
    readings = read_in_units(question, text)
    section.facts |= {
        "frame": str(frame), "answer": text, "num_answer_tokens": len(completion.token_ids),
        "is_finished": completion.is_finished, "status": str(parsed.status), "is_strict": parsed.is_strict,
        "box": None if parsed.box is None else list(parsed.box), "iou": {str(r.frame): r.iou for r in readings},
    }  # fmt: skip
    section.ok(f"asked in {frame}; the greedy answer is {text!r}")
    if not completion.is_finished:
        section.warn(
            f"the answer was cut at {len(completion.token_ids)} tokens; raise `max_completion_tokens`, or the model "
            "does not know how answers end"
        )
    if not readings:
        absent = " (the object is not there)" if question.episode.target_box is None else ""
        note = section.ok if absent and parsed.is_strict else section.warn
        note(f"the answer holds no four numbers: {parsed.status}{absent}; train the format, or try another `template`")
        return parsed.box
    if not parsed.is_strict:
        section.warn(f"the answer is not in the format that was asked for ({parsed.status})")
    _compare(section, frame, readings, trained)
    return parsed.box


def _compare(
    section: Section, frame: CoordinateFrame, readings: list[Reading], trained: CoordinateFrame | None
) -> None:
    """Say how well the numbers fit in each unit, and warn if another one fits far better.

    A poor answer may fit in another unit by chance, so a policy that is asked in its own is given no such advice.
    """
    overlaps = {reading.frame: reading.iou for reading in readings}
    if any(overlap is None for overlap in overlaps.values()):
        section.skip("the object is absent from this query, so no unit can be told from another; choose an `episode`")
        return
    known = {unit: overlap or 0.0 for unit, overlap in overlaps.items()}
    listed = ", ".join(f"{unit} {overlap:.2f}{' (asked)' if unit is frame else ''}" for unit, overlap in known.items())
    section.ok(f"IoU with the truth if its numbers are read as {listed}")
    best = max(known, key=lambda unit: known[unit])
    if frame is trained:
        section.ok(f"it was trained in {frame}, which is asked for")
    elif best is not frame and fits_far_better(known[best], known.get(frame, 0.0)):
        section.warn(
            f"the answer fits {best} far better (IoU {known[best]:.2f}) than {frame}, in which it was asked for "
            f"({known.get(frame, 0.0):.2f}); ask in that unit: `frame` {best}"
        )


def check_right_answer(section: Section, question: Question, decoded: str) -> None:
    """See that the right answer can be written, and read back as what it was.

    Args:
        section: Gets the notes.
        question: What is asked.
        decoded: What the right answer's tokens decode to, without special ones.
    """
    target, template = question.episode.target_box, question.template
    parsed = template.parse(decoded, question.query_wh)
    section.facts["right_answer"] = question.answer
    if target is None:
        if parsed.is_strict and parsed.box is None:
            section.ok(f"the right answer {question.answer!r} is read back as absent")
        else:
            section.fault(f"the right answer {question.answer!r} is read back as {parsed.status}; mend the `template`")
        return
    overlap = 0.0 if parsed.box is None else box_iou(parsed.box, target)
    section.facts["right_answer_iou"] = overlap
    said = f"the right answer {question.answer!r} of {len(question.answer_ids)} tokens"
    if parsed.box is None:
        section.fault(f"{said} is read back as {parsed.status} from its tokens, {decoded!r}; mend the `template`")
    elif overlap < 0.5:
        section.fault(
            f"{said} is read back with IoU {overlap:.3f}; choose a finer `frame`, {template.frame} is too coarse"
        )
    elif overlap < 0.9:
        section.warn(f"{said} is read back with IoU {overlap:.3f}, the most that can be earned; a finer `frame` helps")
    else:
        section.ok(f"{said} is read back with IoU {overlap:.3f}")
