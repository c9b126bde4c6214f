"""What is told of this machine's devices."""

from __future__ import annotations

import pytest
import torch

from focus_agents.models.devices import fast_precision


@pytest.mark.parametrize(
    ("units", "expected"),
    [({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({"avx512_bw": True}, "fp32"), ({}, "fp32")],
)
def test_a_cpu_computes_in_bfloat16_where_it_has_units_for_it(
    monkeypatch: pytest.MonkeyPatch, units: dict[str, bool], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units, raising=False)
    assert fast_precision("cpu") == expected
    assert fast_precision("cuda:0") == "bf16"
