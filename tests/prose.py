"""Counts of the prose in docstrings and pages, and the rules that `make lint` holds.

`python -m tests.prose` prints the counts, and fails where one is above its ceiling; `--show` lists the sentences behind
them. `--folder` counts another clone. Who brings a count down lowers its ceiling, so that it does not rise again.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("focus_env", "focus_agents", "experiments", "benchmarks")
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/*.md")
GENERATED = ("ablation.md", "layers.md", "metrics.md", "policies.md", "rewards_report.md", "templates.md")
"""Pages that programs write; their texts stand in tables and docstrings."""

NAMELESS = frozenset({"what", "which", "who", "whose"})
"""Words with which a summary points at a thing instead of naming it."""
QUESTIONS = NAMELESS | {"how", "when", "where", "whether", "why"}
PRONOUNS = frozenset({"he", "it", "its", "she", "that", "their", "them", "these", "they", "this", "those"})
NO_VERBS = {
    "a", "all", "an", "and", "any", "as", "at", "both", "but", "by", "each", "either", "every", "few", "for", "from",
    "half", "if", "in", "many", "more", "most", "my", "neither", "no", "none", "of", "on", "one", "our", "per",
    "several", "since", "some", "such", "the", "three", "to", "two", "under", "where", "with", "without", "yes", "your",
}  # fmt: skip
"""Words that cannot open an imperative sentence."""
MOST_WORDS = 40
"""Words that a sentence may have."""

CEILINGS: Mapping[str, float] = {
    "docstrings: question instead of a noun": 0,
    "docstrings: pronoun without a noun": 0,
    "docstrings: not imperative": 0,
    "docstrings: long sentences": 9,
    "docstrings: 'what' in 1,000 words": 6.6,
    "docstrings: pronouns in 1,000 words": 35.0,
    "pages: long sentences": 0,
    "pages: 'what' in 1,000 words": 2.1,
    "pages: pronouns in 1,000 words": 32.2,
}
"""Counts, and the most of each."""


@dataclass(frozen=True, kw_only=True)
class Docstring:
    """A docstring with its place, and the kind of its owner: module, class, function, property or attribute."""

    place: str
    kind: str
    text: str

    @property
    def summary(self) -> str:
        """The first paragraph, on one line."""
        return " ".join(self.text.strip().split("\n\n")[0].split())


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A sentence that breaks a rule, whose name is that of its count."""

    rule: str
    place: str
    text: str


def read_docstrings(source: str, name: str) -> Iterator[Docstring]:
    """Yield the docstrings of a file: of the module, classes, functions and properties, and those below assignments."""
    for node in ast.walk(ast.parse(source)):
        is_documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if is_documented and (text := ast.get_docstring(node)):
            yield Docstring(place=f"{name}:{getattr(node, 'lineno', 1)}", kind=_kind(node), text=text)
        if isinstance(node, ast.Module | ast.ClassDef):
            for owner, below in pairwise(node.body):
                text = _text_of(below) if isinstance(owner, ast.Assign | ast.AnnAssign) else ""
                if text:
                    yield Docstring(place=f"{name}:{below.lineno}", kind="attribute", text=text)


def _kind(node: ast.AST) -> str:
    """Return the kind of a docstring's owner."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return "module" if isinstance(node, ast.Module) else "class"
    names = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
    return "property" if names & {"property", "cached_property"} else "function"


def _text_of(statement: ast.stmt) -> str:
    """Return the text of a statement that is nothing but a text."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""


def opening(summary: str) -> str:
    """Return the first word of a summary, in small letters."""
    return summary.split()[0].rstrip(",.:;").lower() if summary else ""


def is_imperative(summary: str) -> bool:
    """Tell whether a summary can be a command: its first word may be a verb, and is no plural and no third person."""
    word = opening(summary)
    if not re.fullmatch(r"[a-z][a-z-]+", word) or word in QUESTIONS | PRONOUNS | NO_VERBS:
        return False
    return not word.endswith("s") or word.endswith("ss")


def summary_faults(docstring: Docstring) -> Iterator[Fault]:
    """Yield the faults of a docstring's summary. Attributes and properties may say how, where and whether."""
    word = opening(docstring.summary)
    is_value = docstring.kind in ("attribute", "property")
    rules = {
        "question instead of a noun": word in (NAMELESS if is_value else QUESTIONS),
        "pronoun without a noun": word in PRONOUNS,
        "not imperative": docstring.kind == "function" and not is_imperative(docstring.summary),
    }
    for rule, is_broken in rules.items():
        if is_broken:
            yield Fault(rule=f"docstrings: {rule}", place=docstring.place, text=docstring.summary)


def sentences(text: str) -> list[str]:
    """Split running text; code, tables, headings and the targets of links are left out."""
    text = re.sub(r"^ *```.*?^ *```", "\n\n", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    lines = []
    for line in text.splitlines():
        is_left_out = line.lstrip().startswith(("|", "#", ">>>", "<", "!", "$")) or line.startswith("    ")
        opens_item = re.match(r"\s*([-*]|\d+\.) |\s*\w[\w, ]*: ", line)
        lines.append("\n" if is_left_out else ("\n\n" if opens_item else "") + line.strip())
    parts = [" ".join(part.split()) for part in re.split(r"\n\s*\n", "\n".join(lines))]
    return [sentence for part in parts if part for sentence in re.split(r"(?<=[.!?:;])\s+(?=[A-Z`\[])", part)]


def count_words(text: str) -> int:
    """Count the words of a text; marks and numbers alone do not count."""
    return len(re.findall(r"[A-Za-z][\w'.-]*", text))


def per_thousand(words: frozenset[str], texts: list[str]) -> float:
    """Count some words in every 1,000 of running text, code in backticks left out."""
    running = re.sub(r"`[^`]*`", "", " ".join(sentence for text in texts for sentence in sentences(text)))
    found = Counter(re.findall(r"[a-z]+", running.lower()))
    return round(1000 * sum(found[word] for word in words) / max(1, sum(found.values())), 1)


def measure(folder: Path) -> tuple[dict[str, float], list[Fault]]:
    """Return the counts of a clone, and the sentences that are counted one by one."""
    files = [file for package in PACKAGES for file in sorted((folder / package).rglob("*.py"))]
    docstrings = [
        docstring
        for file in files
        for docstring in read_docstrings(file.read_text(encoding="utf-8"), file.relative_to(folder).as_posix())
    ]
    pages = [page for pattern in PAGES for page in sorted(folder.glob(pattern)) if page.name not in GENERATED]
    faults = [fault for docstring in docstrings for fault in summary_faults(docstring)]
    texts = {
        "docstrings": [(docstring.place, docstring.text) for docstring in docstrings],
        "pages": [(page.relative_to(folder).as_posix(), page.read_text(encoding="utf-8")) for page in pages],
    }
    counts: dict[str, float] = {}
    for kind, places in texts.items():
        faults += [
            Fault(rule=f"{kind}: long sentences", place=place, text=sentence)
            for place, text in places
            for sentence in sentences(text)
            if count_words(sentence) > MOST_WORDS
        ]
        bodies = [text for _, text in places]
        counts[f"{kind}: 'what' in 1,000 words"] = per_thousand(frozenset({"what"}), bodies)
        counts[f"{kind}: pronouns in 1,000 words"] = per_thousand(PRONOUNS - {"that", "this"}, bodies)
    counts |= Counter(fault.rule for fault in faults)
    return {name: counts.get(name, 0) for name in CEILINGS}, faults


def main() -> int:
    """Print the counts of a clone; return 1 where one is above its ceiling."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT, help="the clone to count")
    parser.add_argument("--show", default="", help="list the sentences of this count, or in files of this name")
    arguments = parser.parse_args()
    counts, faults = measure(arguments.folder)
    above = {name for name, count in counts.items() if count > CEILINGS[name]}
    for name, count in counts.items():
        print(f"{count:7g}  at most {CEILINGS[name]:<5g} {name}{'  <- TOO MANY' if name in above else ''}")
    for fault in faults:
        is_asked_for = arguments.show and arguments.show in f"{fault.place} {fault.rule}"
        if is_asked_for or fault.rule in above:
            print(f"{fault.place}: {fault.rule}: {fault.text}")
    return 1 if above else 0


if __name__ == "__main__":
    sys.exit(main())
