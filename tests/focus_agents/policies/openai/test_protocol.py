"""What is read of an endpoint's bodies and errors, and which URLs are taken."""

from __future__ import annotations

import re
import socket
import threading
from typing import Any

import pytest

from focus_agents.policies.openai import protocol as chat_protocol
from focus_agents.policies.openai.policy import OpenAIPolicy
from focus_agents.policies.registry import PolicySpec
from tests.focus_agents.policies.openai.chat_server import ChatServer, Reply, fails, says
from tests.focus_agents.policies.openai.questions import KEY, ask, policy_for


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


def test_no_half_of_a_key_is_left_where_an_error_is_cut() -> None:
    for length in range(chat_protocol.MAX_ERROR_CHARACTERS):
        assert "sk-" not in str(chat_protocol.describe(ValueError("x" * length + KEY), KEY))


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
