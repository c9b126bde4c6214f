"""`push_files` against a local hub that gives every odd answer, and a proxy or another site in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http

from focus_agents.errors import CheckpointError
from focus_agents.models.loading import hub_faults
from focus_agents.models.loading.hub import find_on_hub
from focus_agents.runs.push import push_files
from tests.hub_server import TOKEN, Handler, Hub, serving_hub

NAME = "me/mine"
CREATE, PREUPLOAD, COMMIT = "/api/repos/create", "/preupload/", "/commit/"
STRANGE = "gives an answer that is none of the hub's"
ODD_CARD = {"errors": [{"message": "license\nis odd"}], "warnings": []}
HTML = b"<!doctype html><title>Log in</title>" + b"<p>hotel</p>" * 50


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(hub_faults, "WAITS_S", (0.0, 0.0))
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda seconds: None))
    with serving_hub(monkeypatch, tmp_path / "cache") as hub:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def push(folder: Path) -> str:
    (folder / "config.json").write_text("{}")
    return push_files({"config.json": folder / "config.json"}, NAME, card="# Mine\n")


def said(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        push(folder)
    return str(caught.value)


def answers(status: int, body: object = b"", **headers: str) -> Callable[[Handler], None]:
    def answer(handler: Handler) -> None:
        handler.body()
        handler.answer(status, body, **headers)

    return answer


def loop(handler: Handler) -> None:
    handler.body()
    handler.answer(307, b"", Location=handler.path)


def cut(handler: Handler) -> None:
    handler.body()
    handler.answer(200, b'{"url": "http', Content_Length="4000")
    handler.close_connection = True


def hang_up(handler: Handler) -> None:
    handler.body()
    handler.close_connection = True


@pytest.mark.parametrize(
    ("place", "answer", "what", "advice"),
    [
        (COMMIT, answers(409, {"error": "A\nconflict"}), "refuses (409: A conflict)", "somebody else writes"),
        (CREATE, answers(409, HTML, Content_Type="text/html"), STRANGE, "no proxy or login page"),
        (CREATE, answers(200, HTML, Content_Type="text/html"), STRANGE, "no proxy or login page"),
        (CREATE, answers(200, []), STRANGE, "HF_ENDPOINT"),
        (COMMIT, answers(200, []), STRANGE, "HF_ENDPOINT"),
        (COMMIT, answers(200, {}), STRANGE, "HF_ENDPOINT"),
        (CREATE, answers(204), STRANGE, "HF_ENDPOINT"),
        (CREATE, answers(302), STRANGE, "HF_ENDPOINT"),
        (CREATE, loop, "sends from one address to the next without an end", "is the hub's address"),
        (CREATE, cut, "broke off its answer", "try again"),
        (CREATE, hang_up, "broke off its answer", "try again"),
        (CREATE, answers(400, {"error": "bad\nname"}), "refuses (400: bad name)", "correct what it names"),
        (CREATE, answers(401, {"error": "Invalid username or password."}), "refuses (401: Invalid", "hf auth login"),
        (CREATE, answers(403, {"error": "You don't have the rights"}), "refuses (403: You don't", "hf auth login"),
        (COMMIT, answers(403, HTML, Content_Type="text/html"), "refuses (403)", "hf auth login"),
        (COMMIT, answers(404, {"error": "no branch"}), "refuses (404: no branch)", "correct the owner"),
        (COMMIT, answers(413), "refuses (413)", "it takes no file as large"),
        (COMMIT, answers(418), "refuses (418)", "see what its page says"),
        (COMMIT, answers(429, Retry_After="7200"), "is asked too often (429)", "wait 7200 seconds, then try again"),
        (CREATE, answers(500, {"error": "An\n\nerror"}), "has a fault of its own (500: An error)", "try again later"),
        (PREUPLOAD, answers(503), "has a fault of its own (503)", "try again later"),
        (COMMIT, answers(507), "has a fault of its own (507)", "try again later"),
        ("/validate-yaml", answers(400, ODD_CARD), "refuses the card", "header of README.md"),
    ],
)  # fmt: skip
def test_each_odd_answer_is_said_in_a_line(
    place: str, answer: Callable[[Handler], None], what: str, advice: str, hub: Hub, tmp_path: Path
) -> None:
    hub.odd = lambda handler: place in handler.path and handler.command == "POST" and answer(handler) is None
    told = said(tmp_path)
    assert told.startswith(f"push to {NAME}: the hub at {hub.url} {what}"), told
    assert advice in told
    assert "\n" not in told
    assert "cannot be reached" not in told
    assert len(told) < 500


@pytest.mark.parametrize("answer", [answers(429), answers(500), answers(503, Retry_After="0"), cut, hang_up])
@pytest.mark.parametrize("place", [CREATE, COMMIT])
def test_what_passes_by_itself_is_asked_again(
    place: str, answer: Callable[[Handler], None], hub: Hub, tmp_path: Path
) -> None:
    left = [1, 2]
    hub.odd = lambda handler: place in handler.path and bool(left) and left.pop() > 0 and answer(handler) is None
    assert push(tmp_path) == f"{hub.url}/{NAME}"
    assert set(hub.models[NAME].commits[hub.models[NAME].newest]) == {"config.json", "README.md"}
    assert not left


@pytest.mark.parametrize(
    ("answer", "num_tries"),
    [
        (answers(500), 3),
        (answers(429), 3),
        (answers(429, Retry_After="7200"), 1),
        (answers(403), 1),
        (answers(200, []), 1),
    ],
)
def test_nothing_is_asked_for_ever(answer: Callable[[Handler], None], num_tries: int, hub: Hub, tmp_path: Path) -> None:
    hub.odd = lambda handler: handler.path == CREATE and answer(handler) is None
    said(tmp_path)
    assert sum(line == f"POST {CREATE}" for line in hub.log) == num_tries


@pytest.mark.parametrize("endpoint", ["nowhere", "ftp://127.0.0.1", "http://"])
def test_an_endpoint_that_is_no_address(
    endpoint: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    told = said(tmp_path)
    assert "has no address that can be asked" in told or "cannot be reached" in told
    assert "\n" not in told


def test_a_file_that_is_gone_is_no_fault_of_the_hub(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises((OSError, ValueError), match=r"gone\.json"):
        push_files({"gone.json": tmp_path / "gone.json"}, NAME, card="# Mine\n")


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (answers(200, HTML, Content_Type="text/html"), STRANGE),
        (answers(200, []), STRANGE),
        (loop, "sends from one address to the next without an end"),
        (cut, "broke off its answer"),
        (answers(500, {"error": "Internal\nError"}), "has a fault of its own (500: Internal Error)"),
    ],
)
def test_models_are_looked_up_with_the_same_words(answer: Callable[[Handler], None], what: str, hub: Hub) -> None:
    hub.odd = lambda handler: answer(handler) is None
    with pytest.raises(CheckpointError) as caught:
        find_on_hub("owner/odd")
    told = str(caught.value)
    assert f"the hub at {hub.url} {what}" in told
    assert "and owner/odd was not downloaded before; " in told
    assert "\n" not in told
