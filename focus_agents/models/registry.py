"""Model families by the `model_type` of a configuration: Qwen's, and those that other packages add.

[project.entry-points."focus_agents.families"]
my_vlm = "my_package.my_vlm:MY_VLM"            an object of a class derived from `ModelFamily`
"""

from __future__ import annotations

from importlib.metadata import entry_points

from focus_agents.errors import CheckpointError
from focus_agents.models.family import ModelFamily
from focus_agents.models.qwen import QWEN2_5_VL, QWEN2_VL, QWEN3_VL

ENTRY_POINT_GROUP = "focus_agents.families"

_families: dict[str, ModelFamily] = {}
"""By model type."""


def register(family: ModelFamily) -> None:
    """Add a family, for this process.

    Raises:
        ValueError: If one of its model types belongs to another family already.
    """
    for model_type in family.model_types:
        if _families.get(model_type, family) != family:
            raise ValueError(
                f"model type {model_type!r}: expected a type without a family, got one that belongs to a "
                f"{type(_families[model_type]).__name__}; leave it out of the new family's `model_types`"
            )
    _families.update(dict.fromkeys(family.model_types, family))


def find_family(model_type: str) -> ModelFamily:
    """Return the family of a `model_type`.

    Raises:
        CheckpointError: If there is none, or one that an installed package names cannot be loaded.
    """
    if model_type not in _families:
        _register_installed()
    if model_type not in _families:
        raise CheckpointError(
            f"model type {model_type!r}: expected one of {', '.join(sorted(_families))}; add its family by the "
            f"entry-point group {ENTRY_POINT_GROUP!r} of a package, or with focus_agents.models.registry.register"
        )
    return _families[model_type]


def _register_installed() -> None:
    """Add the families that installed packages name. Only at a type that nobody knows: most runs never need them."""
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        try:
            family = entry.load()
        except Exception as error:  # whatever a module of someone else may raise
            raise CheckpointError(f"model family {entry.name!r}: {entry.value} could not be loaded: {error}") from error
        if not isinstance(family, ModelFamily):
            raise CheckpointError(
                f"model family {entry.name!r}: expected an object of a class derived from ModelFamily at "
                f"{entry.value}, got {type(family).__name__}"
            )
        register(family)


for _family in (QWEN2_VL, QWEN2_5_VL, QWEN3_VL):
    register(_family)
