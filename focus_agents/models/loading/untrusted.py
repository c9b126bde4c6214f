"""Trying what a stranger's file says, a pattern or a chat template, in a process of its own, under limits.

Neither Python's regular expressions nor Jinja's loops can be stopped from within. So both are tried once where they can
be: what ends there within the limits is used here. This file is that process's program, too, and needs nothing of the
package.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

SECONDS = 5
"""Of computing; patterns and templates that are meant to end take thousandths."""
WAIT_S = 300.0
"""Until a process that computes nothing is given up; many machines are busy when a run starts."""
MEMORY = 2**30
"""Bytes of address space."""
MOST_CHARACTERS = 1_000_000
"""Of a short conversation."""
_PLAIN = re.compile(r"[\w.\- ]*")
"""Patterns without repetitions, which always end."""


def pattern_fault(patterns: Sequence[tuple[str, str]], names: Sequence[str], *, seconds: int = SECONDS) -> str | None:
    """Return what is wrong with regular expressions, as they are or matched against names; None: nothing.

    Args:
        patterns: (What the file says, the expression that becomes of it) each. A plain name among the former is taken
            as harmless.
        names: What they will be matched against.
        seconds: The most that all of it may compute.
    """
    risky = [pattern for pattern in patterns if not _PLAIN.fullmatch(pattern[0])]
    return _tried(json.dumps({"patterns": risky, "names": list(names)}), seconds) if risky else None


def template_fault(template: str, tokens: dict[str, Any], *, seconds: int = SECONDS) -> str | None:
    """Return what is wrong with the time, the memory or the length that a chat template takes; None: nothing.

    Args:
        template: In Jinja.
        tokens: The tokenizer's special tokens, which templates use as variables.
        seconds: The most that it may compute.
    """
    return _tried(json.dumps({"template": template, "tokens": tokens}, default=str), seconds)


@functools.lru_cache(maxsize=256)
def _tried(task: str, seconds: int) -> str | None:
    """Return the process's word on a task, or how it ended."""
    command = [sys.executable, "-P", __file__, str(seconds)]
    try:
        done = subprocess.run(command, input=task.encode(), capture_output=True, timeout=WAIT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"it does not end within {WAIT_S:g} s"
    if done.returncode < 0:  # by a signal: the system's at the limit of time, or a crash
        return f"it does not end within {seconds} s of computing"
    return done.stdout.decode() or None


def _main() -> None:
    _limit(int(sys.argv[1]))
    task = json.loads(sys.stdin.buffer.read())
    try:
        fault = _try_template(task) if "template" in task else _try_patterns(task)
    except MemoryError:
        fault = f"it takes more than {MEMORY / 2**30:g} GiB of memory"
    except Exception:  # whatever else it raises it raises where it is used, and is told there
        fault = None
    sys.stdout.write(fault or "")


def _limit(seconds: int) -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # of systems without such limits
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _try_patterns(task: dict[str, Any]) -> str | None:
    for said, pattern in task["patterns"]:
        try:
            compiled = re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            return f"{said!r:.100} is no regular expression ({error})"
        for name in task["names"]:
            compiled.fullmatch(name)
            compiled.match(name)
    return None


def _try_template(task: dict[str, Any]) -> str | None:
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """Transformers' block, whose content stays as it is."""

        tags = {"generation"}  # noqa: RUF012 - as Jinja has it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda form: form}
    compiled = environment.from_string(task["template"])
    for chat, asks in _chats():
        length = 0
        with contextlib.suppress(TemplateError, TypeError, ValueError, OverflowError, RecursionError):
            values = {"messages": chat, "add_generation_prompt": asks, "enable_thinking": False, "tools": None}
            for piece in compiled.generate(**{**task["tokens"], **values}):
                length += len(piece)
                if length > MOST_CHARACTERS:
                    return f"it makes more than {MOST_CHARACTERS:,} characters of a short conversation"
    return None


def _chats() -> list[tuple[list[dict[str, Any]], bool]]:
    """Return conversations as they will be asked, with whether the answer is to follow."""
    text, picture = {"type": "text", "text": "Where is it? It is at [1, 2, 30, 40]."}, {"type": "image"}
    question = {"role": "user", "content": [text, picture, text, picture, text, picture, text]}
    system, answer = {"role": "system", "content": [text]}, {"role": "assistant", "content": [text]}
    plain = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
    turns = [question, answer, question]
    return [([question], True), ([system, question], True), (turns[:2], False), (turns, False), (plain, False)]


if __name__ == "__main__":
    _main()
