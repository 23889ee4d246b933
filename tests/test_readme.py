"""The README and the documentation: links lead somewhere, and numbers are right. Snippets run in tests/docs."""

import re
from pathlib import Path

import pytest

from hf_datasel.scores import list_scores
from hf_datasel.selectors import DiverseEvol, list_selectors

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!http)([^)]+)\)|(?:src|srcset)=\"(?!http)([^\"]+)\"", text)
    missing = []
    for link in (markdown or image for markdown, image in links):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            missing.append(link)
    assert not missing


def test_all_methods_are_named():
    table = TEXT.split("\n## Methods", 1)[1].split("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", table))
    assert {cls.__name__ for cls in list_selectors().values()} - named == {"All"}
    assert f"and {len(list_scores())} scores" in table


def test_number_of_diverse_evol_trainings():
    rounds = DiverseEvol().plan(1100, 3, 10_000)
    assert (len(rounds), sum(plan.restart for plan in rounds)) == (11, 10)
    page = (ROOT / "docs" / "guides" / "select-while-training.md").read_text(encoding="utf-8")
    assert "(`DiverseEvol`: all eleven of them;" in page
    assert "ten more trainings from the base weights" in (DiverseEvol.__doc__ or "")
