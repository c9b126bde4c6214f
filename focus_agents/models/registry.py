"""Model families by the `model_type` of a configuration: the built-in ones, and those that other packages add.

[project.entry-points."focus_agents.families"]
my_vlm = "my_package.my_vlm:MY_VLM"            a `ModelFamily` with the name "my_vlm"
"""

from __future__ import annotations

from collections.abc import Iterable

from focus_agents.errors import CheckpointError
from focus_agents.models.family import ModelFamily
from focus_agents.models.gemma import GEMMA3, PALIGEMMA
from focus_agents.models.glm import GLM4V
from focus_agents.models.internvl import INTERNVL
from focus_agents.models.llava_onevision import LLAVA_ONEVISION
from focus_agents.models.qwen import QWEN2_5_VL, QWEN2_VL, QWEN3_5, QWEN3_VL
from focus_agents.models.smolvlm import SMOLVLM
from focus_env.registry import Registry

ENTRY_POINT_GROUP = "focus_agents.families"
FAMILIES: Registry[ModelFamily] = Registry(
    "model family",
    ENTRY_POINT_GROUP,
    ModelFamily,  # type: ignore[type-abstract]  # to check records by, never to make one
    [QWEN2_VL, QWEN2_5_VL, QWEN3_VL, QWEN3_5, INTERNVL, LLAVA_ONEVISION, GLM4V, SMOLVLM, GEMMA3, PALIGEMMA],
)

_registered: dict[str, ModelFamily] = {}
"""By model type, those that `register` was given, and those of packages that were asked for."""


def register(family: ModelFamily) -> None:
    """Add a family for this process alone; one that Ray's workers shall know needs an entry point.

    Raises:
        ValueError: If one of its model types belongs to another family already.
    """
    known = _by_type(FAMILIES.built_in.values()) | _registered
    for model_type in family.model_types:
        if known.get(model_type, family) != family:
            raise ValueError(
                f"model family {family.name!r}: expected model types without a family, got {model_type!r}, which "
                f"belongs to {known[model_type].name!r}; leave it out of `model_types`"
            )
    _registered.update(_by_type([family]))


def find_family(model_type: str) -> ModelFamily:
    """Return the family of a `model_type`. Only for a type that this process does not know packages are imported.

    Raises:
        CheckpointError: If there is none.
    """
    known = _by_type(FAMILIES.built_in.values()) | _registered
    if model_type in known:
        return known[model_type]
    entries, faults = FAMILIES.load_all()
    known = _by_type(entries.values()) | known
    if model_type not in known:
        raise CheckpointError(
            f"model type {model_type!r}: expected {'; '.join([', '.join(known), *faults])}; add a family by the "
            f"entry-point group {ENTRY_POINT_GROUP!r} of a package, or with focus_agents.models.registry.register"
        )
    # Sampling looks the family up at every step, and must not ask all packages each time.
    _registered[model_type] = known[model_type]
    return known[model_type]


def _by_type(families: Iterable[ModelFamily]) -> dict[str, ModelFamily]:
    return {model_type: family for family in families for model_type in family.model_types}
