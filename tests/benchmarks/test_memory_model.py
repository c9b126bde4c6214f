"""The table of memory in docs/scaling.md is the printed one."""

from __future__ import annotations

import pytest

from benchmarks import memory_model
from tests.places import ROOT


def test_the_document_holds_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    memory_model.main()
    printed = capsys.readouterr().out.strip()
    assert len(printed.splitlines()) > 10
    assert printed in (ROOT / "docs/scaling.md").read_text(encoding="utf-8")
