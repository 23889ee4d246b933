"""Check that a tag can be released, and print its section of the changelog: check_release.py v0.1.0."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def release_notes(tag: str, root: Path = ROOT) -> str:
    """Return the section of the changelog of a tag.

    Args:
        tag: Name of the tag.
        root: Folder of the repository.

    Raises:
        SystemExit: The tag is not that of the version, or the changelog or CITATION.cff is not ready for it.
    """
    code = (root / "hf_datasel" / "__init__.py").read_text(encoding="utf-8")
    version = re.search(r'^__version__ = "(.+)"$', code, re.MULTILINE)[1]
    if tag != f"v{version}":
        sys.exit(f"The tag is {tag}, but hf_datasel.__version__ is {version!r}: the tag has to be v{version}.")
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    header = re.search(rf"^## \[{re.escape(version)}\] - (.+)$", changelog, re.MULTILINE)
    if header is None:
        sys.exit(f"CHANGELOG.md has no section `## [{version}] - YYYY-MM-DD`.")
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", header[1]):
        sys.exit(f"The section of {version} in CHANGELOG.md has no date: {header[0]!r}. Write YYYY-MM-DD.")
    if f"\n[{version}]: https://" not in changelog:
        sys.exit(f"CHANGELOG.md has no link `[{version}]: https://...` in its last lines.")
    citation = (root / "CITATION.cff").read_text(encoding="utf-8")
    if not {f"version: {version}", f"date-released: {header[1]}"} <= set(citation.splitlines()):
        sys.exit(f"CITATION.cff lacks `version: {version}` or `date-released: {header[1]}`.")
    return re.split(r"^(?:## \[|\[.+\]: )", changelog[header.end() :], maxsplit=1, flags=re.MULTILINE)[0].strip()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(release_notes(sys.argv[1]))
