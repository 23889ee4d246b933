"""Snippets of a Markdown page: which there are, and how they run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hf_datasel.cli import main

BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>.*?) -->\n+)?```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
NOT_OURS = ("pip", "make", "git", "hf", "python")
"""Programs that set up a machine; their lines are not run."""


@dataclass(frozen=True)
class Snippet:
    """A block of code of a page.

    Args:
        language: The word after the backticks.
        code: The text between them.
        line: Number of the first line of the code.
        reason: Why it is not run; None if it is.
    """

    language: str
    code: str
    line: int
    reason: str | None

    @property
    def file(self) -> str | None:
        """Name of the file that the block is, which its first line names: `# bench.yaml`."""
        match = re.match(r"# (\S+\.(?:py|ya?ml|jsonl))\b", self.code)
        return match[1] if match else None


def snippets(page: Path) -> Iterator[Snippet]:
    """Yield the blocks of code of a page in Python, YAML and for a shell, in order."""
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        if match["language"] in ("python", "yaml", "bash"):
            line = text.count("\n", 0, match.start("code")) + 1
            yield Snippet(match["language"], match["code"], line, match["reason"])


def run_page(page: Path, smaller: Mapping[str, str]) -> dict[str, Any]:
    """Run the snippets of a page in one namespace and in the current folder, and return the namespace.

    Args:
        page: The file.
        smaller: Numbers of the page that are too large for the rows of a test, and what replaces them.
    """
    names: dict[str, Any] = {"__name__": "page"}
    for snippet in snippets(page):
        code = snippet.code
        for large, small in smaller.items():
            code = code.replace(large, small)
        if snippet.reason is not None:
            continue
        try:
            _run(snippet, code, names)
        except BaseException as error:
            error.add_note(f"{page.name}, line {snippet.line}")
            raise
    return names


def _run(snippet: Snippet, code: str, names: dict[str, Any]) -> None:
    if snippet.file is not None:
        Path(snippet.file).write_text(code, encoding="utf-8")
        if snippet.file.startswith("test_"):
            _run_tests(code)
    elif snippet.language == "python":
        exec(compile(code, f"<line {snippet.line}>", "exec"), names)
    elif snippet.language == "yaml":
        assert isinstance(yaml.safe_load(code), dict)
    else:
        for command in commands(code):
            assert command[0] == "hf-datasel", f"{command[0]} is not run by the tests"
            assert main(command[1:]) == 0, shlex.join(command)


def _run_tests(code: str) -> None:
    """Run the parametrized tests of a file, as pytest would."""
    names: dict[str, Any] = {"__name__": "tests"}
    exec(code, names)
    for test in [value for name, value in names.items() if name.startswith("test_")]:
        _, cases = test.pytestmark[0].args
        assert cases
        for case in cases:
            test(*case.values)


def commands(code: str) -> Iterator[list[str]]:
    """Yield the commands of a block for a shell, as lists of words, without those that set up a machine."""
    text = ""
    for line in code.replace("\\\n", " ").splitlines():
        text += line + "\n"
        try:
            words = shlex.split(text, comments=True)
        except ValueError:  # a quotation that goes on in the next line
            continue
        text = ""
        if words and words[0] not in NOT_OURS:
            yield words
