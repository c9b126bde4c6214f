"""`find`: objects in many pictures, from Python; what it writes, and how it goes on after a kill."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from focus_agents.errors import PolicyError
from focus_agents.finding import find, looking
from focus_agents.finding.unfinished import folder_of
from focus_agents.models.processing import VLMProcessor
from focus_agents.policies.localizers import LocalizerPolicy
from focus_agents.policies.vlm import VLMPolicy
from focus_agents.rollout.records import Generation, Sampling
from focus_env.annotations import FORMATS, read_annotations
from focus_env.prompts import get_template
from focus_env.types import Box, Message
from tests.focus_agents.finding.scenes import TEMPLATE, FindsBright, bright, square, write

CORNERS = {"1.png": (8, 8), "2.png": None, "3.png": (40, 30), "10.png": (60, 20), "sub/1.png": (20, 40)}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name, corner in CORNERS.items():
        write(tmp_path / "photos" / name, corner)
    (tmp_path / "photos/bad.jpg").write_text("no picture")
    return tmp_path / "photos"


@pytest.fixture
def support(tmp_path: Path) -> list[tuple[Path, Box]]:
    return [(write(tmp_path / "support.png", (30, 30)), square((30, 30)))]


def test_boxes_are_exact_and_everything_is_said(photos: Path, support: Any, tmp_path: Path) -> None:
    found = find({"mug": support}, photos, policy=bright(), out=tmp_path / "new/found.json", min_score=0.2)
    assert found.counts("mug") == {"below the least score": 1, "not there": 1, "found": 3}
    assert [fault.split(":")[0] for fault in found.faults] == [str(photos / "bad.jpg")]
    read = read_annotations(tmp_path / "new/found.json", image_root=photos)
    boxes = {picture.name: [(one.box, one.score) for one in picture.objects] for picture in read.pictures}
    assert boxes == {
        "1.png": [(None, None)],
        "2.png": [(None, 0.25)],
        "3.png": [(square((40, 30)), 0.5)],
        "10.png": [(square((60, 20)), 0.75)],
        "sub/1.png": [(square((20, 40)), 0.25)],
    }
    assert not folder_of(tmp_path / "new/found.json").exists()
    coco = COCO(str(tmp_path / "new/found.json"))
    assert (len(coco.imgs), len(coco.anns)) == (5, 3)
    assert find({"mug": support}, photos, policy=bright()).counts("mug") == {"found": 4, "not there": 1}


@pytest.mark.parametrize("format", [name for name, entry in FORMATS.built_in.items() if entry.write])
def test_every_format(format: str, photos: Path, support: Any, tmp_path: Path) -> None:
    (photos / "bad.jpg").unlink()
    find({"my mug": support}, photos, policy=bright(), out=tmp_path / "out", format=format)
    read = read_annotations(tmp_path / "out", format=format, image_root=photos)
    boxes = {picture.name: one.box for picture in read.pictures for one in picture.objects if one.box is not None}
    assert set(boxes) == {name for name, corner in CORNERS.items() if corner}
    for name, box in boxes.items():
        np.testing.assert_allclose(box, square(CORNERS[name] or (0, 0)), atol=0.01)


def test_a_support_that_is_a_query_is_not_asked(photos: Path) -> None:
    localizer = FindsBright()
    given = {"mug": [(photos / "1.png", (9, 9, 23, 23))], "cup": [(photos / "3.png", (40, 30, 56, 46))]}
    found = find(given, [photos / "1.png", photos / "3.png"], policy=LocalizerPolicy(localizer, TEMPLATE))
    assert [[(one.kind, one.box) for one in looked.answers] for looked in found.looked] == [
        [("given", Box(9, 9, 23, 23)), ("found", square((8, 8)))],
        [("found", square((40, 30))), ("given", Box(40, 30, 56, 46))],
    ]
    assert localizer.num_calls == 2


class Dies(LocalizerPolicy):
    """A policy whose process is killed at a call."""

    def __init__(self, at: int) -> None:
        super().__init__(FindsBright(), TEMPLATE)
        self.num_left = at

    def generate(self, prompts: Sequence[Sequence[Message]], **options: Any) -> list[Generation]:
        self.num_left -= 1
        if self.num_left == 0:
            raise KeyboardInterrupt
        return super().generate(prompts, **options)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_killed_search_goes_on_to_the_same_bytes(at: int, photos: Path, support: Any, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.json", tmp_path / "found.json"
    options: dict[str, Any] = {"batch_size": 2, "min_score": 0.2}
    find(support, photos, policy=Dies(0), out=whole, **options)
    with pytest.raises(KeyboardInterrupt):
        find(support, photos, policy=Dies(at), out=out, **options)
    assert not out.exists()
    answers = folder_of(out) / "answers.jsonl"
    kept = answers.read_bytes() if answers.exists() else b""
    assert kept.count(b"\n") == 2 * (at - 1)
    answers.write_bytes(kept + b'{"index": 4, "na')  # a line that the kill has cut
    localizer = FindsBright()
    again = Dies(0)
    again.localizer = localizer
    find(support, photos, policy=again, out=out, **options)
    assert out.read_bytes() == whole.read_bytes()
    assert localizer.num_calls <= 5 - (2 * (at - 1) - 1)
    assert not folder_of(out).exists()


def test_a_batch_of_which_a_part_was_kept_is_asked_again(photos: Path, support: Any, tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    with pytest.raises(KeyboardInterrupt):
        find(support, photos, policy=Dies(3), out=out, batch_size=2)
    answers = folder_of(out) / "answers.jsonl"
    lines = answers.read_text().splitlines(keepends=True)
    answers.write_text("".join(lines[:3]))
    find(support, photos, policy=Dies(0), out=out, batch_size=2)
    assert len(json.loads(out.read_text())["images"]) == 5


def test_an_unfinished_search_of_something_else(photos: Path, support: Any, tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    with pytest.raises(KeyboardInterrupt):
        find(support, photos, policy=Dies(2), out=out, batch_size=2, draw=tmp_path / "sheet.png")
    other = [(support[0][0], (1, 2, 3, 4))]
    with pytest.raises(ValueError, match=r"found one in which objects differs; repeat that command"):
        find(other, photos, policy=Dies(0), out=out, batch_size=2)
    with pytest.raises(ValueError, match=r"found one in which batch_size differs"):
        find(support, photos, policy=Dies(0), out=out, batch_size=3)
    write(photos / "1.png", (9, 9))
    with pytest.raises(ValueError, match=r"found one in which pictures differs"):
        find(support, photos, policy=Dies(0), out=out, batch_size=2)
    (tmp_path / "sheet.png").touch()  # as of a kill between the drawing and the file
    found = find(support, photos, policy=Dies(0), out=out, batch_size=2, overwrite=True, draw=tmp_path / "sheet.png")
    (answer,) = found.looked[0].answers
    assert answer.box is not None
    np.testing.assert_allclose(answer.box, square((9, 9)), atol=0.1)


def test_a_drawing_of_a_killed_search_is_replaced(photos: Path, support: Any, tmp_path: Path) -> None:
    out, sheet = tmp_path / "found.json", tmp_path / "sheet.png"
    with pytest.raises(KeyboardInterrupt):
        find(support, photos, policy=Dies(2), out=out, batch_size=2, draw=sheet)
    sheet.touch()
    find(support, photos, policy=Dies(0), out=out, batch_size=2, draw=sheet)
    with Image.open(sheet) as drawn:
        assert drawn.width > 1000


def test_a_model_encodes_supports_once_and_gives_the_same_bytes_after_a_kill(
    model: Any, processor: VLMProcessor, photos: Path, support: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = get_template("compact")
    policy = VLMPolicy(model, processor)
    options: dict[str, Any] = {"policy": policy, "template": template, "batch_size": 2}
    whole = find(support, photos, out=tmp_path / "whole.jsonl", **options)
    calls = 0

    def look(self: looking.Looker, batch: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return original(self, batch)

    original = looking.Looker.look
    monkeypatch.setattr(looking.Looker, "look", look)
    with pytest.raises(KeyboardInterrupt):
        find(support, photos, out=tmp_path / "found.jsonl", **options)
    find(support, photos, out=tmp_path / "found.jsonl", **options)
    assert (tmp_path / "found.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    texts = []
    for looked in whole.looked:
        if looked.image_wh is not None and looked.path is not None:
            question = {
                "support_images": (support[0][0],), "support_boxes": [support[0][1]], "query_image": looked.path,
            }  # fmt: skip
            sampling = Sampling(temperature=0.0)
            (alone,) = policy.generate(
                [template.render(question)],
                num_completions=1,
                sampling=sampling,
                seeds=[0],  # type: ignore[arg-type]
            )
            texts.append(template.parse(alone.completions[0].text, looked.image_wh).box)
    assert [one.answers[0].box for one in whole.looked if one.answers] == texts


class Raises:
    """A policy of one's own that cannot take narrow pictures."""

    template = TEMPLATE

    def generate(self, prompts: Sequence[Sequence[Message]], **options: Any) -> list[Generation]:
        answers = LocalizerPolicy(FindsBright(), TEMPLATE).generate(prompts, **options)
        if any(part.image.shape[1] < 70 for prompt in prompts for part in prompt[0].content[-2:-1]):  # type: ignore[union-attr]
            raise ArithmeticError("too narrow")
        return answers


def test_a_picture_that_the_policy_cannot_take_harms_no_other(photos: Path, support: Any) -> None:
    Image.new("RGB", (10, 60)).save(photos / "narrow.png")
    found = find(support, photos, policy=Raises())
    assert found.counts("object") == {"found": 4, "not there": 1, "failed": 1}
    (failed,) = [one for looked in found.looked for one in looked.answers if one.kind == "failed"]
    assert failed.text == "ArithmeticError: too narrow"


def test_a_policy_that_always_fails_is_given_up(support: Any, tmp_path: Path) -> None:
    for number in range(20):
        Image.new("RGB", (10, 60), (number, 0, 0)).save(tmp_path / f"narrow{number}.png")
    with pytest.raises(PolicyError, match=r"the first 8 answers failed alike \(ArithmeticError: too narrow\)"):
        find(support, f"{tmp_path}/narrow*.png", policy=Raises())


def test_a_least_score_of_a_policy_without_scores(photos: Path, support: Any) -> None:
    unsure = LocalizerPolicy(lambda question, rng: Box(1, 2, 30, 40), TEMPLATE)
    with pytest.raises(PolicyError, match=r"min_score: expected a policy that says how sure it is"):
        find(support, photos, policy=unsure, min_score=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": "{tmp}/photos"}, "expected a path that holds none of the given pictures, it has"),
        (
            {"out": "{tmp}/photos", "format": "labelme", "overwrite": True},
            "expected a path that holds none of the given",
        ),
        ({"out": "{tmp}/photos/1.png", "format": "coco", "overwrite": True}, "expected a path that holds none of the"),
        ({"out": "{tmp}/support.png", "format": "coco", "overwrite": True}, "expected a path that holds none of the"),
        ({"out": "{tmp}/there.json"}, "there.json: expected a free path, found a file or folder there"),
        ({"draw": "{tmp}/there.png"}, "there.png: expected a free path, found a file or folder there"),
        ({"draw": "{tmp}/there.json"}, "there.json: expected a free path, found a file or folder there"),
        ({"draw": "{tmp}/photos/drawn"}, "whose pictures are searched"),
        ({"out": "{tmp}/x"}, "expected one of the endings .json, .xml, .csv"),
        ({"out": "{tmp}/x", "format": "coca"}, "unknown annotation format 'coca'"),
        ({"out": "{tmp}/x", "format": "yolo"}, "expected names that differ in more than their endings"),
        ({"format": "coco"}, "format: expected `out` beside it"),
        ({"out": "{tmp}/x.csv", "draw": "{tmp}/x.csv"}, "expected a path of its own for each output"),
        ({"video": "{tmp}/x.gif"}, "expected one of the endings .mp4"),
        ({"every": 0}, "every: expected 1 or more frames, got 0"),
        ({"allow_absent": True}, "which has none; leave it out, or choose another `template`"),
        ({"policy": "no_such"}, "policy 'no_such': no such policy"),
    ],
)
def test_wrong_arguments_before_any_work(
    options: dict[str, Any], message: str, photos: Path, support: Any, tmp_path: Path
) -> None:
    for name in ("there.json", "there.png"):
        (tmp_path / name).touch()
    write(photos / "1.jpg", (1, 1))
    before = sorted(tmp_path.rglob("*"))
    options = {name: one.format(tmp=tmp_path) if isinstance(one, str) else one for name, one in options.items()}
    wordless = LocalizerPolicy(FindsBright(), get_template("iploc") if "allow_absent" in options else TEMPLATE)
    with pytest.raises(ValueError, match=re.escape(message)):
        find(support, photos, **{"policy": wordless, **options})
    assert sorted(tmp_path.rglob("*")) == before


def test_drawings(photos: Path, support: Any, tmp_path: Path) -> None:
    write(photos / "film.gif", (8, 8))
    find(support, photos, policy=bright(), draw=tmp_path / "drawn")
    assert sorted(path.relative_to(tmp_path / "drawn").as_posix() for path in (tmp_path / "drawn").rglob("*.*")) == [
        "1.png", "10.png", "2.png", "3.png", "film.gif.png", "sub/1.png",
    ]  # fmt: skip
    with Image.open(tmp_path / "drawn/3.png") as drawn, Image.open(tmp_path / "drawn/2.png") as empty:
        assert drawn.size == (80, 60)
        assert (np.asarray(drawn)[27:31, 40:56] == (225, 0, 130)).all(-1).any(), "the upper edge of the box"
        assert (np.asarray(empty) == 40).all()
    find(support, photos, policy=bright(), draw=tmp_path / "sheet.png", min_score=0.2)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size[0] > 1000


def test_the_policy_that_needs_no_download(photos: Path, support: Any) -> None:
    pytest.importorskip("cv2")
    found = find(support, [photos / "3.png", photos / "10.png"])
    for looked, corner in zip(found.looked, [(40, 30), (60, 20)], strict=True):
        (answer,) = looked.answers
        assert answer.box is not None
        np.testing.assert_allclose(answer.box, square(corner), atol=6)
        assert answer.score is not None
        assert 0 < answer.score <= 1
