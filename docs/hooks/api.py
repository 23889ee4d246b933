"""Pages of the public names of the packages, which mkdocstrings fills."""

from __future__ import annotations

import importlib
import inspect

from docstrings import plain
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from hf_datasel.cli.catalogue import catalogue

PACKAGES = (
    "hf_datasel.selection",
    "hf_datasel.rounds",
    "hf_datasel.scoring",
    "hf_datasel.training",
    "hf_datasel.evaluation",
    "hf_datasel.analysis",
    "hf_datasel.cards",
    "hf_datasel.testing",
    "hf_datasel.scores",
    "hf_datasel.selectors",
    "hf_datasel",
)
"""A name that several of them have is described on the page of the first one."""
_CATALOGUE = (
    "The [selectors](../selectors/index.md), [filters](../filters/index.md) and [scores](../scores/index.md) have "
    "pages of their own."
)


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add a page for each package; classes of the catalogue have pages of their own."""
    described: dict[object, str] = {entry.cls: "" for entry in catalogue()}
    for package in PACKAGES:
        uri = f"api/{package.rpartition('.')[2]}.md"
        files.append(File.generated(config, uri, content=_page(package, described)))


def _page(package: str, described: dict[object, str]) -> str:
    module = importlib.import_module(package)
    lines = [f"# {package}", "", inspect.getdoc(module) or "", ""]
    catalogued, rows, blocks = False, list[str](), list[str]()
    for name in sorted(module.__all__, key=str.lower):
        value = getattr(module, name)
        key = value if callable(value) else f"{package}.{name}"
        if described.get(key) == "":
            catalogued = True
        elif key in described:
            summary = " ".join(plain(inspect.getdoc(value) or "").split("\n\n")[0].split())
            rows.append(f"| [`{name}`]({described[key]}) | {summary} |")
        else:
            described[key] = f"{package.rpartition('.')[2]}.md#{package}.{name}"
            blocks += [f"::: {package}.{name}", ""]
    if catalogued:
        lines += [_CATALOGUE, ""]
    if rows:
        lines += ["| described on another page | |", "|---|---|", *rows, ""]
    return "\n".join(lines + blocks)
