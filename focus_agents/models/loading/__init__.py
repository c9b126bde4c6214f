"""Models by name: those that come with the package, a local folder, or a model of the hub.

A text (`models.references`) names a place (`places`, `hub`), and there whole weights or an adapter (`sources`).
`checks` and `weight_files` find what is wrong before weights are read. `parts` loads what belongs to weights, `whole`
the weights, `saved_adapters` what lies on them, and `prompts` the words that a model was trained on.
"""

from __future__ import annotations

from focus_agents.models.loading.checks import check_model
from focus_agents.models.loading.forms import check_form
from focus_agents.models.loading.parts import check_fit, load_config, load_family, load_processor
from focus_agents.models.loading.places import (
    NEW_MODELS,
    POLICY_FILE,
    VISION_MODELS,
)
from focus_agents.models.loading.prompts import load_template, other_prompt, trained_frame
from focus_agents.models.loading.sources import load_part, newer_commits, pin
from focus_agents.models.loading.weight_files import weights_digest
from focus_agents.models.loading.whole import (
    as_trained,
    has_frozen_vision,
    load_model,
    load_trainable_model,
    load_vision_model,
)
from focus_agents.models.references import LANGUAGE_MODELS, model_folder
from focus_agents.models.shipped import SHIPPED_MODELS, SMALL, TINY, WEIGHTS

__all__ = [
    "LANGUAGE_MODELS",
    "NEW_MODELS",
    "POLICY_FILE",
    "SHIPPED_MODELS",
    "SMALL",
    "TINY",
    "VISION_MODELS",
    "WEIGHTS",
    "as_trained",
    "check_fit",
    "check_form",
    "check_model",
    "has_frozen_vision",
    "load_config",
    "load_family",
    "load_model",
    "load_part",
    "load_processor",
    "load_template",
    "load_trainable_model",
    "load_vision_model",
    "model_folder",
    "newer_commits",
    "other_prompt",
    "pin",
    "trained_frame",
    "weights_digest",
]
