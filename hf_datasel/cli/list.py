"""`hf-datasel list`: list selectors, filters and scores, or print what some of them do and their settings."""

from __future__ import annotations

import argparse
import json
import shutil
import textwrap
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from hf_datasel.cli.catalogue import Entry, catalogue
from hf_datasel.cli.examples import examples_text
from hf_datasel.errors import ConfigError, did_you_mean

__all__ = ["run"]

_TITLES = {
    "selector": "Selectors (select, train, compare and bench: --selector NAME)",
    "filter": "Filters (steps of the selector chain)",
    "score": "Scores (score: --scores NAME)",
}
_MAX_WIDTH = 120  # characters of a line
_FOOTER = (
    "* trains between its rounds: hf-datasel train only.\n"
    "hf-datasel list NAME prints what one of them does, and its settings."
)


def run(argv: Sequence[str]) -> None:
    """Print one line for each selector, filter and score; of those that are named also docstring and settings."""
    parser = argparse.ArgumentParser(
        "hf-datasel list",
        description="List selectors, filters and scores, or print what some of them do and their settings.",
        epilog=examples_text("list"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="selectors, filters, scores, or names of these")
    parser.add_argument("--json", action="store_true", help="print JSON, with the settings of each")
    arguments = parser.parse_args(argv)
    entries, in_full = _named(arguments.names)
    if arguments.json:
        print(json.dumps([_as_json(entry) for entry in entries], indent=2, ensure_ascii=False))
    elif in_full:
        print("\n\n".join(map(_page, entries)))
    else:
        _print_table(entries)


def _named(names: Sequence[str]) -> tuple[list[Entry], bool]:
    """Return the entries of these names, and whether single ones are named."""
    entries = catalogue()
    if not names:
        return entries, False
    named = []
    for name in names:
        matches = [entry for entry in entries if name in (entry.name, entry.cls.__name__, f"{entry.kind}s")]
        if not matches:
            known = [*(f"{kind}s" for kind in _TITLES), *(entry.name for entry in entries)]
            raise ConfigError(
                f"There is no selector, filter or score {name!r}.{did_you_mean(name, known)} hf-datasel list prints "
                "all names."
            )
        named += [entry for entry in matches if entry not in named]
    return named, any(name not in {f"{entry.kind}s" for entry in entries} for name in names)


def _print_table(entries: Sequence[Entry]) -> None:
    width = min(shutil.get_terminal_size((100, 24)).columns, _MAX_WIDTH)
    indent = max(len(entry.name) for entry in entries) + 5
    for kind, group in groupby(entries, lambda entry: entry.kind):
        print(f"{_TITLES[kind]}\n")
        for entry in group:
            name = f"  {entry.name}{'*' if entry.trains_between_rounds else ''}"
            print(
                textwrap.fill(entry.summary, width, initial_indent=name.ljust(indent), subsequent_indent=" " * indent)
            )
        print()
    print(_FOOTER)


def _page(entry: Entry) -> str:
    lines = [f"{entry.name}: {entry.kind}, in Python {entry.path}", "", entry.about, "", "Settings:"]
    if entry.trains_between_rounds:
        lines.insert(1, "Trains between its rounds: hf-datasel train.")
    for setting in entry.settings:
        default = " (required)" if setting.default is None else f" = {setting.default}"
        lines += [f"    {setting.name}: {setting.type}{default}"]
        lines += textwrap.wrap(setting.about, 100, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join(lines if entry.settings else [*lines[:-1], "Settings: none"])


def _as_json(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "kind": entry.kind,
        "class": entry.path,
        "summary": entry.summary,
        "trains_between_rounds": entry.trains_between_rounds,
        "settings": [vars(setting) for setting in entry.settings],
    }
