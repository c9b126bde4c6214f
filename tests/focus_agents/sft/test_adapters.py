"""Stage 1 goes on with an adapter, and saves what is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from focus_agents.models.adapters import has_adapters
from focus_agents.models.loading import load_model, load_processor
from focus_agents.runs.checkpoint import save_policy
from focus_agents.sft.train import check_plan
from tests.focus_agents.models.loading.adapters import ADAPTER_WEIGHTS, write_adapter
from tests.focus_agents.sft.runs import IN_PROCESS, make_plan, train


def test_an_adapter_is_trained_on_and_saved_as_one(tmp_path: Path) -> None:
    base = save_policy(tmp_path / "base", load_model("tiny"), load_processor("tiny"))
    adapter = write_adapter(tmp_path / "adapter", load_model(str(base)), str(base))
    before = load_file(adapter / ADAPTER_WEIGHTS)
    plan = make_plan(tmp_path / "run", model=str(adapter), save="both", freeze_vision=True)
    check_plan(plan, IN_PROCESS)
    train(plan)
    final = tmp_path / "run/checkpoints/final"
    after = load_file(final / "adapter" / ADAPTER_WEIGHTS)
    assert after.keys() == before.keys()
    assert all((after[name] != before[name]).any() for name in before)
    assert has_adapters(load_model(f"{final}:adapter"))
    assert not has_adapters(load_model(str(final)))
    whole, merged = load_file(base / "model.safetensors"), load_file(final / "model.safetensors")
    assert {name for name in whole if (whole[name] != merged[name]).any()} == {
        name for name in whole if name.endswith("_proj.weight") and "visual" not in name
    }


def test_what_cannot_be_saved_is_said_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="save: expected merged, got adapter: the weights of tiny are made anew"):
        check_plan(make_plan(tmp_path / "run", save="adapter", lora_rank=2), IN_PROCESS)
