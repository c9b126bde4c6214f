"""Pages of the site that do not lie in docs/, and links that lead out of it."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parent
PAGES = {
    "README.md": "index.md",
    "experiments/LOG.md": "log.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
"""Files of the repository, and the pages that they become."""
PACKAGES = ("focus_env", "focus_agents")
"""Packages whose public names have a page each."""
FLAG = re.compile(r"(?<=[\s>])(--[a-z][\w-]*)(?![^<>]*>)")
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that do not lie in docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for package in PACKAGES:
        files.append(File.generated(config, f"reference/{package}.md", content=f"# {package}\n\n::: {package}\n"))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Let links lead to pages of the site; of one that leads to a file of the repository the words stay."""
    sources = {name: source for source, name in PAGES.items()}
    source = sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def relinked(found: re.Match[str]) -> str:
        mark, label, target = found.groups()
        place, hash_, anchor = target.partition("#")
        if "://" in target or not place:
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), place))
        is_shown = path.startswith("docs/") and not path.endswith((".html", ".json"))
        inside = PAGES.get(path) or (path.removeprefix("docs/") if is_shown else None)
        return f"{mark}[{label}]({inside}{hash_}{anchor})" if inside else label

    return LINK.sub(relinked, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Mark flags, which site.css keeps from breaking behind their hyphens."""
    return FLAG.sub(r'<span class="flag">\1</span>', html)
