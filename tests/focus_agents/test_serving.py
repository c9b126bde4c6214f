"""Names by which a server may be called, and lengths that may be sent."""

from __future__ import annotations

from email.message import Message

import pytest

from focus_agents.serving import RefusedError, body_length, check_called


def headers(**values: str) -> Message:
    found = Message()
    for name, value in values.items():
        found[name.replace("_", "-")] = value
    return found


@pytest.mark.parametrize("called", ["localhost:90", "127.0.0.1", "127.0.0.1:8000", "[::1]:90"])
def test_this_machine_may_be_called(called: str) -> None:
    check_called("127.0.0.1", headers(Host=called))


@pytest.mark.parametrize("called", ["evil.example", "127.0.0.1.evil.example", "192.168.0.2:90", "[::1", "", "0.0.0.0"])
def test_another_name_is_refused(called: str) -> None:
    with pytest.raises(RefusedError, match=r"Host: expected 127\.0\.0\.1, got") as refusal:
        check_called("127.0.0.1", headers(Host=called))
    assert refusal.value.status == 403
    check_called("0.0.0.0", headers(Host=called))


def test_lengths() -> None:
    assert body_length(headers(Content_Length="12"), 12) == 12
    for length, status in (("13", 413), ("-1", 411), ("", 411), ("1_0", 411), ("²", 411)):
        with pytest.raises(RefusedError) as refusal:
            body_length(headers(Content_Length=length), 12)
        assert refusal.value.status == status
