"""All checks in their order: each fault becomes a sentence in its section, and whatever can go on without it does."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from focus_agents.diagnosis.costs import count_costs, measure_step
from focus_agents.diagnosis.findings import Section, Verdict, conclusion, overall
from focus_agents.diagnosis.identity import describe_model
from focus_agents.diagnosis.parity import check_generation, check_prefix
from focus_agents.diagnosis.pictures import check_views, draw_sheet
from focus_agents.diagnosis.question import BoxInText, Piece, Question, ask, cut, read_boxes
from focus_agents.diagnosis.units import check_right_answer, describe_answer
from focus_agents.diagnosis.weights import check_weights
from focus_agents.diagnosis.words import check_boxes
from focus_agents.models.devices import Device, device_of
from focus_agents.models.inputs import PromptBatch
from focus_agents.models.loading import (
    as_trained,
    check_model,
    load_config,
    load_model,
    load_template,
    load_trainable_model,
    trained_frame,
)
from focus_agents.models.pictures import picture_budget
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.settings import FinetuningSettings
from focus_agents.models.shape import shape_of
from focus_agents.policies.vlm import VLMPolicy
from focus_agents.rollout.records import MAX_COMPLETION_TOKENS, Completion, Sampling
from focus_env.boxes import CoordinateFrame
from focus_env.errors import FocusError
from focus_env.types import Box, Episode, EpisodeDataset, ImageArray

SECTIONS = {
    "model": "the model",
    "pictures": "the pictures",
    "prompt": "the prompt",
    "unit": "the unit of coordinates",
    "budget": "the budget",
    "parity": "parity",
}
"""By name, in their order."""
NUM_LOOKED_AT = 64
"""Episodes among which the first with its object in the query is taken."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """The model, data and prompt that are to be examined.

    Attributes:
        model: As `focus_agents.models.loading.load_model` takes it.
        load_episodes: Loads the data set.
        template: As for `focus_env.prompts.get_template`; None: the model's own.
        frame: Unit of coordinates; None: the template's or the model's own.
        max_image_tokens: Most tokens of a picture; None: as a saved policy's folder records it, or the model's own.
        episode: Number of the episode; None: the first one whose query shows the object.
        settings: How the model would be trained.
        device: Where to compute, "cpu" or as torch names a GPU.
        max_completion_tokens: Most tokens of the greedy answer.
        measures_step: Whether a forward and a backward pass are run.
    """

    model: str
    load_episodes: Callable[[], EpisodeDataset]
    template: str | None = None
    frame: CoordinateFrame | None = None
    max_image_tokens: int | None = None
    episode: int | None = None
    settings: FinetuningSettings = field(default_factory=FinetuningSettings)
    device: str = "cpu"
    max_completion_tokens: int = MAX_COMPLETION_TOKENS
    measures_step: bool = True


@dataclass
class Examination:
    """The findings, and the pictures of them.

    Attributes:
        sections: By name, in their order.
        sheet: The pictures as the model sees them, [H, W, 3] uint8; None: they cannot be had.
        pieces: The prompt and its right answer by kind; empty: it cannot be had.
    """

    sections: dict[str, Section] = field(
        default_factory=lambda: {name: Section(name, title) for name, title in SECTIONS.items()}
    )
    sheet: ImageArray | None = None
    pieces: list[Piece] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """The worst of all sections."""
        return overall(self.sections.values())

    @property
    def sentence(self) -> str:
        """The conclusion in one sentence."""
        return conclusion(list(self.sections.values()))

    @property
    def exit_status(self) -> int:
        """1 after a fault, else 0."""
        return int(self.verdict is Verdict.FAULT)

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain values for JSON, pictures left out."""
        return {
            "verdict": str(self.verdict),
            "sentence": self.sentence,
            "exit_status": self.exit_status,
            "sections": [section.as_dict() for section in self.sections.values()],
        }


def examine(request: Request, *, tell: Callable[[str], None] = lambda text: None) -> Examination:
    """Examine whether a model, a data set and a prompt fit together.

    Args:
        request: What is examined.
        tell: Is told what is done next, for a line of status.

    Returns:
        The findings; nothing that goes wrong is raised.
    """
    found = Examination()
    sections = found.sections
    boxes: list[BoxInText] = []
    processor = question = device = answer = seen = None
    tell("reading the model's files")
    with reported(sections["model"]):
        processor = check_model(request.model, max_image_tokens=_picture_limit(request))
        device = device_of(request.device)
        describe_model(sections["model"], request.model, processor, request.device, device)
    if processor is not None:
        tell("asking an episode")
        with reported(sections["pictures"]):
            question = _question(request, processor)
            seen = check_views(sections["pictures"], processor, question)
    if processor is not None and question is not None:
        with reported(sections["prompt"]):
            boxes, found.pieces = _read_prompt(sections["prompt"], processor, question)
        with reported(sections["unit"]):
            decoded = processor.decode(list(question.answer_ids))
            check_right_answer(sections["unit"], question, decoded)
        if device is not None:
            answer = _compute(found, request, processor, question, device, tell)
        with reported(sections["pictures"]):
            in_text = {box.number: box.box for box in boxes if box.box is not None}
            found.sheet = draw_sheet(question, seen, boxes_in_text=in_text, answer=answer)
    reason = next((s.title for s in sections.values() if s.verdict is Verdict.FAULT), "what comes before")
    for section in sections.values():
        if not section.notes:
            section.skip(f"not looked at, because of a fault in {reason}")
    return found


@contextlib.contextmanager
def reported(section: Section) -> Iterator[None]:
    """Make of whatever is raised inside a fault of a section, in a sentence."""
    try:
        yield
    except (FocusError, ValueError, MemoryError) as error:
        section.fault(str(error))
    except Exception as error:  # of whatever library, a data set or a template of the user's own
        section.fault(f"{type(error).__name__}: {error}".splitlines()[0])


def _picture_limit(request: Request) -> int | None:
    return picture_budget(request.model, training=request.max_image_tokens).training


def _question(request: Request, processor: VLMProcessor) -> Question:
    """Return the episode that is examined, as the model is asked."""
    template = load_template(
        request.model, name=request.template, frame=request.frame, max_image_tokens=_picture_limit(request)
    )
    return ask(processor, template, _episode(request.load_episodes(), request.episode))


def _episode(episodes: EpisodeDataset, number: int | None) -> Episode:
    """Return the chosen episode, or the first whose query shows the object."""
    if number is not None:
        if not 0 <= number < len(episodes):
            raise ValueError(f"episode: expected 0 to {len(episodes) - 1}, got {number}; the data set has no more")
        return episodes[number]
    shown = (episodes[n] for n in range(min(len(episodes), NUM_LOOKED_AT)))
    return next((episode for episode in shown if episode.target_box is not None), episodes[0])


def _read_prompt(section: Section, processor: VLMProcessor, question: Question) -> tuple[list[BoxInText], list[Piece]]:
    """Return the support boxes as the prompt's tokens have them, checked, and the prompt by kind."""
    template = question.template
    section.facts |= {"template": template.name, "frame": str(template.frame)}
    spans = processor.locate(question.messages, question.prompt)
    num_shots = len(question.episode.support)
    if (len(spans.images), len(spans.box_texts)) != (num_shots + 1, num_shots):
        section.fault(
            f"template {template.name!r}: expected {num_shots + 1} pictures and {num_shots} marked boxes, got "
            f"{len(spans.images)} and {len(spans.box_texts)}; a template marks boxes by TextPart.box_span"
        )
        return [], []
    boxes = read_boxes(processor, question, spans)
    check_boxes(section, boxes)
    return boxes, cut(processor, question, spans)


def _compute(
    found: Examination,
    request: Request,
    processor: VLMProcessor,
    question: Question,
    device: Device,
    tell: Callable[[str], None],
) -> Box | None:
    """Count, load, answer, take a step, compare; returns the greedy answer's box."""
    sections, settings, box = found.sections, request.settings, None
    budget = sections["budget"]
    left_out: str | None = "its costs are not known"
    with reported(budget):
        left_out = count_costs(
            budget,
            question,
            shape_of(load_config(request.model)),
            as_trained(settings, request.model),
            device,
            image_token_id=processor.image_token_id,
            max_completion_tokens=request.max_completion_tokens,
        )
    if budget.verdict is Verdict.FAULT:
        return None
    if not request.measures_step:
        left_out = "it was not asked for"
    model = completion = None
    tell("loading the weights")
    with reported(sections["model"]):
        start = time.perf_counter()
        model = _load(request, trains=left_out is None)
        sections["model"].ok(f"its weights were loaded in {time.perf_counter() - start:.1f} s")
        check_weights(sections["model"], model, request.model)
    if model is None:
        return None
    tell("answering")
    with reported(sections["unit"]):
        completion = _answer(budget, model, processor, question, request)
        box = describe_answer(sections["unit"], question, completion, trained=trained_frame(request.model))
    batch = processor.collate([question.prompt]).to(request.device)
    tell("taking a step")
    with reported(budget):
        if left_out is None:
            measure_step(budget, model, batch, question, settings)
        else:
            budget.skip(f"no forward and backward pass was run: {left_out}")
    if completion is not None:
        tell("comparing")
        _compare(sections["parity"], model.eval(), processor, batch, question, completion, request)
    return box


def _load(request: Request, *, trains: bool) -> Any:
    """Return the model on its device, in evaluation mode; ready to be trained if a step shall be measured."""
    settings = request.settings
    if not trains:
        dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
        return load_model(request.model, dtype=dtype).requires_grad_(False).to(request.device).eval()
    model = load_trainable_model(
        request.model,
        precision=settings.precision,
        lora_rank=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        freeze_vision=settings.freeze_vision,
        gradient_checkpointing=settings.gradient_checkpointing,
    )
    return model.to(request.device).eval()


def _answer(budget: Section, model: Any, processor: VLMProcessor, question: Question, request: Request) -> Completion:
    """Return the greedy answer, and what it took."""
    policy = VLMPolicy(model, processor, precision=request.settings.precision)
    sampling = Sampling(temperature=0.0, max_completion_tokens=request.max_completion_tokens)
    start = time.perf_counter()
    (generation,) = policy.generate([question.messages], num_completions=1, sampling=sampling, seeds=[0])
    seconds = time.perf_counter() - start
    (completion,) = generation.completions
    budget.facts["answer_seconds"] = seconds
    budget.ok(f"the greedy answer of {len(completion.token_ids)} tokens took {seconds:.2f} s")
    return completion


def _compare(
    section: Section,
    model: Any,
    processor: VLMProcessor,
    batch: PromptBatch,
    question: Question,
    completion: Completion,
    request: Request,
) -> None:
    """Shared against repeated prompts, and our greedy decoding against transformers'."""
    precision, greedy = request.settings.precision, completion.token_ids.tolist()
    with reported(section):
        check_prefix(section, model, batch, [question.answer_ids, greedy], precision)
    with reported(section):
        check_generation(section, model, processor, batch, greedy, precision)
