"""What is proposed, from what is labelled so far."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from focus_agents.integrations.label_studio import backend as backend_file
from focus_agents.integrations.label_studio.host import Host
from focus_agents.policies.localizers import center_box
from focus_env.types import Box
from tests.focus_agents.finding.scenes import SIDE, FindsBright, scene
from tests.focus_agents.integrations.label_studio.client import (
    CONFIG,
    HEIGHT,
    ORIGIN,
    WIDTH,
    Client,
    boxes,
    drawn,
    task,
)
from tests.focus_agents.integrations.label_studio.fake_host import PERSONAL, FakeHost, serving


class TestPredictions:
    def test_a_box_is_proposed_where_nobody_has_drawn_one(self, photos: Path, serve: Callable[..., Client]) -> None:
        client = serve(Host(ORIGIN, data_root=photos))
        answer = client.predict(task(1, "0.png", drawn((8, 8))), task(2, "1.png"), task(3, "none.png"))
        (first, second, third) = answer["results"]
        assert first["result"] == third["result"] == []
        assert "score" not in first
        (found,) = second["result"]
        assert boxes(second) == {"mug": [50, 30, SIDE, SIDE]}
        assert second["score"] == found["score"] == 50 / 80
        assert {name: found[name] for name in ("from_name", "to_name", "type")} == {
            "from_name": "box", "to_name": "img", "type": "rectanglelabels",
        }  # fmt: skip
        assert (found["original_width"], found["original_height"]) == (WIDTH, HEIGHT)
        assert found["image_rotation"] == found["value"]["rotation"] == 0
        assert second["model_version"] == answer["model_version"] == client.version()
        assert client.said[-1] == "project 1: 1 boxes in 3 pictures ('mug' by 1)"

    def test_each_label_has_its_own_box_and_a_task_its_least_score(
        self, photos: Path, serve: Callable[..., Client]
    ) -> None:
        class Halves(FindsBright):
            """Less sure of what is shown in the second picture."""

            def scored(self, question: Any, rng: Any) -> tuple[Box | None, float]:
                return super().scored(question, rng)[0], 0.9 if question["support_boxes"][0][0] == 8 else 0.3

        client = serve(Host(ORIGIN, data_root=photos), Halves())
        labelled = [task(1, "0.png", drawn((8, 8))), task(2, "1.png", drawn((50, 30), "cup"))]
        *_, third = client.predict(*labelled, task(3, "sub/2.png"))["results"]
        assert {one["value"]["rectanglelabels"][0]: one["score"] for one in third["result"]} == {"mug": 0.9, "cup": 0.3}
        assert third["score"] == 0.3
        assert len({one["id"] for one in third["result"]}) == 2

    def test_without_boxes_nothing_is_asked(self, photos: Path, serve: Callable[..., Client]) -> None:
        client = serve(Host(ORIGIN, data_root=photos))
        answer = client.predict(task(1, "0.png"), task(2, "1.png"))
        assert [one["result"] for one in answer["results"]] == [[], []]
        assert answer["model_version"] == client.version() == "bright without boxes"
        assert client.localizer.num_calls == 0

    def test_a_least_score(self, photos: Path, serve: Callable[..., Client]) -> None:
        tasks = task(1, "none.png", drawn((1, 1))), task(2, "1.png"), task(3, "sub/2.png")
        client = serve(Host(ORIGIN, data_root=photos), min_score=0.5)
        assert [boxes(one) for one in client.predict(*tasks)["results"]] == [{}, {"mug": [50, 30, SIDE, SIDE]}, {}]
        unsure = serve(Host(ORIGIN, data_root=photos), center_box, min_score=0.5)
        body = json.dumps({"tasks": tasks, "project": "1", "label_config": CONFIG}).encode()
        status, reason, _ = unsure.send("POST", "/predict", body, Content_Type="application/json")
        assert (status, reason.partition(",")[0]) == (500, "min_score: expected a policy that says how sure it is")

    @pytest.mark.parametrize(
        ("value", "support"),
        [
            ({"x": 30, "y": 20, "width": 20, "height": 30, "rotation": 90}, (24 - 18, 12, 24, 12 + 16)),
            (
                {"rectanglelabels": None, "polygonlabels": ["mug"], "points": [[10, 10], [30, 20], [20, 50]]},
                (8, 6, 24, 30),
            ),
        ],
    )
    def test_shapes_are_supports_by_the_box_around_them(
        self, value: Any, support: Any, photos: Path, serve: Callable[..., Client]
    ) -> None:
        class Copies:
            def __call__(self, question: Any, rng: Any) -> Box:
                return Box(*question["support_boxes"][0])

        given = drawn((0, 0), **value)
        given["result"][0]["type"] = "polygonlabels" if "points" in value else "rectanglelabels"
        client = serve(Host(ORIGIN, data_root=photos), Copies())
        found = client.predict(task(1, "0.png", given), task(2, "1.png"))["results"][1]
        x1, y1, x2, y2 = support
        assert boxes(found)["mug"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=0.2)  # rounded by the template
        assert "score" not in found

    def test_what_is_drawn_and_not_saved_is_a_support_of_that_question_alone(
        self, photos: Path, serve: Callable[..., Client]
    ) -> None:
        client = serve(Host(ORIGIN, data_root=photos))
        client.predict(task(1, "0.png", drawn((8, 8), "cup")))
        before = client.version()
        (found,) = client.predict(task(2, "1.png"), context={"result": drawn((50, 30))["result"]})["results"]
        assert boxes(found) == {"cup": [50, 30, SIDE, SIDE]}
        assert found["model_version"] != before == client.version()

    def test_a_picture_of_another_size_than_its_boxes_is_no_support(
        self, photos: Path, serve: Callable[..., Client]
    ) -> None:
        client = serve(Host(ORIGIN, data_root=photos))
        tasks = task(1, "0.png", drawn((8, 8))), task(2, "1.png", drawn((50, 30))), task(3, "sub/2.png")
        scene((8, 8), (60, 80)).save(photos / "0.png")
        assert boxes(client.predict(*tasks)["results"][2]) == {"mug": [20, 40, SIDE, SIDE]}
        assert "a support of 'mug' is left out: /data/local-files/?d=0.png: expected 80 x 60 pixels" in client.said[0]

    def test_most_supports_of_a_label(self, photos: Path, serve: Callable[..., Client]) -> None:
        seen = []

        def count(question: Any, rng: Any) -> None:
            seen.append(len(question["support_images"]))

        client = serve(Host(ORIGIN, data_root=photos), count, shots=2)
        client.predict(*(task(number, "0.png", drawn((8, 8))) for number in range(1, 6)), task(9, "1.png"))
        assert set(seen) == {2}

    def test_regions_of_other_controls_are_no_supports(self, photos: Path, serve: Callable[..., Client]) -> None:
        client = serve(Host(ORIGIN, data_root=photos))
        others = [drawn((8, 8), "plate"), drawn((8, 8))]
        others[1]["result"][0]["to_name"] = "second picture"
        client.predict(task(1, "0.png", others[0]), task(2, "0.png", others[1]))
        assert client.version() == "bright without boxes"


class TestWhatIsLabelled:
    def test_webhooks_add_change_and_remove(self, photos: Path, serve: Callable[..., Client]) -> None:
        client = serve(Host(ORIGIN, data_root=photos))
        first, second = task(1, "0.png"), task(2, "1.png")
        versions = [client.version()]
        for action, annotation, of in (
            ("ANNOTATION_CREATED", drawn((8, 8)), first),
            ("ANNOTATION_UPDATED", drawn((9, 9)), first),
            ("ANNOTATION_CREATED", drawn((50, 30), "cup", number=2), second),
        ):
            client.webhook(action, annotation=annotation, task=of)
            versions.append(client.version())
        assert boxes(client.predict(task(3, "sub/2.png"))["results"][0]).keys() == {"mug", "cup"}
        client.webhook("ANNOTATIONS_DELETED", annotations=[{"id": 2}])
        versions.append(client.version())
        assert boxes(client.predict(task(3, "sub/2.png"))["results"][0]).keys() == {"mug"}
        client.webhook("TASKS_DELETED", tasks=[{"id": 1}])
        versions.append(client.version())
        assert [versions.index(version) for version in versions] == [0, 1, 2, 3, 2, 0]
        client.webhook("PROJECT_UPDATED")

    def test_many_at_once(self, photos: Path, serve: Callable[..., Client]) -> None:
        client = serve(Host(ORIGIN, data_root=photos))
        ones = [{**drawn((8, 8)), "task": 1}, {**drawn((50, 30), "cup", number=2), "task": 2}]
        client.webhook("ANNOTATIONS_CREATED", annotation=ones, task=[task(1, "0.png"), task(2, "1.png")])
        by_webhook = client.version()
        other = serve(Host(ORIGIN, data_root=photos))
        labelled = [task(1, "0.png", ones[0]), task(2, "1.png", ones[1])]
        assert other.post("/train", annotations=labelled, project="1.2", label_config=CONFIG) == {}
        assert other.version() == by_webhook != "bright without boxes"

    def test_projects_are_apart(self, photos: Path, serve: Callable[..., Client]) -> None:
        client = serve(Host(ORIGIN, data_root=photos))
        client.predict(task(1, "0.png", drawn((8, 8))))
        assert client.predict(task(1, "1.png"), project="2.17")["results"][0]["result"] == []

    @pytest.mark.parametrize(
        ("token", "sent"),
        [("0123abcd", "Token 0123abcd"), (PERSONAL, "Bearer for-minutes")],
        ids=["legacy", "personal"],
    )
    def test_the_export_and_uploads_by_a_token(self, token: str, sent: str, serve: Callable[..., Client]) -> None:
        label_studio = FakeHost(token=sent)
        for number, corner in enumerate([(8, 8), (50, 30)]):
            label_studio.add(f"/data/upload/1/{number}.png", scene(corner))
        tasks = [{"id": n, "data": {"photo": f"/data/upload/1/{n}.png"}, "annotations": []} for n in range(2)]
        label_studio.export(1, [{**tasks[0], "annotations": [drawn((8, 8))]}])
        with serving(label_studio):
            client = serve(Host(label_studio.url, token=token))
            version = client.version()
            answer = client.predict(tasks[1])
        assert boxes(answer["results"][0]) == {"mug": [50, 30, SIDE, SIDE]}
        assert answer["model_version"] == version
        assert {seen for method, _, seen in label_studio.log if method == "GET"} == {sent}
        assert [method for method, *_ in label_studio.log].count("POST") == (token == PERSONAL)

    def test_the_token_of_setup_goes_to_the_host_that_was_named(self, serve: Callable[..., Client]) -> None:
        label_studio, elsewhere = FakeHost(token="Token sent"), FakeHost()
        with serving(label_studio), serving(elsewhere):
            client = serve(Host(label_studio.url))
            client.post("/setup", project="1.1", schema=CONFIG, hostname=elsewhere.url, access_token="sent")
        assert elsewhere.log == []
        assert {seen for *_, seen in label_studio.log} == {"Token sent"}

    def test_an_export_is_read_anew_and_what_hinders_it_is_said_once(
        self, serve: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(backend_file, "FRESH_SECONDS", 0.0)
        label_studio = FakeHost(token="Token right")
        label_studio.export(1, [])
        with serving(label_studio):
            client = serve(Host(label_studio.url, token="wrong"))
            client.version(), client.version()
            assert len(client.said) == 1
            assert "got status 401, Unauthorized; give a token of its API, LABEL_STUDIO_API_KEY" in client.said[0]
            client.backend.host.token = "right"
            assert client.version() == "bright without boxes"
            label_studio.export(1, [{"id": 1, "data": {"photo": "/x.png"}, "annotations": [drawn((8, 8))]}])
            assert client.version() != "bright without boxes"
            label_studio.export(1, [])  # the box was removed, and no webhook has said so
            assert client.version() == "bright without boxes"

    def test_a_label_studio_that_waits_for_its_answer_first(
        self, serve: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(backend_file, "SETUP_SECONDS", 0.1)
        answered = threading.Event()

        class Busy(Host):
            def labelled(self, project: str, token: str) -> Any:
                assert answered.wait(20)
                return []

        client = serve(Busy(ORIGIN, token="any"))
        assert client.version() == "bright without boxes"
        answered.set()

    def test_the_oldest_go_first(
        self, photos: Path, serve: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(backend_file, "MAX_LABELLED", 2)
        monkeypatch.setattr(backend_file, "MAX_PROJECTS", 2)
        client = serve(Host(ORIGIN, data_root=photos))
        client.predict(*(task(number, "0.png", drawn((number, 8))) for number in range(1, 5)))
        (project,) = client.backend._projects.values()
        assert list(project.tasks) == ["3", "4"]
        client.predict(project="2.1"), client.predict(project="3.1")
        assert list(client.backend._projects) == ["2", "3"]
