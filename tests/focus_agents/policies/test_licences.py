"""Licences of weights by hub names."""

from __future__ import annotations

import pytest

from focus_agents.policies.licences import licence_note


@pytest.mark.parametrize(
    ("policy", "licence"),
    [
        ("dino_match", "facebook/dinov2-small, licence Apache-2.0"),
        ("dino_match:facebook/dinov3-vits16-pretrain-lvd1689m", "licence DINOv3 License, which has to be accepted"),
        ("owlv2", "licence Apache-2.0"),
        ("vlm:Qwen/Qwen2-VL-7B-Instruct", "licence Apache-2.0"),
        ("vlm:Qwen/Qwen2-VL-72B-Instruct", ""),
        ("vlm:runs/dinov2", ""),
        ("random", ""),
        ("openai_api:Qwen/Qwen3-VL-8B-Instruct@http://localhost:1/v1", ""),
    ],
)
def test_what_is_said_of_a_policy(policy: str, licence: str) -> None:
    note = licence_note(policy)
    assert licence in note
    assert bool(note) == bool(licence)
