"""The line with the dashboard's address, and the place of the token that it asks for."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from focus_agents.cli import dashboard
from focus_agents.cli.dashboard import dashboard_line, place_token, token_command
from focus_agents.cli.monitor import token_file


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("mode", "url", "expected"),
    [
        ("token", "127.0.0.1:8265", "dashboard: http://127.0.0.1:8265 asks for a token, which `"),
        ("TOKEN", "10.0.0.7:8265", "dashboard: http://10.0.0.7:8265 asks for a token, which `"),
        ("disabled", "127.0.0.1:8265", "it asks for no token: whoever reaches this address may run code there"),
        ("token", "", None),
        ("token", None, None),
    ],
)
def test_the_line_says_how_to_get_in(
    monkeypatch: pytest.MonkeyPatch, mode: str, url: str | None, expected: str | None
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    monkeypatch.setattr(dashboard, "own_node", lambda: SimpleNamespace(webui_url=url))
    line = dashboard_line()
    assert (line is None) if expected is None else (line is not None and expected in line)
    assert line is None or "\n" not in line
    if mode.lower() == "token" and url:
        assert "get-auth-token" in line
    monkeypatch.setattr(dashboard, "own_node", lambda: None)
    assert dashboard_line() is None


def test_the_token_goes_to_the_run_where_there_is_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/dev/null")
    with pytest.raises(ValueError, match=r"^home: expected one that can be written.*got /dev/null; set HOME"):
        place_token(None)
    place_token(tmp_path)
    token = tmp_path / "ray_token"
    assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(token)
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert len(token.read_text()) >= 32
    assert token_command().startswith(f"RAY_AUTH_TOKEN_PATH={token} ")
    first = token.read_text()
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    place_token(tmp_path)
    assert token.read_text() == first, "a run that is gone on with keeps it"
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")


@pytest.mark.parametrize("given", [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "0" * 64}, {}])
def test_nothing_is_placed_where_nothing_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str]
) -> None:
    monkeypatch.setenv("HOME", "/dev/null" if given else str(tmp_path / "home" / "new"))
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    place_token(None)
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ
    assert not any(tmp_path.iterdir()), "Ray makes its own"


def test_a_user_without_a_home_of_any_kind_keeps_the_token_in_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(number: int) -> None:
        raise KeyError(number)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^home: expected one that can be written"):
        place_token(None)
    place_token(tmp_path)
    assert len((tmp_path / "ray_token").read_text()) >= 32
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    assert token_file(str(tmp_path)) == tmp_path / "ray_token"
    assert token_file(None).is_absolute()


@pytest.mark.parametrize("left", ["", "\n"])
def test_an_empty_file_is_no_token(left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/dev/null")
    (tmp_path / "ray_token").write_text(left)
    place_token(tmp_path)
    assert len((tmp_path / "ray_token").read_text()) >= 32
    assert stat.S_IMODE((tmp_path / "ray_token").stat().st_mode) == 0o600
