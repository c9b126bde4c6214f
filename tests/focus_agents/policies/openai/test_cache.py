"""Answers on disk: what is not asked again, and what is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from focus_agents.policies.openai.cache import AnswerCache
from focus_agents.policies.openai.policy import OpenAIPolicy
from focus_agents.policies.openai.protocol import Answer
from focus_agents.rollout.records import Sampling
from tests.focus_agents.policies.openai.chat_server import ChatServer, Reply, chat_server, fails, question_of, says
from tests.focus_agents.policies.openai.questions import ask, noise, policy_for, question


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


def test_a_place_that_is_no_folder_is_found_before_anything_is_asked(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match=r"cache_dir .`api_cache`.: expected a folder, or a place .*file is a"):
            OpenAIPolicy(model="m", base_url="http://localhost:1/v1", cache_dir=place)
    OpenAIPolicy(model="m", base_url="http://localhost:1/v1", cache_dir=tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()
