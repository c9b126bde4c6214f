"""From pictures with boxes to answers and files, as a page asks."""

from __future__ import annotations

import io
import json
import threading
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from focus_agents.app import service, session
from focus_agents.finding.choice import Choice
from focus_env.annotations import FORMATS, read_annotations
from focus_env.errors import MissingDependencyError
from tests.focus_agents.app.client import Client, png, sought
from tests.focus_agents.finding.scenes import SIDE, scene

Serve = Callable[..., Client]


@pytest.fixture
def asked(serve: Serve) -> tuple[Client, dict[str, int]]:
    """Three pictures: one with a drawn box, one with the object elsewhere, one without it."""
    client = serve()
    client.open()
    numbers = {name: client.add(corner, f"{name}.png") for name, corner in PLACES.items()}
    assert client.show((numbers["shown"], (8, 8))) == {
        "policy": "bright", "reason": "made for 1 bright squares", "licence": "", "has_attention": False,
    }  # fmt: skip
    return client, numbers


PLACES = {"shown": (8, 8), "other": (40, 30), "empty": None}


def answers(client: Client, numbers: dict[str, int]) -> dict[str, Any]:
    found = {name: client.ask("/find", picture=number)["answers"] for name, number in numbers.items()}
    return {name: one for name, (one,) in found.items()}


def exported(client: Client, name: str, folder: Path, objects: list[Any], **request: Any) -> dict[str, Any]:
    """By picture, what a file in a format says of each object."""
    content = client.ask("/export", format=name, objects=objects, **request)
    path = folder / name
    if content.startswith(b"PK"):
        zipfile.ZipFile(io.BytesIO(content)).extractall(path)
    else:
        path = folder / f"{name}.{'json' if content.startswith((b'{', b'[')) else 'txt'}"
        path.write_bytes(content)
    read = read_annotations(path, format=name, image_root=folder).pictures
    return {one.name: {o.label: (o.box and tuple(o.box), o.score) for o in one.objects} for one in read}


def test_a_box_that_was_drawn_is_the_answer_and_others_are_looked_for(asked: tuple[Client, dict[str, int]]) -> None:
    client, numbers = asked
    found = answers(client, numbers)
    assert found["shown"] == {"object": 1, "kind": "given", "box": [8, 8, 24, 24], "score": None, "words": "given",
                              "text": ""}  # fmt: skip
    assert (found["other"]["kind"], found["other"]["box"], found["other"]["score"]) == ("found", [40, 30, 56, 46], 0.5)
    assert (found["empty"]["kind"], found["empty"]["words"]) == ("absent", "not there")
    assert client.policies.localizer.num_calls == 2


@pytest.mark.parametrize("name", sorted(entry.name for entry in FORMATS.built_in.values() if entry.write))
def test_every_format_that_is_written_is_offered_and_read_back(
    name: str, asked: tuple[Client, dict[str, int]], tmp_path: Path
) -> None:
    client, numbers = asked
    for place, corner in PLACES.items():
        scene(corner).save(tmp_path / f"{place}.png")
    answers(client, numbers)
    assert name in client.ask("/session")["formats"]
    found = exported(client, name, tmp_path, [sought((numbers["shown"], (8, 8)))])
    assert found["shown.png"]["mug"][0] == pytest.approx((8, 8, 24, 24), abs=0.5)
    assert found["other.png"]["mug"][0] == pytest.approx((40, 30, 56, 46), abs=0.5)
    assert found.get("empty.png", {}) in ({}, {"mug": (None, 0.25)}, {"mug": (None, None)})


def test_a_file_has_the_names_and_boxes_of_now(asked: tuple[Client, dict[str, int]], tmp_path: Path) -> None:
    client, numbers = asked
    answers(client, numbers)
    renamed = [sought((numbers["shown"], (8, 8)), (numbers["empty"], (1, 2)), label="cup")]
    found = exported(client, "coco", tmp_path, renamed)
    assert found == {
        "shown.png": {"cup": ((8, 8, 24, 24), None)},
        "other.png": {"cup": ((40, 30, 56, 46), 0.5)},
        "empty.png": {"cup": ((1, 2, 17, 18), None)},
    }
    assert exported(client, "csv", tmp_path, renamed, min_score=0.6)["other.png"]["cup"] == (None, None)


def test_another_search_forgets_the_answers(asked: tuple[Client, dict[str, int]]) -> None:
    client, numbers = asked
    answers(client, numbers)
    client.show((numbers["other"], (40, 30)))
    assert client.refused("/export", format="coco", objects=[sought()]) == (
        409, "expected answers to write, got none yet; draw a box, and look for it",
    )  # fmt: skip
    assert client.ask("/find", picture=numbers["shown"])["answers"][0]["box"] == [8, 8, 24, 24]


def test_an_answer_to_an_earlier_search_is_not_kept(serve: Serve) -> None:
    """The page was asked for another search while the policy answered."""

    class Slow:
        def __init__(self) -> None:
            self.asked, self.go_on = threading.Event(), threading.Event()

        def __call__(self, question: Any, rng: np.random.Generator) -> Any:
            self.asked.set()
            assert self.go_on.wait(20)
            return (1.0, 2.0, 30.0, 40.0)

    client = serve(slow := Slow())
    client.open()
    first, second = client.add((8, 8), "a.png"), client.add(None, "b.png")
    client.show((first, (8, 8)))
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(client.ask, "/find", picture=second)
        assert slow.asked.wait(20)
        shown = pool.submit(client.ask, "/show", objects=[sought((first, (8, 8)), label="cup", key=2)])
        (session,) = client.app._sessions.values()
        while session.version < 2:
            time.sleep(0.01)
        slow.go_on.set()
        assert answer.result()["answers"][0]["object"] == 1
        assert shown.result()["policy"] == "bright"
    assert session.answers == {}


def test_decoded_pictures_of_a_session_that_ends_meanwhile_are_let_go(asked: tuple[Client, dict[str, int]]) -> None:
    client, _ = asked
    ready = client.app._ready
    client.ask("/end")
    client.app._ready = ready  # as a request that was under way has it
    deadline = time.monotonic() + 20
    while client.app._ready is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert client.app._ready is None


def test_several_objects_each_where_nobody_has_drawn_it(serve: Serve) -> None:
    client = serve()
    client.open()
    first, second = client.add((8, 8), "a.png"), client.add((40, 30), "b.png")
    client.ask("/show", objects=[sought((first, (8, 8)), key=4), sought((second, (1, 1)), label="cup", key=9)])
    found = client.ask("/find", picture=first)["answers"]
    assert [(one["object"], one["kind"]) for one in found] == [(4, "given"), (9, "found")]


@pytest.mark.parametrize(
    ("path", "request_", "status", "message"),
    [
        ("/show", {}, 400, "objects: expected a list of objects, got None"),
        ("/show", {"objects": [7]}, 400, "objects: expected a list of objects, got [7]"),
        ("/show", {"objects": []}, 400, "expected a box around the object in at least one picture, got none; draw one"),
        ("/show", {"objects": [sought()]}, 400, "expected a box around the object in at least one picture"),
        ("/show", {"objects": [sought((1, (8, 8)), label=" ")]}, 400, "expected a name of each object, of 1 to 100"),
        ("/show", {"objects": [sought((1, (8, 8))), sought(key=2)]}, 400, "for each object, got 'mug' twice"),
        ("/show", {"objects": [sought((1, (8, 8))), sought(label="b")]}, 400, "objects: expected a number of its own"),
        ("/show", {"objects": [sought((9, (8, 8)))]}, 404, "expected the number of a picture that is here, got 9"),
        ("/show", {"objects": [sought((1, (70, 8)))]}, 400, "box of 'mug' in a.png must lie inside"),
        (
            "/show",
            {"objects": [{"id": 1, "label": "a", "boxes": [{"picture": 1, "box": "no"}]}]},
            400,
            "box of 'a' in a.png: expected four numbers",
        ),
        (
            "/show",
            {"objects": [sought(key=n, label=str(n)) for n in range(30)]},
            400,
            "objects: expected at most 20, got 30",
        ),
        ("/find", {"picture": 1}, 409, "expected objects to look for, got none yet; draw a box in a picture"),
        ("/find", {"picture": "1"}, 404, "expected the number of a picture that is here, got '1'"),
        ("/attention", {"picture": 1, "object": 1}, 409, "expected objects to look for, got none yet"),
        ("/export", {"objects": []}, 400, "expected a format and a least score, got None and None"),
        ("/export", {"format": "xls", "objects": [sought((1, (8, 8)))]}, 400, "unknown annotation format 'xls'"),
        ("/remove", {"pictures": "all"}, 400, "pictures: expected a list of numbers, got 'all'"),
    ],
)
def test_what_is_none_is_refused_in_a_sentence(
    path: str, request_: Any, status: int, message: str, serve: Serve
) -> None:
    client = serve()
    client.open()
    client.add((8, 8), "a.png")
    found = client.refused(path, **request_)
    assert found[0] == status
    assert message in found[1]


def test_a_policy_that_needs_a_package_says_so(serve: Serve) -> None:
    class Missing:
        def choose(self, wanted: Any) -> Choice:
            raise AssertionError

        def looker(self, wanted: Any) -> Any:
            raise MissingDependencyError("match needs OpenCV")

    client = serve(policies=Missing())
    client.open()
    objects = [sought((client.add((8, 8), "a.png"), (8, 8)))]
    assert client.refused("/show", objects=objects) == (500, "match needs OpenCV")
    assert client.said == ["error: match needs OpenCV"]


def test_an_answer_that_fails_is_one(serve: Serve) -> None:
    def fails(question: Any, rng: np.random.Generator) -> Any:
        raise ZeroDivisionError("by chance")

    client = serve(fails)
    client.open()
    first, second = client.add((8, 8), "a.png"), client.add(None, "b.png")
    client.show((first, (8, 8)))
    (found,) = client.ask("/find", picture=second)["answers"]
    assert (found["kind"], found["text"]) == ("failed", "ZeroDivisionError: by chance")


def test_pictures_that_were_removed_are_gone(asked: tuple[Client, dict[str, int]], tmp_path: Path) -> None:
    client, numbers = asked
    answers(client, numbers)
    client.ask("/remove", pictures=[numbers["other"], 77])
    assert client.refused("/preview", picture=numbers["other"])[0] == 404
    found = exported(client, "csv", tmp_path, [sought((numbers["shown"], (8, 8)))])
    assert sorted(found) == ["empty.png", "shown.png"]


def test_a_page_sees_no_pictures_of_another(serve: Serve) -> None:
    client = serve()
    client.open()
    number, first = client.add((8, 8), "a.png"), client.session
    client.open()
    assert client.session != first
    assert client.refused("/preview", picture=number)[0] == 404


def test_a_session_ends_with_its_page(asked: tuple[Client, dict[str, int]]) -> None:
    client, _ = asked
    assert client.app._ready is not None  # the decoded supports
    client.ask("/end")
    assert client.app._ready is None
    assert client.refused("/find", picture=1) == (
        410, "this session has ended, and its pictures are gone; reload the page to start again",
    )  # fmt: skip


def test_a_session_that_is_silent_ends_by_itself(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve()
    client.open()
    monkeypatch.setattr(service, "SILENT_SECONDS", 0.2)
    deadline = time.monotonic() + 20
    while client.app._sessions and time.monotonic() < deadline:  # nobody asks
        time.sleep(0.05)
    assert client.app._sessions == {}


def test_there_are_no_more_pages_than_memory_is_for(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MOST_SESSIONS", 2)
    client = serve()
    for _ in range(2):
        client.open()
    assert client.refused("/session")[0] == 429
    client.ask("/end")
    client.open()


def test_a_session_has_so_many_pictures_and_bytes(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve()
    client.open()
    client.add((8, 8), "a.png")
    monkeypatch.setattr(session, "MOST_PICTURES", 1)
    status, found = client.upload(png(scene(None)), "b.png")
    assert (status, found["error"]) == (
        413, "b.png: expected at most 1 pictures, got 2; remove some, or take focus find",
    )  # fmt: skip
    monkeypatch.setattr(session, "MOST_BYTES", 300)
    status, found = client.upload(png(scene((8, 8))), "b.png")
    assert status == 413
    assert "remove some, or reload the page" in found["error"]


def test_pictures_with_boxes_are_bounded_together(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve()
    client.open()
    objects = [sought((client.add((8, 8), "a.png"), (8, 8)))]
    monkeypatch.setattr(service, "SHOWN_PIXELS", 4000)
    status, message = client.refused("/show", objects=objects)
    assert (status, message[:60]) == (413, "expected pictures with boxes of at most 0 million pixels tog")


class TestKeeping:
    def test_nothing_is_kept_unless_asked(
        self, asked: tuple[Client, dict[str, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client, numbers = asked
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        answers(client, numbers)
        client.ask("/export", format="yolo", objects=[sought((numbers["shown"], (8, 8)))])
        assert list(tmp_path.iterdir()) == []

    def test_what_is_kept_is_read_back(self, serve: Serve, tmp_path: Path) -> None:
        client = serve(keep=tmp_path / "kept")
        folder = Path(client.open()["kept"])
        assert folder.parent == tmp_path / "kept"
        first, second = client.add((8, 8), "../../a.png"), client.add((40, 30), "b\n.png")
        client.show((first, (8, 8)))
        for number in (first, second):
            client.ask("/find", picture=number)
        client.ask("/end")
        assert sorted(path.name for path in folder.iterdir()) == ["found.json", "picture_0001.png", "picture_0002.png"]
        assert (folder / "picture_0001.png").read_bytes() == png(scene((8, 8)))
        read = read_annotations(folder / "found.json", needs_pictures=True)
        assert [(one.name, one.objects[0].box) for one in read.pictures] == [
            ("picture_0001.png", (8, 8, 8 + SIDE, 8 + SIDE)),
            ("picture_0002.png", (40, 30, 40 + SIDE, 30 + SIDE)),
        ]

    def test_a_folder_that_cannot_be_written_is_named(self, serve: Serve, tmp_path: Path) -> None:
        (tmp_path / "kept").write_text("a file")
        client = serve(keep=tmp_path / "kept")
        client.open()
        status, found = client.upload(png(scene(None)), "a.png")
        assert status == 500
        assert "cannot keep a.png" in found["error"]
        assert json.loads(client.send("/find", b'{"picture": 1}')[1])["error"].startswith(
            "picture: expected the number"
        )


def test_scenes_that_are_drawn_show_one_object(serve: Serve) -> None:
    client = serve()
    client.open()
    found = client.ask("/scenes")["pictures"]
    assert [one["name"] for one in found] == [f"scene_{number}.png" for number in range(1, 9)]
    assert {(one["width"], one["height"]) for one in found} == {(256, 256)}
