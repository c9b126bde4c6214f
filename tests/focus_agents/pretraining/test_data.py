"""Documents about drawn pictures: what they say, what is learned of them, and batches."""

from __future__ import annotations

import dataclasses
import pickle
import re
from typing import Any

import numpy as np
import pytest
import torch

from focus_agents.models.inputs import IGNORED
from focus_agents.models.loading import SMALL, load_template
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.small import NAMES, VOCAB_SIZE
from focus_agents.pretraining import data
from focus_agents.pretraining.data import (
    ANSWER_CUE,
    CURRICULUM,
    EASY_SCENES,
    EASY_SCENES_UNTIL,
    SCENES,
    DocumentBatch,
    PretrainingBatches,
    Stage,
    draw_document,
    draw_identities,
    draw_picture,
    encode_documents,
    name_tokens,
    number_values,
    object_name,
)
from focus_env.boxes import box_iou
from focus_env.datasets.synthetic.identities import Identity
from focus_env.datasets.synthetic.paints import paints
from focus_env.datasets.synthetic.scenes import arrange, visible_box
from focus_env.types import Box, ImagePart, Message, TextPart

TEMPLATE = load_template(SMALL)

SIZE = 64

LAST_STAGE = CURRICULUM[-1]
QUESTION = re.compile(r"Where is (?P<name>[a-z ]+)\? Answer:|What is at (?P<box>\[[\d, ]+\])\? Answer:")


def draw(seed: int = 0, *, stage: Stage = LAST_STAGE, split: Any = "train") -> list[Message]:
    return draw_document(np.random.default_rng(seed), stage, SCENES, split=split, template=TEMPLATE, size=SIZE)


def text_of(message: Message) -> str:
    return "".join(part.text for part in message.content if isinstance(part, TextPart))


def pictures_of(message: Message) -> list[np.ndarray]:
    return [part.image for part in message.content if isinstance(part, ImagePart)]


def by_picture(document: list[Message]) -> list[tuple[np.ndarray, list[tuple[str, str]]]]:
    """Each picture with its (question, answer) pairs."""
    found: list[tuple[np.ndarray, list[tuple[str, str]]]] = []
    for question, answer in zip(document[::2], document[1::2], strict=True):
        found += [(image, []) for image in pictures_of(question)]
        found[-1][1].append((text_of(question), text_of(answer)))
    return found


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[np.ndarray, list[Identity], list[Box | None]]]:
    """The scenes behind the documents that a test draws: pixels, identities, boxes."""
    scenes: list[tuple[np.ndarray, list[Identity], list[Box | None]]] = []

    def spy(rng: np.random.Generator, identities: list[Identity], level: Any, size: int) -> Any:
        pixels, boxes = draw_picture(rng, identities, level, size)
        scenes.append((pixels, identities, boxes))
        return pixels, boxes

    monkeypatch.setattr(data, "draw_picture", spy)
    return scenes


class TestPictures:
    """Scenes and the boxes in them."""

    def test_names_tell_the_objects_of_a_picture_apart(self) -> None:
        rng = np.random.default_rng(0)
        for split in ("train", "val", "test_shapes"):
            # Many at once, so that some are drawn whose names are taken.
            names = [object_name(identity) for identity in draw_identities(rng, split, 80)]
            assert len(set(names)) == len(names) == 80
            assert {word for name in names for word in name.split()} <= set(NAMES)
            assert {len(name.split()) for name in names} == {4}

    def test_names_by_hand(self) -> None:
        assert object_name(Identity("star", 1, "stripes", 3, ("red", "blue"))) == "red blue stripes star"
        assert object_name(Identity("gear", 0, "solid", 0, ("pink",))) == "pink pink solid gear"

    def test_boxes_hold_their_objects(self) -> None:
        """Without one of its objects a picture differs within that object's box, up to smoothed edges, and only there.

        A scene is a function of its draws, so the same random state without the last of the objects draws the others in
        the same poses only if they are placed before it; where they are not, nothing is compared.
        """
        num_compared = 0
        for seed in range(40):
            with_both, with_one = (np.random.default_rng(seed) for _ in range(2))
            identities = draw_identities(np.random.default_rng(1000 + seed), "train", 2)
            pixels, boxes = draw_picture(with_both, identities, SCENES, SIZE)
            fewer, (lonely,) = draw_picture(with_one, identities[:1], SCENES, SIZE)
            if boxes[0] != lonely or boxes[1] is None:
                continue
            ys, xs = np.nonzero((pixels != fewer).any(-1))
            outline = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            np.testing.assert_allclose(outline, boxes[1], atol=1.5)
            num_compared += 1
        assert num_compared > 10

    def test_boxes_come_in_the_order_of_the_identities(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Not in that in which objects lie on each other."""
        scenes: list[Any] = []

        def spy(*arguments: Any) -> Any:
            scenes.append(arrange(*arguments))
            return scenes[-1]

        monkeypatch.setattr(data, "arrange", spy)
        rng, is_same_order = np.random.default_rng(0), []
        for _ in range(20):
            identities = draw_identities(rng, "train", 3)
            _, boxes = draw_picture(rng, identities, SCENES, SIZE)
            placed = {thing.identity: thing.bounds for thing in scenes[-1].objects}
            for identity, box in zip(identities, boxes, strict=True):
                assert box is None or box_iou(box, placed[identity]) > 0.4
            is_same_order.append(list(placed) == identities)
        assert not all(is_same_order)

    def test_a_hidden_object_has_no_box(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """And is not asked for."""

        def hide(thing: Any, above: Any, size: int) -> tuple[Box | None, float]:
            return (None, 0.0) if thing.identity.family == hidden else visible_box(thing, above, size)

        monkeypatch.setattr(data, "visible_box", hide)
        identities = draw_identities(np.random.default_rng(0), "train", 3)
        hidden = identities[1].family
        _, boxes = draw_picture(np.random.default_rng(0), identities, SCENES, SIZE)
        assert [box is None for box in boxes] == [identity.family == hidden for identity in identities]
        for seed in range(10):
            document = draw(seed, stage=dataclasses.replace(LAST_STAGE, num_objects=(5, 5), num_pictures=1))
            assert document
            assert not any(hidden in text_of(message) for message in document)


class TestDocuments:
    """Questions and answers about pictures."""

    def test_questions_are_true_of_their_own_picture(self, drawn: list[Any]) -> None:
        num_questions = {"name": 0, "box": 0}
        for seed in range(30):
            drawn.clear()
            document = by_picture(draw(seed))
            assert len(document) == len(drawn) == LAST_STAGE.num_pictures
            for (image, asked), (pixels, identities, boxes) in zip(document, drawn, strict=True):
                np.testing.assert_array_equal(image, pixels)
                names = [object_name(identity) for identity in identities]
                where = {name: box for name, box in zip(names, boxes, strict=True) if box is not None}
                for question, answer in asked:
                    match = QUESTION.fullmatch(question)
                    assert match, question
                    kind = match.lastgroup
                    num_questions[kind] += 1
                    if kind == "name":
                        expected = TEMPLATE.answer(where[match["name"]], (SIZE, SIZE))
                        assert answer == expected
                        assert TEMPLATE.parse(answer, (SIZE, SIZE)).is_strict
                    else:
                        at = {TEMPLATE.write_box(box, (SIZE, SIZE)): name for name, box in where.items()}
                        assert answer == f" {at[match['box']]}"
        assert min(num_questions.values()) > 0.4 * sum(num_questions.values())

    def test_each_object_is_asked_for_at_most_once(self, drawn: list[Any]) -> None:
        is_first = []
        for seed in range(40):
            drawn.clear()
            for (_, asked), (_, identities, boxes) in zip(by_picture(draw(seed)), drawn, strict=True):
                texts = {
                    object_name(identity): TEMPLATE.write_box(box, (SIZE, SIZE))
                    for identity, box in zip(identities, boxes, strict=True)
                    if box is not None
                }
                about = [
                    [name for name, box in texts.items() if f"is {name}?" in question or f"at {box}?" in question]
                    for question, _ in asked
                ]
                assert [len(names) for names in about] == [1] * LAST_STAGE.num_questions
                assert len({names[0] for names in about}) == LAST_STAGE.num_questions
                is_first.append(about[0][0] == object_name(identities[0]))
        assert 0.1 < np.mean(is_first) < 0.5  # of three to five objects, any may be asked for first

    def test_a_picture_stands_before_its_questions(self) -> None:
        document = draw()
        assert [message.role for message in document] == ["user", "assistant"] * (len(document) // 2)
        assert len(document) == 2 * LAST_STAGE.num_pictures * LAST_STAGE.num_questions
        for place, message in enumerate(document[::2]):
            kinds = [type(part) for part in message.content]
            has_picture = place % LAST_STAGE.num_questions == 0
            assert kinds == ([ImagePart, TextPart] if has_picture else [TextPart])
        assert not any(pictures_of(message) for message in document[1::2])

    def test_pictures_of_a_document_share_no_object(self, drawn: list[Any]) -> None:
        """Nothing is matched across pictures but by chance, which is rare among thousands of objects."""
        num_shared = 0
        for seed in range(40):
            drawn.clear()
            draw(seed)
            objects = [identity for _, identities, _ in drawn for identity in identities]
            num_shared += len(objects) - len(set(objects))
        assert num_shared <= 2

    @pytest.mark.parametrize("split", ["train", "val", "test"])
    def test_identities_are_those_of_the_split(self, split: Any, drawn: list[Any]) -> None:
        for seed in range(5):
            draw(seed, split=split)
        worn = {(i.texture, frozenset(i.colours)) for _, identities, _ in drawn for i in identities}
        assert worn <= {(paint.texture, frozenset(paint.colours)) for paint in paints(split)}

    @pytest.mark.parametrize("stage", CURRICULUM, ids=lambda stage: f"until {stage.until}")
    def test_stages_decide_how_much_a_document_holds(self, stage: Stage, drawn: list[Any]) -> None:
        counts = set()
        for seed in range(30):
            drawn.clear()
            document = draw(seed, stage=stage)
            assert len(drawn) == stage.num_pictures
            assert len(document) == 2 * stage.num_pictures * stage.num_questions
            counts |= {len(identities) for _, identities, _ in drawn}
        assert counts == set(range(stage.num_objects[0], stage.num_objects[1] + 1))

    def test_no_stage_asks_for_more_objects_than_there_are(self) -> None:
        assert all(stage.num_questions <= stage.num_objects[0] <= stage.num_objects[1] for stage in CURRICULUM)
        assert [stage.until for stage in CURRICULUM] == sorted({stage.until for stage in CURRICULUM})


class TestLabels:
    """What is trained: the answers with their end tokens, and nothing else."""

    def test_labels_are_the_answers_tokens(self, processor: VLMProcessor) -> None:
        stages = [LAST_STAGE, CURRICULUM[0], LAST_STAGE]  # of different lengths, so that there is padding
        documents = [draw(seed, stage=stage) for seed, stage in enumerate(stages)]
        batch = encode_documents(processor, documents)
        assert batch.labels.shape == batch.prompts.input_ids.shape
        assert not batch.prompts.attention_mask.all()
        for row, document in enumerate(documents):
            is_label = batch.labels[row] != IGNORED
            assert torch.equal(batch.labels[row][is_label], batch.prompts.input_ids[row][is_label])
            answers = [text_of(message) for message in document if message.role == "assistant"]
            expected = [token for answer in answers for token in processor.encode_answer(answer)]
            assert batch.labels[row][is_label].tolist() == expected
            # The same, as text: names' tokens take the spaces before them with them.
            pieces = processor.tokenizer.decode(expected).split("<|im_end|>")
            assert pieces == [a if a.startswith("<") else a.replace(" ", "") for a in answers] + [""]

    def test_answers_follow_their_cues(self, processor: VLMProcessor) -> None:
        batch = encode_documents(processor, [draw(seed) for seed in range(3)])
        cue = processor.tokenizer.convert_tokens_to_ids(ANSWER_CUE)
        for ids, labels in zip(batch.prompts.input_ids, batch.labels, strict=True):
            is_label = labels != IGNORED
            begins = is_label[1:] & ~is_label[:-1]
            assert (ids[:-1][begins] == cue).all()
            assert begins.sum() == (ids == cue).sum() == LAST_STAGE.num_pictures * LAST_STAGE.num_questions

    def test_numbers_and_names(self, processor: VLMProcessor) -> None:
        values, is_name = number_values(processor), name_tokens(processor)
        assert values.shape == is_name.shape == (VOCAB_SIZE,)
        for token, value in enumerate(values.tolist()):
            if value >= 0:
                assert processor.decode([token]) == str(value)
        assert sorted(values[values >= 0].tolist()) == list(range(101))
        assert {processor.decode([token]) for token in is_name.nonzero()[:, 0].tolist()} == set(NAMES)
        assert not (is_name & (values >= 0)).any()


def assert_same_batch(first: DocumentBatch, second: DocumentBatch) -> None:
    for one, other in (
        (first.labels, second.labels),
        (first.prompts.input_ids, second.prompts.input_ids),
        (first.prompts.images["pixel_values"], second.prompts.images["pixel_values"]),
    ):
        assert torch.equal(one, other)


class TestBatches:
    """The batch of a step."""

    def test_it_is_a_function_of_seed_and_step(self, processor: VLMProcessor) -> None:
        batches = PretrainingBatches(processor, TEMPLATE, seed=4)
        torch.manual_seed(0)
        np.random.seed(0)
        first = batches[3]
        assert_same_batch(batches[3], first)
        assert_same_batch(pickle.loads(pickle.dumps(batches))[3], first)
        pixels = [
            batch.prompts.images["pixel_values"]
            for batch in (
                first,
                batches[4],
                PretrainingBatches(processor, TEMPLATE, seed=5)[3],
                PretrainingBatches(processor, TEMPLATE, seed=3)[4],
                PretrainingBatches(processor, TEMPLATE, seed=4, split="val")[3],
            )
        ]
        for place, one in enumerate(pixels):
            assert not any(one.shape == other.shape and torch.equal(one, other) for other in pixels[:place])

    @pytest.mark.parametrize(
        ("step", "stage"), [(0, 0), (399, 0), (400, 1), (799, 1), (800, 2), (1199, 2), (1200, 3), (10**6, 3)]
    )
    def test_stages_apply_from_step_to_step(
        self, processor: VLMProcessor, monkeypatch: pytest.MonkeyPatch, step: int, stage: int
    ) -> None:
        asked: list[tuple[Stage, Any]] = []

        def spy(rng: np.random.Generator, stage: Stage, level: Any, **options: Any) -> list[Message]:
            asked.append((stage, level))
            return draw_document(rng, CURRICULUM[0], level, **options)

        monkeypatch.setattr(data, "draw_document", spy)
        batch = PretrainingBatches(processor, TEMPLATE, seed=0)[step]
        level = EASY_SCENES if step < EASY_SCENES_UNTIL else SCENES
        assert asked == [(CURRICULUM[stage], level)] * CURRICULUM[stage].num_documents
        assert len(batch.labels) == CURRICULUM[stage].num_documents

    def test_easy_scenes_end(self, monkeypatch: pytest.MonkeyPatch, processor: VLMProcessor) -> None:
        levels = []

        def spy(rng: np.random.Generator, identities: list[Identity], level: Any, size: int) -> Any:
            levels.append(level)
            return draw_picture(rng, identities, level, size)

        monkeypatch.setattr(data, "draw_picture", spy)
        monkeypatch.setattr(data, "CURRICULUM", [dataclasses.replace(CURRICULUM[0], until=10**9, num_documents=1)])
        batches = PretrainingBatches(processor, TEMPLATE, seed=0)
        _ = batches[EASY_SCENES_UNTIL - 1], batches[EASY_SCENES_UNTIL]
        assert levels == [EASY_SCENES, SCENES]
