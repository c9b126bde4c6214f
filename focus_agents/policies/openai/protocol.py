"""The protocol of OpenAI-compatible chat endpoints, as pure functions: what is sent, and what comes back or does not.

Nothing in a response is trusted: its text is passed on as it is, and made short and printable where an error quotes it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from focus_env.types import ImageArray, Message, TextPart

NO_KEY = "none"
"""Sent where there is no key, since the client insists on one; local servers look at none."""
MAX_BODY_BYTES = 4 * 2**20
"""Bytes that are read of one response; an answer with a box is a few hundred bytes."""
MAX_ERROR_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Answer:
    """An endpoint's answer.

    Attributes:
        text: The answer.
        is_finished: Whether it ended by itself rather than at a limit.
    """

    text: str
    is_finished: bool


class EndpointFailure(Exception):
    """The reason why there is no answer to one request.

    Attributes:
        kind: `timeout`, `connection`, `http_<status>`, `malformed`, `no_content` or `budget`.
        is_hopeless: Whether each further request would fail alike.
    """

    def __init__(self, kind: str, message: str, *, is_hopeless: bool = False) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.is_hopeless = is_hopeless


def chat_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return a prompt as the endpoint wants it: text parts, and pictures as data URLs."""
    return [
        {
            "role": message.role,
            "content": [
                {"type": "text", "text": part.text}
                if isinstance(part, TextPart)
                else {"type": "image_url", "image_url": {"url": image_to_data_url(part.image)}}
                for part in message.content
            ],
        }
        for message in messages
    ]


def image_to_data_url(image: ImageArray) -> str:
    """Return a picture [H, W, 3] uint8 as PNG in base64: lossless, so that the model is shown the very pixels."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def completion_seed(seed: int, number: int) -> int:
    """Return the seed of a prompt's completion `number`, in 31 bits, which is what the narrowest servers take."""
    digest = hashlib.sha256(f"{seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def token_limit_name(base_url: str) -> str:
    """Return an endpoint's name for the most tokens of an answer.

    OpenAI's and Azure's newer models refuse `max_tokens`. Elsewhere it is the name that all know: vLLM and SGLang take
    both, while Ollama and older llama.cpp ignore `max_completion_tokens`, and with it the limit, without a word.
    """
    host = urlsplit(base_url).hostname or ""
    return "max_completion_tokens" if host.endswith(("openai.com", "openai.azure.com")) else "max_tokens"


def request_key(base_url: str, request: dict[str, Any]) -> str:
    """Return SHA-256 of all that decides an answer: who is asked, and what, pictures included."""
    return hashlib.sha256(json.dumps([base_url, request], sort_keys=True).encode("ascii")).hexdigest()


def read_body(chunks: Iterable[bytes], timeout_s: float) -> bytes:
    """Return the body of a response.

    Raises:
        EndpointFailure: If it is not complete after `timeout_s`, or longer than `MAX_BODY_BYTES`.
    """
    deadline = time.monotonic() + timeout_s
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise EndpointFailure("malformed", f"a response of more than {MAX_BODY_BYTES} bytes")
        if time.monotonic() > deadline:
            raise EndpointFailure("timeout", f"a response that is not complete after {timeout_s:g} s")
    return bytes(body)


def decode_body(encoded: bytes) -> dict[str, Any]:
    """Return the JSON object of a response.

    Raises:
        EndpointFailure: If it is none.
    """
    try:
        body = json.loads(encoded)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise EndpointFailure("malformed", f"expected a JSON object, got {tidy(repr(encoded[:100]))}")
    return body


def read_usage(body: dict[str, Any]) -> tuple[int, int]:
    """Return (prompt tokens, completion tokens) as a response reports them; 0 for what it does not."""
    usage = body.get("usage")
    counts = [usage.get(name) if isinstance(usage, dict) else 0 for name in ("prompt_tokens", "completion_tokens")]
    prompt_tokens, completion_tokens = (max(count, 0) if isinstance(count, int) else 0 for count in counts)
    return prompt_tokens, completion_tokens


def read_answer(body: dict[str, Any]) -> Answer:
    """Return the text of the first choice.

    Raises:
        EndpointFailure: If there is no choice, or no text in it.
    """
    try:
        choice = body["choices"][0]
        content, reason = choice["message"]["content"], choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise EndpointFailure("malformed", f"expected choices[0].message.content, got {tidy(repr(body))}") from None
    if content is None:
        raise EndpointFailure("no_content", f"the answer is null, it ended by {tidy(repr(reason))}")
    if not isinstance(content, str):
        raise EndpointFailure("malformed", f"expected text as content, got {tidy(repr(content))}")
    return Answer(content, is_finished=reason == "stop")


def describe(error: Exception, api_key: str) -> EndpointFailure:
    """Explain the failure of a request, without the key, should the endpoint have repeated it."""
    text = f"{type(error).__name__}: {error}" + (f" ({error.__cause__})" if error.__cause__ else "")
    if api_key != NO_KEY:
        text = text.replace(api_key, "[key]")
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        is_unsupported = str(getattr(error, "code", None)).startswith("unsupported_")
        return EndpointFailure(f"http_{status}", tidy(text), is_hopeless=status in (401, 403, 404) or is_unsupported)
    # The time-outs of the client, its transport and Python share nothing but their names.
    return EndpointFailure("timeout" if "Timeout" in type(error).__name__ else "connection", tidy(text))


def tidy(text: str) -> str:
    """Return one line of printable characters, cut to `MAX_ERROR_CHARACTERS`."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return line if len(line) <= MAX_ERROR_CHARACTERS else line[: MAX_ERROR_CHARACTERS - 3] + "..."


def check_base_url(url: str) -> str:
    """Return the URL without a slash at its end.

    Raises:
        ValueError: If it is no http or https URL, or holds a user name, which would get into logs.
    """
    try:
        urlsplit(url).port  # noqa: B018 - raises for one that is no number up to 65535
        is_url = re.fullmatch(r"https?://[^\s/@?#]+(/[^\s@?#]*)?", url) is not None
    except ValueError:
        is_url = False
    if not is_url:
        raise ValueError(
            "base_url: expected an http or https URL without user name and query, such as http://localhost:8000/v1, "
            f"got {hide_credentials(url)!r}"
        )
    return url.rstrip("/")


def hide_credentials(text: str) -> str:
    """Return the text without what a URL in it has between `//` and `@`."""
    return re.sub(r"//.*@", "//[hidden]@", text)
