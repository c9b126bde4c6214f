"""The identity of all that is examined: the model, the origin of its files, the machine, the packages' versions."""

from __future__ import annotations

from focus_agents.diagnosis.findings import Section
from focus_agents.models.budget import in_words
from focus_agents.models.devices import Device
from focus_agents.models.loading import load_config
from focus_agents.models.loading.places import NEW_MODELS
from focus_agents.models.loading.sources import find_source
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.shipped import model_name
from focus_agents.runs.provenance import provenance


def describe_model(section: Section, model: str, processor: VLMProcessor, device: str, found: Device) -> None:
    """Write down what is examined, and on which machine.

    Args:
        section: Gets the notes.
        model: As `load_model` takes it.
        processor: The model's.
        device: As torch names it.
        found: The same, with its memory.
    """
    source, config = find_source(model_name(model)), load_config(model)
    adapter = source.adapter
    revision = None if source.place in NEW_MODELS else source.files.revision
    facts = provenance()
    section.facts |= {
        "model": model, "place": source.place, "revision": revision,
        "adapter": None if adapter is None else adapter.text,
        "adapter_revision": None if adapter is None else adapter.files.revision,
        "family": processor.family.name, "model_type": config.model_type, "device": device,
        "native_template": processor.family.native_template, "native_frame": str(processor.family.frame),
        "versions": facts["versions"], "commit": facts["commit"],
    }  # fmt: skip
    said = f"{model}: family {processor.family.name}, type {config.model_type}"
    said += f", revision {revision}" if revision else ""
    said += f"; an adapter on {source.place}" if adapter is not None else ""
    section.ok(
        f"{said}; its family's own unit is {processor.family.frame}, its own words are the template "
        f"{processor.family.native_template}"
    )
    free = "" if found.free is None else f", {in_words(found.free)} free"
    section.ok(f"computes on {device}: {found.name}, {in_words(found.total)}{free}")
    listed = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    section.ok(f"versions: {listed}" + (f"; commit {facts['commit']}" if facts["commit"] else ""))
