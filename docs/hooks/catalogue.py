"""Pages of all selectors, filters and scores, made from their docstrings and settings."""

from __future__ import annotations

import re
from typing import Any

from docstrings import fenced
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from hf_datasel.cli.catalogue import Entry, catalogue

INTRODUCTIONS = {
    "selector": (
        "Selectors",
        "A selector decides which rows are selected, in which order, and how often. Pass it to `select`, to "
        "`SelectiveSFTTrainer` or, by its name, to `hf-datasel select`, `train`, `compare` and `bench`. "
        "[Choose a method](../guides/choose-a-method.md) says which one is for what. Those with **T** train the model "
        "between their rounds, so that only `SelectiveSFTTrainer` and `hf-datasel train` run them.",
    ),
    "filter": (
        "Filters",
        "A filter decides which rows may be selected at all. Pass filters to the selector "
        "[`Chain`](../selectors/chain.md), which applies them before a method: "
        "[filter rows](../guides/filters.md).",
    ),
    "score": (
        "Scores",
        "A score computes numbers for rows, as columns of the dataset. Pass it to `score`, to `Dataset.map`, or to a "
        "setting of a selector that takes a column or a score: [score rows](../guides/score.md). A row without a "
        "value has a null there, and the reason in the column whose name ends in `_reason`.",
    ),
}
ARXIV = re.compile(r"(?<![\w./\[])(\d{4}\.\d{5})(?![\w\]])")
_NAME = re.compile(r"(?<!\[)`([\w.]+)`")
_ENTRIES = catalogue()
_PAGES = {entry.cls.__name__: f"{entry.kind}s/{entry.name}.md" for entry in _ENTRIES}


def on_config(config: MkDocsConfig) -> None:
    """Fill the items of the navigation that name a folder of these pages."""
    for section in config.nav or []:
        for title, items in section.items():
            if isinstance(items, list):
                section[title] = [_filled(item) for item in items]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add a page for each entry, and one for each kind."""
    for entry in _ENTRIES:
        uri = f"{entry.kind}s/{entry.name}.md"
        files.append(File.generated(config, uri, content=entry_page(entry)))
    for kind in INTRODUCTIONS:
        files.append(File.generated(config, f"{kind}s/index.md", content=index_page(kind)))


def index_page(kind: str) -> str:
    """Return the page with one line for each entry of a kind."""
    title, introduction = INTRODUCTIONS[kind]
    last = "cost" if kind == "score" else "cost in addition to training"
    lines = [f"# {title}", "", introduction, "", f"| name | what it does | paper | {last} |", "|---|---|---|---|"]
    for entry in _ENTRIES:
        if entry.kind == kind:
            mark = " **T**" if entry.trains_between_rounds else ""
            about = _prose(entry.summary, entry, "../")
            link = f"[`{entry.cls.__name__}`]({entry.name}.md)"
            lines.append(f"| {link}{mark} | {about} | {', '.join(map(_arxiv, papers(entry)[:1]))} | {cost(entry)} |")
    return "\n".join(lines) + "\n"


def entry_page(entry: Entry) -> str:
    """Return the page of one selector, filter or score."""
    facts = [("Name in recipes and on the command line", f"`{entry.name}`")]
    if numbers := papers(entry):
        facts.append(("Papers" if len(numbers) > 1 else "Paper", ", ".join(map(_arxiv, numbers))))
    if entry.kind == "score":
        facts.append(("Columns", ", ".join(f"`{column}`" for column in _columns(entry))))
    if entry.trains_between_rounds:
        facts.append(("Runs in", "`SelectiveSFTTrainer` and `hf-datasel train` only: it trains between its rounds"))
    module = entry.path.rpartition(".")[0]
    lines = [f"# {entry.cls.__name__}", "", "```python", f"from {module} import {entry.cls.__name__}", "```", ""]
    lines += [f"- {name}: {value}" for name, value in facts]
    lines += ["", _markdown(entry.about, entry), "", "## Settings", ""]
    for setting in entry.settings:
        default = "required" if setting.default is None else f"default `{setting.default}`"
        lines += [f"`{setting.name}` : `{setting.type}`, {default}", f":   {_prose(setting.about, entry)}", ""]
    if not entry.settings:
        lines += ["None.", ""]
    if entry.cls.citation:
        lines += ["## Citation", "", "```bibtex", _bibtex(entry.cls.citation), "```", ""]
    return "\n".join(lines)


def cost(entry: Entry) -> str:
    """Return what the docstring says of the cost up to the first full stop or semicolon."""
    match = re.search(r"\bCost:\s(.+?[.;])(?=\s|$)", entry.about, re.DOTALL)
    return _prose(" ".join(match[1].split()), entry, "../").rstrip(".;") if match else ""


def papers(entry: Entry) -> list[str]:
    """Return the arXiv numbers of the paper that is implemented first, then of the others in the docstring."""
    reference = entry.about.partition("Reference")[2]
    return list(dict.fromkeys(ARXIV.findall(f"{reference} {entry.cls.citation.partition('arXiv:')[2]}")))


def _filled(item: Any) -> Any:
    """Return an item of the navigation; for `Selectors: selectors/` with the pages of that folder."""
    for kind in INTRODUCTIONS:
        if isinstance(item, dict) and f"{kind}s/" in item.values():
            pages = [
                {entry.cls.__name__: f"{kind}s/{entry.name}.md"}
                for entry in sorted(_ENTRIES, key=lambda entry: entry.cls.__name__.lower())
                if entry.kind == kind
            ]
            return {title: [f"{kind}s/index.md", *pages] for title in item}
    return item


def _columns(entry: Entry) -> list[str]:
    variant: Any = object.__new__(entry.cls)  # the names depend on no setting that is required
    return list(variant.columns())


def _arxiv(number: str) -> str:
    return f"[{number}](https://arxiv.org/abs/{number})"


def _prose(text: str, entry: Entry, up: str = "../") -> str:
    """Return a text of a docstring with links to papers and to the pages of other classes."""

    def link(match: re.Match[str]) -> str:
        name = match[1].rpartition(".")[2]
        known = name in _PAGES and name != entry.cls.__name__ and match[1] in (name, f"hf_datasel.scores.{name}")
        return f"[`{name}`]({up}{_PAGES[name]})" if known else match[0]

    return ARXIV.sub(lambda match: _arxiv(match[1]), _NAME.sub(link, text))


def _markdown(text: str, entry: Entry) -> str:
    """Return a docstring as Markdown, with its examples as code."""
    blocks = [
        block if block.startswith((">>> ", "    ")) else _prose(block, entry) for block in re.split(r"\n\n+", text)
    ]
    return fenced("\n\n".join(blocks))


def _bibtex(citation: str) -> str:
    return re.sub(r", (?=\w+=\{)", ",\n  ", citation)
