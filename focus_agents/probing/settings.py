"""Settings of the linear probe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from focus_agents.settings import Ceiling, Seed, Settings
from focus_env.datasets.synthetic.dataset import MAX_IMAGE_SIZE, MIN_IMAGE_SIZE


@dataclass(frozen=True, kw_only=True)
class ProbeSettings(Settings):
    """The episodes that a linear probe is fitted and tested on."""

    num_probe_episodes: Annotated[int, Ge(15), Ceiling(1e6)] = 1500
    """Synthetic episodes of the linear probe: eleven fifteenths to fit it, the others to test it."""
    probe_seed: Seed = 5
    """Of these episodes."""
    probe_image_size: Annotated[int, Ge(MIN_IMAGE_SIZE), Ceiling(MAX_IMAGE_SIZE)] = 64
    """Side of their pictures in pixels: 64 for the small models; others see little in fewer than 224."""
