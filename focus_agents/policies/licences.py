"""Licences of weights that policies take from the hub, by the names of their cards there; none is legal advice."""

from __future__ import annotations

from collections.abc import Mapping

from focus_agents.policies.registry import parse_policy

LICENCES: Mapping[str, str] = {
    "facebook/dinov2": "Apache-2.0",
    "facebook/dinov3": "DINOv3 License, which has to be accepted on the hub before a download",
    "google/owlv2": "Apache-2.0",
    "Qwen/Qwen2-VL-2B": "Apache-2.0",
    "Qwen/Qwen2-VL-7B": "Apache-2.0",
    "Qwen/Qwen3-VL": "Apache-2.0",
}
"""By the beginning of a hub name."""


def licence_note(policy: str) -> str:
    """Return whose weights a policy loads and under which licence, as far as it is known; "": it is not.

    >>> licence_note("dino_match")
    'dino_match: weights facebook/dinov2-small, licence Apache-2.0'
    """
    entry, argument = parse_policy(policy)
    found = next((licence for start, licence in LICENCES.items() if argument.startswith(start)), "")
    return f"{policy}: weights {argument}, licence {found}" if entry.is_model and found else ""
