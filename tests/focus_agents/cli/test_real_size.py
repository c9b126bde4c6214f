"""A model of the real size of Qwen2-VL-2B, with random weights, takes a step of each stage in 12 GB of RAM.

It needs that memory, 15 GB of disk and some minutes: pytest -m slow tests/focus_agents/cli/test_real_size.py -s
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from transformers import Qwen2VLForConditionalGeneration

from focus_agents.models.loading import load_processor
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.qwen import QWEN2_VL
from focus_agents.runs.checkpoint import save_policy
from tests.focus_agents.models.hub_models import hub_image_processor, qwen2_vl_config
from tests.places import ROOT

pytestmark = pytest.mark.slow

MOST_BYTES = 12e9
PICTURES = ["--max-image-tokens", "36", "--validation-max-image-tokens", "36", "--num-validation-episodes", "1"]
SMALL = [*PICTURES, "--validation-interval", "0", "--max-completion-tokens", "16", "--no-dashboard"]
SFT = [
    "sft",
    "--preset",
    "paper",
    "--dataset",
    "synthetic",
    "--num-steps",
    "1",
    "--batch-size",
    "1",
    "--num-workers",
    "0",
]
GRPO = [
    "grpo", "--preset", "paper", "--dataset", "synthetic", "--num-iterations", "1", "--groups-per-iteration", "2",
    "--rollout-batch-groups", "2",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in bfloat16, as the hub has it: 2.2 billion parameters, 4.4 GB."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2VLForConditionalGeneration._from_config(qwen2_vl_config("2B"), dtype=torch.bfloat16)
    processor = VLMProcessor(load_processor("tiny").tokenizer, hub_image_processor(), QWEN2_VL)
    place = save_policy(tmp_path_factory.mktemp("real") / "model", model, processor)
    del model
    return place


@pytest.mark.parametrize("words", [SFT, GRPO], ids=["sft", "grpo"])
def test_a_step(folder: Path, tmp_path: Path, words: list[str]) -> None:
    started, most = time.perf_counter(), 0
    process = subprocess.Popen(
        [sys.executable, "-m", "focus_agents", *words, *SMALL, "--model", str(folder), "--output-dir", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            # Weights are mapped from their file; the resident size counts a page once for each mapping.
            most = max(most, watched.memory_full_info().pss)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.2)
    output, _ = process.communicate()
    print(f"{words[0]}: {most / 1e9:.1f} GB at most, {time.perf_counter() - started:.0f} s\n{output}")
    assert process.returncode == 0, output
    assert most < MOST_BYTES
