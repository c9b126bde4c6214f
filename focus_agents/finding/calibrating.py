"""The calibration of a policy's scores, as an evaluation of the same policy has written it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from focus_env.calibration import Calibration
from focus_env.text_files import read_json


def read_calibration(path: Path, identity: Mapping[str, Any]) -> Calibration:
    """Read a calibration.

    Args:
        path: A file that an evaluation has written, `calibration/<cell>.json` of its folder.
        identity: Of the policy whose scores are to be calibrated, see `choice.describe_policy`.

    Raises:
        DatasetError: If there is no such file, or the file is no JSON.
        ValueError: If the file holds no calibration, or that of another policy.
    """
    found = read_json(path, advice="evaluate the policy on validation data, which writes one")
    try:
        calibration = Calibration.from_json(found)
    except ValueError as error:
        raise ValueError(f"calibration {path}: {error}; pass a file that an evaluation has written") from error
    # Weights by their digest, since a folder may be called by several names; what has none goes by its name.
    key = "weights" if identity.get("weights") else "policy"
    if found.get(key) != identity.get(key):
        own = json.dumps({name: identity.get(name) for name in ("policy", "weights")})
        raise ValueError(
            f"calibration {path}: expected that of {own}, got that of policy {found.get('policy')!r} with the weights "
            f"{found.get('weights')!r}; evaluate the policy on validation data, and pass the file written there"
        )
    return calibration
