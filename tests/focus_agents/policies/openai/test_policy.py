"""A policy behind a chat endpoint: what it sends, in which order, to whom, and what becomes of answers."""

from __future__ import annotations

import json
import logging
import pickle
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from focus_agents.evaluation import evaluate
from focus_agents.policies.openai import protocol as chat_protocol
from focus_agents.policies.openai.policy import DEFAULT_BASE_URL, OpenAIPolicy
from focus_agents.policies.registry import PolicySpec
from focus_agents.rollout.records import Sampling
from focus_env.errors import MissingDependencyError
from focus_env.metrics import summarize
from focus_env.types import ImagePart, Message, ParseStatus, TextPart
from tests.focus_agents.policies.openai.chat_server import (
    ChatServer,
    Reply,
    fails,
    images_of,
    question_of,
    says,
)
from tests.focus_agents.policies.openai.questions import KEY, ask, noise, policy_for, question
from tests.focus_agents.rollout.fakes import GOLD, GOLD_IOU, make_env


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
