"""Which pictures are read, and what is not touched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from focus_agents.integrations.label_studio.host import Host
from focus_env.errors import DatasetError
from tests.focus_agents.finding.scenes import SIDE, scene, write
from tests.focus_agents.integrations.label_studio.client import (
    HEIGHT,
    ORIGIN,
    WIDTH,
    Client,
    boxes,
    drawn,
    task,
)
from tests.focus_agents.integrations.label_studio.fake_host import FakeHost, serving


class TestPictures:
    @pytest.mark.parametrize(
        ("address", "message"),
        [
            ("/data/local-files/?d=../secret.png", "expected the name of a picture below"),
            ("/data/local-files/?d=%2e%2e/secret.png", "expected the name of a picture below"),
            ("/data/local-files?d=sub/../../secret.png", "expected the name of a picture below"),
            ("/data/local-files/?d={tmp}/secret.png", "expected the name of a picture below"),
            ("/data/local-files/?d=link.png", "a link to"),
            ("/data/local-files/?d=", "expected the name of a picture below"),
            ("/data/local-files/?d=no.png", "expected the picture below"),
            ("/data/local-files/?d=text.png", "expected a picture, got something else"),
            ("file://{tmp}/secret.png", "no other host is asked"),
            ("{elsewhere}/a.png", "no other host is asked"),
            ("//{elsewhere_netloc}/a.png", "no other host is asked"),
            ("http://127.0.0.1:9@{elsewhere_netloc}/a.png", "no other host is asked"),
            ("http://user:word@127.0.0.1:9/a.png", "no other host is asked"),
            ("https://127.0.0.1:9/a.png", "no other host is asked"),
            ("http://127.0.0.1:99999/a.png", "no other host is asked"),
            ("{elsewhere}/data/local-files/?d=0.png", "no other host is asked"),
            ("http://[", "expected the address of a picture"),
            ("{host}/to-elsewhere.png", "got status 302"),
            ("/large.png", "expected at most 100000 bytes, got more"),
            ("/a b\r\nX: y.png", "got status 404"),
            ("/none.png", "got status 404"),
            (7, "expected the address of a picture, got 7"),
            (None, "expected the address of a picture, got None"),
        ],
    )
    def test_what_is_not_touched(
        self, address: Any, message: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(tmp_path / "secret.png", (1, 1))
        (photos / "link.png").symlink_to(tmp_path / "secret.png")
        (photos / "text.png").write_text("text")
        monkeypatch.setattr("focus_agents.integrations.label_studio.host.LARGEST_FILE", 100_000)
        label_studio, elsewhere = FakeHost(), FakeHost()
        elsewhere.add("/a.png", scene((1, 1)))
        label_studio.redirects["/to-elsewhere.png"] = f"{elsewhere.url}/a.png"
        label_studio.content["/large.png"] = bytes(100_001)
        with serving(label_studio), serving(elsewhere):
            host = Host(label_studio.url, data_root=photos, token="secret")
            if isinstance(address, str):
                address = (
                    address.replace("{tmp}", str(tmp_path))
                    .replace("{elsewhere}", elsewhere.url)
                    .replace("{elsewhere_netloc}", elsewhere.url.removeprefix("http://"))
                    .replace("{host}", label_studio.url)
                )
            with pytest.raises(DatasetError, match=message):
                host.picture(address)
        assert elsewhere.log == []

    def test_the_folder_and_the_host(self, photos: Path) -> None:
        label_studio = FakeHost()
        label_studio.add("/data/upload/1/a%20b.png", scene((2, 3)))
        label_studio.add("/data/local-files/?d=0.png", scene((4, 5), (33, 22)))
        with serving(label_studio):
            host = Host(f"{label_studio.url}/", data_root=photos)
            for address in ("/data/local-files/?d=0.png", f"{label_studio.url}/data/local-files/?d=sub%2F2.png"):
                assert host.picture(address).shape == (HEIGHT, WIDTH, 3)
            assert label_studio.log == []
            assert host.picture("/data/upload/1/a b.png").shape == (HEIGHT, WIDTH, 3)
            assert Host(label_studio.url).picture("/data/local-files/?d=0.png").shape == (22, 33, 3)

    def test_one_that_cannot_be_read_is_named_and_the_others_are_answered(
        self, photos: Path, serve: Callable[..., Client]
    ) -> None:
        client = serve(Host(ORIGIN, data_root=photos))
        tasks = task(1, "0.png", drawn((8, 8))), task(2, "../x.png"), {"id": 3, "data": None}, task(4, "1.png")
        found = [boxes(one) for one in client.predict(*tasks)["results"]]
        assert found == [{}, {}, {}, {"mug": [50, 30, SIDE, SIDE]}]
        assert client.said[0].startswith("task 2: cannot be read: /data/local-files/?d=../x.png: expected the name of")
        assert client.said[1] == "task 3: cannot be read: expected the address of a picture, got None"

    @pytest.mark.parametrize("url", ["localhost:8080", "ftp://a", "http://", "http://a:b", "http://u:p@a", ""])
    def test_addresses_that_are_none(self, url: str) -> None:
        with pytest.raises(ValueError, match="url: expected the address of Label Studio"):
            Host(url)

    def test_no_such_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="data_root: expected the folder of the pictures"):
            Host(ORIGIN, data_root=tmp_path / "no")
