"""The policy behind a chat endpoint, against a real server on this machine: answers, and everything but answers."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from focus_agents.evaluation import evaluate
from focus_agents.policies.openai import protocol as chat_protocol
from focus_agents.policies.openai.cache import AnswerCache
from focus_agents.policies.openai.policy import DEFAULT_BASE_URL, OpenAIPolicy
from focus_agents.policies.openai.protocol import Answer
from focus_agents.policies.registry import PolicySpec
from focus_agents.rollout.records import Completion, Policy, Sampling
from focus_env.errors import MissingDependencyError
from focus_env.metrics import summarize
from focus_env.types import ImagePart, Message, ParseStatus, TextPart
from tests.focus_agents.policies.openai.chat_server import (
    ChatServer,
    Reply,
    chat_server,
    fails,
    images_of,
    question_of,
    says,
)
from tests.focus_agents.rollout.fakes import GOLD, GOLD_IOU, make_env

KEY = "sk-secret-0123456789"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as running:
        yield running


def policy_for(server: ChatServer, **options: Any) -> OpenAIPolicy:
    options = {"timeout_s": 20.0, "max_retries": 0, "num_concurrent": 4} | options
    return OpenAIPolicy(model="a-model", base_url=server.url, **options)


def question(text: str, *images: np.ndarray[Any, np.dtype[np.uint8]]) -> list[Message]:
    return [Message("user", [TextPart(text), *map(ImagePart, images)])]


def ask(
    policy: Policy, *texts: str, num_completions: int = 1, sampling: Sampling | None = None, seed: int = 0
) -> list[Completion]:
    """The completions to all texts, one after the other."""
    generations = policy.generate(
        [question(text) for text in texts],
        num_completions=num_completions,
        sampling=sampling or Sampling(0.5, 9),
        seeds=[seed] * len(texts),
    )
    assert len(generations) == len(texts)
    assert all(len(generation.completions) == num_completions for generation in generations)
    return [completion for generation in generations for completion in generation.completions]


def noise(*shape: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)


# What is sent, and what becomes of an answer.


def test_a_request_holds_the_question_and_the_very_pixels(server: ChatServer) -> None:
    images = [noise(7, 5, 3), noise(1, 300, 3)]
    messages = [Message("user", [TextPart("see "), *map(ImagePart, images), TextPart("where?")])]
    policy_for(server).generate([messages], num_completions=1, sampling=Sampling(0.25, 33), seeds=[5])
    (request,) = server.requests
    kinds = [part["type"] for part in request["messages"][0]["content"]]
    assert kinds == ["text", "image_url", "image_url", "text"]
    assert request["messages"][0]["role"] == "user"
    assert question_of(request) == "see where?"
    for arrived, image in zip(images_of(request), images, strict=True):
        np.testing.assert_array_equal(arrived, image)
    assert (request["model"], request["temperature"], request["max_tokens"]) == ("a-model", 0.25, 33)
    assert set(request) == {"model", "messages", "temperature", "max_tokens", "seed"}


def test_a_picture_is_encoded_once_for_all_completions(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    encode = chat_protocol.image_to_data_url
    monkeypatch.setattr(chat_protocol, "image_to_data_url", lambda image: (encoded.append(0), encode(image))[1])
    policy_for(server).generate([question("q", noise(4, 4, 3))], num_completions=5, sampling=Sampling(), seeds=[0])
    assert len(server.requests) == 5
    assert len(encoded) == 1


@pytest.mark.parametrize(
    ("base_url", "name"),
    [
        ("http://localhost:8000/v1", "max_tokens"),
        ("https://openai.com.example.org/v1", "max_tokens"),
        ("https://api.openai.com/v1", "max_completion_tokens"),
        ("https://mine.openai.azure.com/openai/v1", "max_completion_tokens"),
    ],
)
def test_the_limits_name_is_the_hosts(base_url: str, name: str) -> None:
    assert chat_protocol.token_limit_name(base_url) == name


@pytest.mark.parametrize(("reason", "is_finished"), [("stop", True), ("length", False), ("content_filter", False)])
def test_an_answer_as_a_record(server: ChatServer, reason: str, is_finished: bool) -> None:
    server.script = lambda request, number: says("\x00\ud800 [1, 2", finish_reason=reason)
    policy = policy_for(server)
    (completion,) = ask(policy, "q")
    assert completion.text == "\x00\ud800 [1, 2"
    assert (completion.is_finished, completion.error) == (is_finished, None)
    assert (completion.token_ids.shape, completion.token_ids.dtype) == ((0,), np.dtype(np.int64))
    assert (completion.logprobs.shape, completion.logprobs.dtype) == ((0,), np.dtype(np.float32))
    stats = policy.stats
    assert (stats.num_requests, stats.prompt_tokens, stats.completion_tokens, stats.failures) == (1, 100, 10, {})


def test_each_completion_has_a_seed_of_its_own_which_depends_on_its_prompts_alone(server: ChatServer) -> None:
    def seeds_of(*seeds: int) -> list[list[int]]:
        server.requests.clear()
        prompts = [question(str(number)) for number in range(len(seeds))]
        policy = policy_for(server, num_concurrent=1)
        policy.generate(prompts, num_completions=3, sampling=Sampling(), seeds=list(seeds))
        sent = [request["seed"] for request in server.requests]
        return [sent[start : start + 3] for start in range(0, len(sent), 3)]

    first, second, again = seeds_of(7, -(2**70), 7)
    assert first == again
    assert seeds_of(7) == [first]
    assert len({*first, *second}) == 6
    assert all(0 <= seed < 2**31 for seed in first + second)


def test_nothing_to_ask(server: ChatServer) -> None:
    policy = policy_for(server)
    assert policy.generate([], num_completions=3, sampling=Sampling(), seeds=[]) == []
    with pytest.raises(ValueError, match="seeds: expected one for each of the 1 prompts, got 2"):
        policy.generate([question("q")], num_completions=1, sampling=Sampling(), seeds=[0, 1])
    assert server.requests == []


# Concurrency.


def test_answers_keep_the_order_of_prompts_if_they_come_in_another(server: ChatServer) -> None:
    """Of those under way together, each is answered only after the next one has been."""
    num = 6
    is_answered = [threading.Event() for _ in range(num + 1)]
    is_answered[num].set()

    def script(request: dict[str, Any], number: int) -> Reply:
        position = int(question_of(request))
        if position:  # the first goes alone
            assert is_answered[position + 1].wait(20)
            is_answered[position].set()
        return says(f"answer {position}")

    server.script = script
    completions = ask(policy_for(server, num_concurrent=num), *map(str, range(num)))
    assert [completion.text for completion in completions] == [f"answer {n}" for n in range(num)]


def test_requests_are_under_way_together_up_to_the_limit(server: ChatServer) -> None:
    """A barrier of 3 opens only if 3 are there at once; then they stay a while, in which a fourth would come."""
    policy = policy_for(server, num_concurrent=3)
    ask(policy, "the first goes alone")
    barrier = threading.Barrier(3, timeout=20)
    inside = 0
    is_overfull = threading.Event()

    def script(request: dict[str, Any], number: int) -> Reply:
        nonlocal inside
        with server.lock:
            inside += 1
            if inside > 3:
                is_overfull.set()
        barrier.wait()
        is_overfull.wait(0.2)
        with server.lock:
            inside -= 1
        return says("ok")

    server.script = script
    completions = ask(policy, *map(str, range(9)))
    assert [completion.error for completion in completions] == [None] * 9
    assert not is_overfull.is_set()


# What goes wrong.

NO_CHOICES: dict[str, Any] = {"id": "x", "error": {"message": "upstream is gone"}}
BAD_BODIES: list[tuple[str, Reply, str, str]] = [
    # name, reply, kind, error
    ("not JSON", Reply(b"<html>Bad gateway</html>"), "malformed", "a JSON object, got .*<html>"),
    ("HTML by its type", Reply(b"<html>", headers={"Content-Type": "text/html"}), "malformed", "JSON object"),
    ("nothing", Reply(b""), "malformed", "JSON object"),
    ("not UTF-8", Reply(b'{"choices": "\xff"}'), "malformed", "JSON object"),
    ("too deep", Reply(b"[" * 200_000), "malformed", "JSON object"),
    ("a list", Reply([1]), "malformed", "JSON object"),
    ("too long", Reply(b" " * (chat_protocol.MAX_BODY_BYTES + 1)), "malformed", "more than 4194304 bytes"),
    ("not gzip", Reply(b"{}", headers={"Content-Encoding": "gzip"}), "connection", "DecodingError"),
    ("no choices", Reply(NO_CHOICES), "malformed", r"expected choices\[0\].*upstream is gone"),
    ("empty choices", Reply({"choices": []}), "malformed", r"choices\[0\]"),
    ("choices null", Reply({"choices": None}), "malformed", r"choices\[0\]"),
    ("choice of another kind", Reply({"choices": ["stop"]}), "malformed", r"choices\[0\]"),
    ("no message", Reply({"choices": [{}]}), "malformed", r"choices\[0\]"),
    ("content null", says(None, finish_reason="length"), "no_content", "null, it ended by 'length'"),
    ("content a list", says([{"type": "text", "text": "[1]"}]), "malformed", "expected text as content, got"),
    ("content a number", says(12), "malformed", "expected text as content, got 12"),
    ("bad request", fails(400, "image too large"), "http_400", "image too large"),
    ("a long error", fails(400, "x" * 10_000), "http_400", r"xxx\.\.\.$"),
    ("control characters", fails(422, "\x1b[2Jgone\n"), "http_422", r"^[^\x00-\x1f]*gone[^\x00-\x1f]*$"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("reply", "kind", "error"), [row[1:] for row in BAD_BODIES], ids=[row[0] for row in BAD_BODIES]
)
def test_garbage_is_a_counted_failure(server: ChatServer, reply: Reply, kind: str, error: str) -> None:
    server.script = lambda request, number: reply if number == 0 else says("fine")
    policy = policy_for(server)
    failed, good = ask(policy, "first", "second")
    assert (failed.text, failed.is_finished) == ("", False)
    assert failed.error is not None
    assert failed.error.startswith(f"{kind}: ")
    assert len(failed.error) < 500
    assert re.search(error, failed.error)
    assert (good.text, good.error) == ("fine", None)
    assert policy.stats.failures == {kind: 1}


@pytest.mark.parametrize(
    "usage", [None, [], {}, {"prompt_tokens": None, "completion_tokens": "9"}, {"prompt_tokens": -9}]
)
def test_usage_may_be_anything(server: ChatServer, usage: Any) -> None:
    server.script = lambda request, number: Reply(says("fine").body | {"usage": usage})
    policy = policy_for(server)
    assert ask(policy, "q")[0].text == "fine"
    assert (policy.stats.prompt_tokens, policy.stats.completion_tokens) == (0, 0)


def test_errors_that_pass_are_tried_again(server: ChatServer) -> None:
    """One question meets two errors; at last it is answered, by the same request."""
    errors = [fails(500), None]
    server.script = lambda request, number: errors[number] if number < 2 else says("at last")
    policy = policy_for(server, max_retries=2)
    (completion,) = ask(policy, "q")
    assert (completion.text, completion.error) == ("at last", None)
    assert server.requests[1:] == server.requests[:1] * 2
    assert (policy.stats.num_requests, policy.stats.failures) == (1, {})


def test_retries_have_an_end(server: ChatServer) -> None:
    server.script = lambda request, number: fails(503, "overloaded")
    policy = policy_for(server, max_retries=2)
    (completion,) = ask(policy, "q")
    assert completion.error is not None
    assert completion.error.startswith("http_503: ")
    assert len(server.requests) == 3
    assert (policy.stats.num_requests, policy.stats.failures) == (1, {"http_503": 1})


def test_it_waits_as_long_as_the_endpoint_says(server: ChatServer) -> None:
    """By itself it would wait half a second at most."""
    times: list[float] = []

    def script(request: dict[str, Any], number: int) -> Reply:
        times.append(time.monotonic())
        return Reply({}, 429, {"Retry-After": "1"}) if number == 0 else says("fine")

    server.script = script
    assert ask(policy_for(server, max_retries=1), "q")[0].text == "fine"
    assert times[1] - times[0] > 0.95


def test_waits_between_tries_grow(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    server.script = lambda request, number: Reply({}, 500)
    ask(policy_for(server, max_retries=3), "q")
    assert len(waits) == 3
    # Twice as long each time, less up to a quarter by chance.
    assert waits[0] > 0.3
    assert waits[1] > 1.4 * waits[0]
    assert waits[2] > 1.4 * waits[1]


def test_an_endpoint_that_hangs(server: ChatServer) -> None:
    """Time-outs of the client end the wait, twice; the server would hang until the test ends."""
    started = time.monotonic()

    def script(request: dict[str, Any], number: int) -> Reply | None:
        if question_of(request) == "hang":
            server.is_closing.wait()
            return None
        return says("fine")

    server.script = script
    policy = policy_for(server, timeout_s=1.0, max_retries=1)
    hung, good = ask(policy, "hang", "go on")
    assert hung.error is not None
    assert hung.error.startswith("timeout: ")
    assert good.text == "fine"
    assert policy.stats.failures == {"timeout": 1}
    assert [question_of(request) for request in server.requests] == ["hang", "hang", "go on"]
    assert time.monotonic() - started < 15, "two waits of 1 s and half a second between them, on a busy machine"


@pytest.mark.parametrize("pause_s", [0.02, 60.0])
def test_an_endpoint_that_never_ends_its_answer(pause_s: float) -> None:
    """Blanks that keep coming, as some services send to keep a connection alive; or a body that stops half-way."""
    is_over = threading.Event()

    def dribble(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n")
            try:
                for _ in range(500):  # 10 s of blanks
                    connection.sendall(b" ")
                    if is_over.wait(pause_s):
                        return
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=dribble, args=(listener,))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        try:
            (completion,) = ask(OpenAIPolicy(model="m", base_url=url, timeout_s=0.3, max_retries=0), "q")
        finally:
            is_over.set()
            thread.join()
    assert completion.error is not None
    assert completion.error.startswith("timeout: ")


def test_an_endpoint_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    policy = OpenAIPolicy(model="m", base_url=url, max_retries=0)
    completions = ask(policy, "a", "b", "c")
    assert all(c.text == "" and c.error and "refused" in c.error for c in completions)
    assert policy.stats.failures == {"connection": 3}


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_would_fail_every_request_is_raised_at_once(server: ChatServer, status: int) -> None:
    server.script = lambda request, number: fails(status, "no such key or model")
    with pytest.raises(ValueError, match=f"refuses model 'a-model': http_{status}: .*no such key.*api_key"):
        ask(policy_for(server, max_retries=2), *"abcdef")
    assert len(server.requests) == 1


def test_a_parameter_that_is_not_supported_is_raised_at_once(server: ChatServer) -> None:
    error = {"message": "'temperature' does not support 0", "code": "unsupported_value"}
    server.script = lambda request, number: Reply({"error": error}, 400)
    with pytest.raises(ValueError, match=r"http_400: .*'temperature' does not support 0"):
        ask(policy_for(server), *"abcdef")
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_the_same_is_counted_once_there_has_been_an_answer(server: ChatServer, status: int) -> None:
    server.script = lambda request, number: fails(status) if number % 2 else says("fine")
    policy = policy_for(server, num_concurrent=1)
    assert [completion.text for completion in ask(policy, *"abcd")] == ["fine", "", "fine", ""]
    assert policy.stats.failures == {f"http_{status}": 2}


def test_each_kind_of_failure_is_logged_once(server: ChatServer, caplog: pytest.LogCaptureFixture) -> None:
    server.script = lambda request, number: fails(503 if number % 2 else 500)
    ask(policy_for(server), *"abcdef")
    messages = [record.message for record in caplog.records if record.name.startswith("focus_agents")]
    assert sorted(message.split(": ")[1] for message in messages) == ["http_500", "http_503"]


# Tokens.


def test_nothing_is_sent_once_the_budget_is_spent(server: ChatServer, tmp_path: Path) -> None:
    """110 tokens an answer: the third exceeds 250; what is in the cache stays free."""
    policy = policy_for(server, num_concurrent=1, token_budget=250, cache_dir=tmp_path)
    completions = ask(policy, *"abcde")
    assert [completion.text for completion in completions] == ["a", "b", "c", "", ""]
    assert completions[4].error == "budget: 330 of 250 tokens are spent, nothing was sent"
    assert len(server.requests) == 3
    assert (policy.stats.num_requests, policy.stats.failures) == (3, {"budget": 2})
    assert [completion.text for completion in ask(policy, *"cd")] == ["c", ""]
    assert len(server.requests) == 3


def test_answers_that_cannot_be_used_cost_tokens_too(server: ChatServer) -> None:
    server.script = lambda request, number: says(None)
    policy = policy_for(server, num_concurrent=1, token_budget=220)
    ask(policy, *"abc")
    assert policy.stats.failures == {"no_content": 2, "budget": 1}


def test_a_budget_that_cannot_be_kept_is_said(server: ChatServer, caplog: pytest.LogCaptureFixture) -> None:
    server.script = lambda request, number: says("fine", tokens=None)
    ask(policy_for(server, token_budget=5), *"abc")
    assert caplog.text.count("reports no usage: the token budget cannot hold") == 1


# The cache.


def test_a_second_run_asks_nothing(server: ChatServer, tmp_path: Path) -> None:
    server.script = lambda request, number: says(f"\ud800é {number}", finish_reason="length" if number else "stop")
    folder = tmp_path / "new" / "cache"
    first = ask(policy_for(server, cache_dir=folder), "a", "b", num_completions=2)
    assert len({completion.text for completion in first}) == 4
    policy = policy_for(server, cache_dir=str(folder))
    second = ask(policy, "a", "b", num_completions=2)
    assert [(c.text, c.is_finished, c.error) for c in second] == [(c.text, c.is_finished, c.error) for c in first]
    assert len(server.requests) == 4
    assert (policy.stats.num_requests, policy.stats.num_cached, policy.stats.prompt_tokens) == (0, 4, 0)
    assert sorted(path.suffix for path in folder.iterdir()) == [".json"] * 4


def test_whatever_decides_an_answer_is_in_its_key(server: ChatServer, tmp_path: Path) -> None:
    image = noise(4, 4, 3)
    other = image.copy()
    other[3, 3, 2] ^= 1
    plain: dict[str, Any] = {
        "text": "q",
        "image": image,
        "seed": 0,
        "sampling": Sampling(0.5, 9),
        "model": "m",
        "url": "",
    }
    changes = [
        {}, {"text": "Q"}, {"image": other}, {"image": image.reshape(2, 8, 3)}, {"seed": 1},
        {"sampling": Sampling(0.6, 9)}, {"sampling": Sampling(0.5, 8)}, {"model": "n"},
    ]  # fmt: skip
    for _ in range(2):
        for change in changes:
            case = plain | change
            policy = OpenAIPolicy(model=case["model"], base_url=server.url, cache_dir=tmp_path)
            prompt = question(case["text"], case["image"])
            policy.generate([prompt], num_completions=1, sampling=case["sampling"], seeds=[case["seed"]])
    assert len(server.requests) == len(changes)
    with chat_server() as elsewhere:
        OpenAIPolicy(model="m", base_url=elsewhere.url, cache_dir=tmp_path).generate(
            [question("q", image)], num_completions=1, sampling=Sampling(0.5, 9), seeds=[0]
        )
        assert len(elsewhere.requests) == 1


def test_failures_are_asked_anew(server: ChatServer, tmp_path: Path) -> None:
    server.script = lambda request, number: says("fine") if number % 2 else fails(500)
    assert [c.text for c in ask(policy_for(server, num_concurrent=1, cache_dir=tmp_path), *"abcd")] == ["", "fine"] * 2
    server.script = lambda request, number: says("fine now")
    completions = ask(policy_for(server, cache_dir=tmp_path), *"abcd")
    assert [c.text for c in completions] == ["fine now", "fine"] * 2
    assert sorted(question_of(request) for request in server.requests[4:]) == ["a", "c"]


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b'{"text": "fi',
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"text": 3, "is_finished": true}',
        b'{"text": "x", "is_finished": 1}',
    ],
)
def test_a_damaged_file_is_asked_anew(
    server: ChatServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, damaged: bytes
) -> None:
    ask(policy_for(server, cache_dir=tmp_path), "q")
    (path,) = tmp_path.iterdir()
    path.write_bytes(damaged)
    for _ in range(2):
        assert ask(policy_for(server, cache_dir=tmp_path), "q")[0].text == "q"
    assert len(server.requests) == 2
    assert caplog.text.count(f"{path}: damaged, the answer is asked for anew") == 1


def test_no_file_has_its_name_before_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*paths: Path) -> None:
        raise KeyboardInterrupt

    cache = AnswerCache(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            cache.write("key", Answer("text", True))
    assert cache.read("key") is None
    cache.write("key", Answer("text", True))
    assert cache.read("key") == Answer("text", True)


RUN = """
import sys
from focus_agents.policies.openai.policy import OpenAIPolicy
from focus_agents.rollout.records import Sampling
from focus_env.types import Message, TextPart
policy = OpenAIPolicy(model="a-model", base_url=sys.argv[1], cache_dir=sys.argv[2], num_concurrent=1)
prompts = [[Message("user", [TextPart(text)])] for text in "abcdef"]
policy.generate(prompts, num_completions=1, sampling=Sampling(0.5, 9), seeds=[0] * 6)
"""


def test_a_killed_run_is_resumed(server: ChatServer, tmp_path: Path) -> None:
    is_halfway = threading.Event()

    def script(request: dict[str, Any], number: int) -> Reply:
        if number == 3:
            is_halfway.set()
            server.is_closing.wait()
        return says(question_of(request))

    server.script = script
    run = subprocess.Popen([sys.executable, "-c", RUN, server.url, str(tmp_path)])
    try:
        assert is_halfway.wait(120)
    finally:
        run.kill()
        assert run.wait() == -signal.SIGKILL
    assert [c.text for c in ask(policy_for(server, cache_dir=tmp_path), *"abcdef")] == list("abcdef")
    assert sorted(question_of(request) for request in server.requests[4:]) == list("def")


# Keys, URLs, names.


def test_the_key_is_sent_and_nowhere_else(
    server: ChatServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the endpoint repeats it."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.script = lambda request, number: says("fine") if number == 0 else fails(400, f"no, {KEY}")
    policy = policy_for(server, cache_dir=tmp_path)
    _, failed = ask(policy, "a", "b")
    assert set(server.authorizations) == {f"Bearer {KEY}"}
    assert failed.error is not None
    assert "no, [key]" in failed.error
    cached = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert cached
    for text in (failed.error, cached.decode(), caplog.text, repr(policy)):
        assert "sk-" not in text
    server.script = lambda request, number: fails(401, f"Incorrect API key provided: {KEY}")
    with pytest.raises(ValueError, match=r"Incorrect API key provided: \[key\]"):
        ask(policy_for(server), "c")


def test_no_half_of_a_key_is_left_where_an_error_is_cut() -> None:
    for length in range(chat_protocol.MAX_ERROR_CHARACTERS):
        assert "sk-" not in str(chat_protocol.describe(ValueError("x" * length + KEY), KEY))


def test_a_server_without_keys_gets_a_placeholder(server: ChatServer) -> None:
    ask(policy_for(server), "q")
    assert server.authorizations == ["Bearer none"]


def test_a_pickled_policy_goes_on(server: ChatServer) -> None:
    policy = policy_for(server, api_key=KEY)
    ask(policy, "a")
    copy = pickle.loads(pickle.dumps(policy))
    assert ask(copy, "b")[0].text == "b"
    assert server.authorizations == [f"Bearer {KEY}"] * 2
    assert (policy.stats.num_requests, copy.stats.num_requests) == (1, 2)


@pytest.mark.parametrize(
    "url",
    ["localhost:8000/v1", "ftp://host/v1", "http://", "http:///v1", "http://host:99999/v1", "http://host:x/v1", "http://[::1/v1",
     "http://a b/v1", "http://host/v1?key=1", "file:///etc/passwd"],
)  # fmt: skip
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="base_url: expected an http or https URL"):
        OpenAIPolicy(model="m", base_url=url)


@pytest.mark.parametrize("url", [f"http://me:{KEY}@host/v1", f"https://{KEY}@host/v1", f"ftp://me@{KEY}@host/v1"])
def test_a_url_with_a_password_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match="without user name") as caught:
        OpenAIPolicy(model="m", base_url=url)
    assert "sk-" not in str(caught.value)
    with pytest.raises(ValueError, match="expected") as caught:
        OpenAIPolicy.from_argument(f"m@{url}")
    assert "sk-" not in str(caught.value)
    with pytest.raises(ValueError, match="no such policy") as caught:
        PolicySpec(text=f"vllm:m@{url}").build()
    assert "sk-" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"model": ""}, "model: expected a name"),
        ({"num_concurrent": 0}, "num_concurrent: expected 1 or more requests, got 0"),
        ({"timeout_s": 0}, "timeout_s: expected more than 0 seconds, got 0"),
        ({"timeout_s": float("nan")}, "timeout_s: expected more than 0 seconds, got nan"),
        ({"max_retries": -1}, "max_retries: expected 0 or more, got -1"),
        ({"token_budget": 0}, "token_budget: expected 1 or more tokens, or None for no limit, got 0"),
    ],
)
def test_arguments_out_of_range(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        OpenAIPolicy(**{"model": "m", "base_url": "http://host/v1"} | options)


@pytest.mark.parametrize(
    ("spec", "model", "base_url"),
    [
        ("openai_api:gpt", "gpt", DEFAULT_BASE_URL),
        ("openai_api:Qwen/Qwen3-VL-8B@http://host:8000/v1/", "Qwen/Qwen3-VL-8B", "http://host:8000/v1"),
        ("openai_api:llava:13b@https://[::1]:11434/v1", "llava:13b", "https://[::1]:11434/v1"),
        ("openai_api:@cf/model@https://host/v1", "@cf/model", "https://host/v1"),
    ],
)
def test_a_policys_name(spec: str, model: str, base_url: str) -> None:
    policy = PolicySpec(text=spec, api={"token_budget": 7}).build()
    assert isinstance(policy, OpenAIPolicy)
    assert (policy.model, policy.base_url, policy.token_budget) == (model, base_url, 7)


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("openai_api", r"policy: expected openai_api:MODEL or openai_api:MODEL@http://host:8000/v1, got 'openai_api:'"),
        ("gpt", r"no such policy\. Known are .*, openai_api:MODEL\[@URL\]; your own by its import path"),
        ("vllm:gpt", "no such policy"),
        ("openai_api:", "policy: expected openai_api:MODEL"),
        ("openai_api:m@", "policy: expected openai_api:MODEL"),
        ("openai_api:@http://host/v1", "policy: expected openai_api:MODEL"),
        ("openai_api:m@localhost:8000", "base_url: expected an http or https URL .* got 'localhost:8000'"),
    ],
)
def test_a_malformed_name_is_refused(spec: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        PolicySpec(text=spec).build()


def test_the_url_may_come_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://elsewhere/v1/")
    assert OpenAIPolicy(model="m").base_url == "http://elsewhere/v1"
    assert OpenAIPolicy(model="m", base_url="http://here/v1").base_url == "http://here/v1"


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "focus-localization\[api\]"'):
        OpenAIPolicy(model="m")


# The whole path.


def test_an_evaluation_goes_on_whatever_the_endpoint_does(server: ChatServer, tmp_path: Path) -> None:
    """Episode 0 is answered well, the next ones by everything else; 0 again comes from the cache."""
    replies = [says(GOLD), fails(503), Reply(b"garbage"), says(None), None, says("I see nothing."), says(GOLD)]

    def script(request: dict[str, Any], number: int) -> Reply | None:
        assert len(images_of(request)) == 3
        assert request["temperature"] == 0.0
        return replies[number]

    server.script = script
    policy = policy_for(server, num_concurrent=1, cache_dir=tmp_path)
    indices = [0, 1, 2, 3, 1, 2, 0]
    answers = evaluate(make_env(), policy, indices, max_completion_tokens=50, batch_size=3)
    assert [answer.episode_id for answer in answers] == [f"fake/{index}" for index in indices]
    assert [answer.status for answer in answers] == [ParseStatus.OK, *[ParseStatus.NO_BOX] * 5, ParseStatus.OK]
    assert policy.stats.failures == {"http_503": 1, "malformed": 1, "no_content": 1, "connection": 1}
    assert (policy.stats.num_requests, policy.stats.num_cached) == (6, 1)
    scores = summarize(answers)
    assert scores["parse_rate"] == pytest.approx(2 / 7)
    assert scores["miou_all"] == pytest.approx(2 / 7 * GOLD_IOU)
    files = [json.loads(path.read_text()) for path in tmp_path.iterdir()]
    assert sorted(record["text"] for record in files) == sorted([GOLD, "I see nothing."])
