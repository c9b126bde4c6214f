"""The policies that answer on a server: the one that you name, or the best for the objects at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from focus_agents.cli.command_line import quiet_libraries
from focus_agents.cli.common import PolicyArguments
from focus_agents.finding.calibrating import read_calibration
from focus_agents.finding.choice import Choice, choose_policy, describe_policy, make_policy
from focus_agents.finding.looking import Looker
from focus_agents.finding.wanted import Wanted
from focus_agents.policies.licences import licence_note


class AskedPolicies:
    """The policies that answer about objects: the one that is named, or the best for each; each is made once.

    Args:
        named: The name; None: the best.
        arguments: Of the command.
        calibration: File by which scores of the one that is named become probabilities; None: they stay as they are.
        say: Called with lines for people.

    Raises:
        ValueError: If there is no policy of the name, or the calibration is another's.
        FocusError: If the policy that is named cannot be made.
    """

    def __init__(
        self,
        named: str | None,
        arguments: PolicyArguments,
        *,
        say: Callable[[str], None],
        calibration: Path | None = None,
    ) -> None:
        if calibration is not None and named is None:
            raise ValueError("calibration: expected `policy` with it, since it is of one policy, got none; name it")
        self._named, self._arguments, self._say, self._calibration = named, arguments, say, calibration
        self._made: dict[str, Looker] = {}
        if named is not None:
            self.looker([])

    def choose(self, wanted: Sequence[Wanted]) -> Choice:
        """Return which policy answers about objects, and why."""
        return choose_policy(wanted) if self._named is None else Choice(self._named, "")

    def looker(self, wanted: Sequence[Wanted]) -> Looker:
        """Return what asks that policy for the objects."""
        choice = self.choose(wanted)
        text = choice.text
        if text not in self._made:
            spec = self._arguments.spec(text)
            if spec.entry.is_model:
                quiet_libraries()
            template, path = spec.load_template(), self._calibration
            calibration = None if path is None else read_calibration(path, describe_policy(spec, template))
            self._made[text] = Looker([], *make_policy(spec, template), calibration=calibration)
            self._say(f"policy: {text}" + (f", {choice.reason}" if choice.reason else ""))
            if note := licence_note(text):
                self._say(note)
        return self._made[text].asking_for(wanted)
