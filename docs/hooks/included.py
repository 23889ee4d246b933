"""Pages that are files of the repository, and links between the site and the repository.

Links are written as in the repository, so that they work there: `../recipes/README.md`. On the site they lead to the
page that shows that file or is made from it, or to the file in the repository if there is none.
"""

from __future__ import annotations

import os.path
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from hf_datasel.cli.catalogue import catalogue

ROOT = Path(__file__).parents[2]
PAGES = {
    "recipes/README.md": "recipes.md",
    "benchmarks/README.md": "benchmarks.md",
    "cards/README.md": "cards/index.md",
    ".github/CONTRIBUTING.md": "contributing.md",
    ".github/SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
} | {
    path.relative_to(ROOT).as_posix(): f"cards/{path.parent.name}/index.md" for path in ROOT.glob("cards/*/README.md")
}
IMAGES = {
    path.relative_to(ROOT).as_posix(): path.relative_to(ROOT).as_posix().replace(".github/", "")
    for pattern in (".github/images/*.png", "cards/*/plots/*.png", "benchmarks/*.png")
    for path in ROOT.glob(pattern)
}
_SOURCES = {page: source for source, page in PAGES.items()}
_LINK = re.compile(r"(\]\(|\b(?:src|srcset|href)=\")(?![a-z]+:|#)([^)\"#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages and the images."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for source, image in IMAGES.items():
        files.append(File.generated(config, image, abs_src_path=str(ROOT / source)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to files of the repository lead to their page, or to the repository."""
    here = page.file.src_uri
    source = _SOURCES.get(here) or f"docs/{here}"
    return _LINK.sub(lambda match: match[1] + _target(match[2], source, here, config), markdown)


def _made_from(path: str) -> str | None:
    """Return the page that the hooks make from a module of the package."""
    match = re.fullmatch(r"hf_datasel/(\w+)/(\w+)\.py", path)
    if match is None:
        return None
    package, module = match.groups()
    if package in ("scores", "selectors"):
        kinds = {entry.name: entry.kind for entry in catalogue()}
        return f"{package}/index.md" if module == "__init__" else f"{kinds[module]}s/{module}.md"
    return f"api/{package}.md"


def _target(link: str, source: str, here: str, config: MkDocsConfig) -> str:
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    if target := PAGES.get(path) or IMAGES.get(path) or _made_from(path):
        return os.path.relpath(target, posixpath.dirname(here) or ".").replace(os.sep, "/")
    if path.startswith("docs/") or not (ROOT / path).exists():
        return link  # of this folder; mkdocs says if there is no such page
    return f"{config.repo_url}/{'tree' if (ROOT / path).is_dir() else 'blob'}/main/{path}"
