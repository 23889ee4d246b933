"""The page of the command line, made from the parsers of the commands."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Iterator
from unittest.mock import patch

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from hf_datasel.cli.main import COMMANDS

_INTRODUCTION = """\
# Command line

`hf-datasel COMMAND --help` prints this page in the terminal. The keys of a command are the same as flags and in a
YAML file, which `--config FILE.yaml` reads; flags take precedence. A misspelled key is an error with a suggestion.
`train` takes every key of `trl sft`.

"""
_FOLDED = "other options"  # the group of `train` with several hundred keys of TRL


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the page."""
    sections = "\n".join(f"## hf-datasel {name}\n\n{_section(name)}" for name in COMMANDS)
    files.append(File.generated(config, "cli.md", content=_INTRODUCTION + sections))


def _section(name: str) -> str:
    parser = _parser(name)
    about = (parser and parser.description) or f"{COMMANDS[name][0].upper()}{COMMANDS[name][1:]}."
    parts = _parts(parser) if parser else [f"```text\nusage: hf-datasel {name}\n```\n"]
    return "\n".join([f"{_escaped(about)}\n", *parts])


def _parser(name: str) -> argparse.ArgumentParser | None:
    """Return the parser of a command, None if it takes no arguments."""
    parsers = []

    def keep(self: argparse.ArgumentParser, file: object = None) -> None:
        parsers.append(self)

    with patch.object(argparse.ArgumentParser, "print_help", keep):
        try:
            if name != "env":
                importlib.import_module(f"hf_datasel.cli.{name}").run(["--help"])
        except SystemExit:
            pass
    return parsers[0] if parsers else None


def _parts(parser: argparse.ArgumentParser) -> Iterator[str]:
    usage = " ".join(parser.format_usage().split())
    yield f"```text\n{usage}\n```\n"
    if parser.epilog:
        yield f"```text\n{parser.epilog.strip()}\n```\n"
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.dest != "help"]
        if not actions:
            continue
        listed = "\n".join(_option(action) for action in actions)
        title = str(group.title)
        if title.startswith(_FOLDED):
            yield f'??? note "{title[0].upper()}{title[1:]}"\n\n' + re.sub(r"^(?=.)", "    ", listed, flags=re.M)
        else:
            yield f"**{title[0].upper()}{title[1:]}**\n\n{listed}"


def _option(action: argparse.Action) -> str:
    flag = action.option_strings[0] if action.option_strings else str(action.metavar or action.dest)
    values = f" {{{', '.join(map(str, action.choices))}}}" if action.choices else ""
    hidden = (
        action.default in (None, False, "", argparse.SUPPRESS) or action.default == [] or not action.option_strings
    )
    default = "" if hidden else f", default `{action.default}`"
    return f"`{flag}{values}`{default}\n:   {_escaped(action.help or '') or '(no description)'}\n"


def _escaped(text: str) -> str:
    """Return a text of argparse as Markdown, in which only backticks have a meaning."""
    text = " ".join(text.replace("%%", "%").split())
    parts = text.split("`")
    parts[::2] = [re.sub(r"([\\*_<\[\]])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)
