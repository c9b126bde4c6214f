"""The policies that answer on a server: the one that is named, or the best for the objects at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from focus_agents.cli.command_line import quiet_libraries
from focus_agents.cli.common import PolicyArguments
from focus_agents.finding.choice import Choice, choose_policy, make_policy
from focus_agents.finding.wanted import Wanted
from focus_agents.policies.licences import licence_note
from focus_agents.rollout.records import Policy
from focus_env.prompts import PromptTemplate


class AskedPolicies:
    """The policies that answer about objects: the one that is named, or the best for each; each is made once.

    Args:
        named: The name; None: the best.
        arguments: Of the command.
        say: Called with lines for people.

    Raises:
        ValueError: If there is no policy of the name.
        FocusError: If the policy that is named cannot be made.
    """

    def __init__(self, named: str | None, arguments: PolicyArguments, *, say: Callable[[str], None]) -> None:
        self._named, self._arguments, self._say = named, arguments, say
        self._made: dict[str, tuple[Policy, PromptTemplate]] = {}
        if named is not None:
            self.make([])

    def choose(self, wanted: Sequence[Wanted]) -> Choice:
        """Return which policy answers about objects, and why."""
        return choose_policy(wanted) if self._named is None else Choice(self._named, "")

    def make(self, wanted: Sequence[Wanted]) -> tuple[Policy, PromptTemplate]:
        """Return the policy, and the prompt that it is asked with."""
        choice = self.choose(wanted)
        text = choice.text
        if text not in self._made:
            spec = self._arguments.spec(text)
            if spec.entry.is_model:
                quiet_libraries()
            self._made[text] = make_policy(spec, spec.load_template())
            self._say(f"policy: {text}" + (f", {choice.reason}" if choice.reason else ""))
            if note := licence_note(text):
                self._say(note)
        return self._made[text]
