"""Templates that name the object: IPLoc's, the baseline, in its consecutive user turns."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import Literal

from focus_env.prompts.template import PromptTemplate
from focus_env.spaces import Observation
from focus_env.types import Episode, ImagePart, Message, TextPart

Names = Literal["category", "pseudo", "both"]

PSEUDO_NAMES = ("Alba", "Bruno", "Cora", "Dario", "Elio", "Fara", "Gino", "Hilda", "Ivo", "Juna", "Kalo", "Lina")
"""Names that say nothing about an object."""


@dataclass(frozen=True, kw_only=True)
class IPLocTemplate(PromptTemplate):
    """The prompt of IPLoc (arXiv:2411.13317), the baseline that names the object; sec. 2 there.

    Each support is two user turns, picture with name and then box; the query is one more. Without `for_episode` the
    name is `object_name`, so that a policy can be asked by it where no category is known.

    Attributes:
        object_name: What the object is called.
        names: What `for_episode` calls it: its category, a pseudo-name that means nothing, or the one in half of the
            episodes and the other in the rest, as IPLoc trains. Episodes without a category get a pseudo-name.
        asks_by_category: Whether a policy that is evaluated is told the category, as in IPLoc's own evaluation; else
            it is asked by `object_name`.
    """

    names: Names = "both"
    object_name: str = "object"
    asks_by_category: bool = False

    def for_question(self, episode: Episode) -> IPLocTemplate:
        """Return this template with the episode's category, if policies are asked by that; see `asks_by_category`."""
        return replace(self, names="category").for_episode(episode) if self.asks_by_category else self

    def for_episode(self, episode: Episode) -> IPLocTemplate:
        """Return this template with the name for an episode, the same for an episode in every process."""
        draw = zlib.crc32(episode.episode_id.encode())
        is_pseudo = self.names == "pseudo" or (self.names == "both" and draw % 2 == 1)
        name = None if is_pseudo else episode.category
        return replace(self, object_name=name or PSEUDO_NAMES[draw // 2 % len(PSEUDO_NAMES)])

    def render(self, observation: Observation) -> list[Message]:
        """Ask for the box in consecutive user turns; see `PromptTemplate.render`."""
        parts = super().render(observation)[0].content
        name = TextPart(f"<ref>{self.object_name}</ref>")
        return [Message("user", (part, name) if isinstance(part, ImagePart) else (part,)) for part in parts]
