"""The page of templates is what the templates are."""

from __future__ import annotations

from focus_env.prompts import TEMPLATES, native, published
from tests.places import ROOT
from tests.templates_page import HOUSE_NOTES, notes_of, page


def test_the_page_is_made_from_the_templates() -> None:
    """`python -m tests.templates_page` writes it anew."""
    assert (ROOT / "docs" / "templates.md").read_text() == page()


def test_each_template_says_where_it_is_from() -> None:
    assert [*HOUSE_NOTES, *notes_of(published), *notes_of(native)] == list(TEMPLATES)
    for name, note in {**notes_of(published), **notes_of(native)}.items():
        assert (
            "arXiv:" in note or "github.com" in note or "huggingface.co" in note or "same" in note or "tags" in note
        ), name
