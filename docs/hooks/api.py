"""Pages of the public names of the packages, which mkdocstrings fills."""

from __future__ import annotations

import importlib
import inspect

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from hf_datasel.cli.catalogue import catalogue

PACKAGES = (
    "hf_datasel",
    "hf_datasel.scores",
    "hf_datasel.selectors",
    "hf_datasel.selection",
    "hf_datasel.scoring",
    "hf_datasel.rounds",
    "hf_datasel.training",
    "hf_datasel.evaluation",
    "hf_datasel.analysis",
    "hf_datasel.cards",
    "hf_datasel.testing",
)


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add a page for each package. A name is described once: on the first page that has it, or in the catalogue."""
    described = {entry.cls: f"../{entry.kind}s/{entry.name}.md" for entry in catalogue()}
    for package in PACKAGES:
        uri = f"api/{package.rpartition('.')[2]}.md"
        files.append(File.generated(config, uri, content=_page(package, described)))


def _page(package: str, described: dict[object, str]) -> str:
    module = importlib.import_module(package)
    lines = [f"# {package}", "", inspect.getdoc(module) or "", ""]
    links, blocks = [], list[str]()
    for name in sorted(module.__all__, key=str.lower):
        value = getattr(module, name)
        key = value if callable(value) else f"{package}.{name}"
        if key in described:
            links.append(f"[`{name}`]({described[key]})")
        else:
            described[key] = f"{package.rpartition('.')[2]}.md#{package}.{name}"
            blocks += [f"::: {package}.{name}", ""]
    if links:
        lines += [f"Described elsewhere: {', '.join(links)}.", ""]
    return "\n".join(lines + blocks)
