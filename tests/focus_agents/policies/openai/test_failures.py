"""Endpoints that fail, hang or are not there, and budgets of tokens: what is tried again, counted or raised."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import pytest

from focus_agents.errors import EndpointError
from focus_agents.policies.openai.policy import OpenAIPolicy
from tests.focus_agents.policies.openai.chat_server import ChatServer, Reply, fails, question_of, says
from tests.focus_agents.policies.openai.questions import ask, policy_for


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


def test_an_endpoint_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    policy = OpenAIPolicy(model="m", base_url=url, max_retries=0)
    completions = ask(policy, "a", "b", "c")
    assert all(c.text == "" and c.error and "refused" in c.error for c in completions)
    assert policy.stats.failures == {"connection": 3}


def test_an_endpoint_that_answers_nothing_is_given_up(server: ChatServer) -> None:
    """Each question is retried; after eight that failed alike no further one is sent, but for those under way."""
    server.script = lambda request, number: fails(503, "overloaded")
    policy = policy_for(server, max_retries=1, num_concurrent=2)
    with pytest.raises(EndpointError, match=r"has answered none of (8|9) questions to model 'a-model', .* http_503: "):
        ask(policy, *"abcdefghijklmnopqrst")
    assert len(server.requests) <= 2 * 9
    with pytest.raises(EndpointError, match="has answered none of"):
        ask(policy, "z")
    assert len(server.requests) <= 2 * 9


def test_one_that_has_answered_is_not(server: ChatServer) -> None:
    server.script = lambda request, number: says("fine") if number == 0 else fails(503)
    completions = ask(policy_for(server), *"abcdefghijklmnopqrst")
    assert [completion.text for completion in completions] == ["fine", *[""] * 19]


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
