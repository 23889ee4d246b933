"""The package declares what it imports, and what its files say of a release agrees."""

from __future__ import annotations

import ast
import re
import runpy
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from huggingface_hub.cli import extensions
from huggingface_hub.cli.hf import app

import hf_datasel

PACKAGE = Path(hf_datasel.__file__).parent
PROJECT = PACKAGE.parent / "pyproject.toml"


def imported_packages() -> set[str]:
    names = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"hf_datasel"}


def normalized(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\s<>=!~\[;]", requirement)[0]).lower()


def test_imports_are_declared():
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    optional = (
        extras["eval"] + extras["language"] + extras["math"] + extras["plot"] + extras["scale"] + extras["testing"]
    )
    declared = {normalized(each) for each in project["dependencies"] + optional}
    distributions = packages_distributions()  # of what is installed; extras need not be
    undeclared = {
        name
        for name in imported_packages()
        if not declared & {normalized(each) for each in distributions.get(name, [name])}
    }
    assert undeclared == set()


# -- releases ---------------------------------------------------------------------------------------------------------
release_notes = runpy.run_path(str(PROJECT.parent / ".github" / "scripts" / "check_release.py"))["release_notes"]


@pytest.fixture
def root(tmp_path):
    (tmp_path / "hf_datasel").mkdir()
    (tmp_path / "hf_datasel" / "__init__.py").write_text('__version__ = "1.2.0"\n')
    (tmp_path / "CITATION.cff").write_text("version: 1.2.0\ndate-released: 2027-01-31\n")
    return tmp_path


def changelog(root: Path, date: str = "2027-01-31", links: str = "[1.2.0]: https://example.org\n") -> None:
    sections = f"# Changelog\n\n## [1.2.0] - {date}\n\n### Added\n\n- A.\n\n## [1.1.0] - 2026-12-01\n\n- B.\n\n"
    (root / "CHANGELOG.md").write_text(sections + links)


def test_release_notes(root):
    changelog(root)
    assert release_notes("v1.2.0", root) == "### Added\n\n- A."


def test_tag_that_is_not_the_version(root):
    with pytest.raises(SystemExit, match=r"The tag is v1\.3\.0, but .*'1\.2\.0'"):
        release_notes("v1.3.0", root)


@pytest.mark.parametrize(
    ("date", "links", "message"),
    [
        ("unreleased", "", "has no date"),
        ("2027-01-31", "", "has no link"),
        ("", "", "has no section"),
        ("2027-02-28", "[1.2.0]: https://example.org\n", "CITATION.cff lacks"),
    ],
)
def test_changelog_that_is_not_ready(root, date, links, message):
    changelog(root, date, links)
    with pytest.raises(SystemExit, match=message):
        release_notes("v1.2.0", root)


def test_files_have_this_version():
    text = (PROJECT.parent / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(\d.*?)\] - (?:\d{4}-\d{2}-\d{2}|unreleased)$", text, re.MULTILINE)
    assert hf_datasel.__version__ in versions
    assert re.findall(r"^\[(.+?)\]: https://", text, re.MULTILINE) == versions
    citation = yaml.safe_load((PROJECT.parent / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == hf_datasel.__version__


def test_command_is_one_of_an_extension_of_hf():
    """`hf extensions install OWNER/hf-datasel` looks for the command of this name."""
    _, _, name = extensions._normalize_repo_id("hf-datasel/hf-datasel")
    assert name not in app.commands
    scripts = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["scripts"]
    assert extensions._get_executable_name(name).removesuffix(".exe") in scripts
