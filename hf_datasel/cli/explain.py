"""`hf-datasel explain`"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from hf_datasel.cli.arguments import (
    DatasetArguments,
    bars_on_terminals,
    import_from_here,
    load_selection,
    parse,
    show_progress_messages,
)
from hf_datasel.errors import ConfigError
from hf_datasel.selection.explanation import Explanation, Standing

__all__ = ["ExplainArguments", "run"]

_ROWS = "ROW: number of a row of the dataset, counted from 0. They stand before the flags."


@dataclass
class ExplainArguments:
    """Which selection. The rows stand first: `hf-datasel explain 17 42 --selection FOLDER --dataset_name FILE`."""

    selection: str | None = field(default=None, metadata={"help": "Folder of a selection."})
    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Model for vectors that the choice computed and the selection does not hold; of a round of "
            "training, the checkpoint from the time of the choice."
        },
    )
    json: bool = field(default=False, metadata={"help": "Print one JSON object a row instead of text."})
    allow_imports: bool = field(
        default=False, metadata={"help": "Permit a selector outside hf_datasel, which the selection names."}
    )


def run(argv: Sequence[str]) -> None:
    """Print why rows were taken, or were not."""
    named = list(takewhile(_may_be_row, argv))
    kinds = (DatasetArguments, ExplainArguments)
    dataset_arguments, arguments = parse(kinds, argv[len(named) :], "explain ROW [ROW ...]", _ROWS)
    rows = [_row(each) for each in named]
    if not rows:
        raise ConfigError("No row is named: hf-datasel explain 17 --selection FOLDER --dataset_name FILE-OR-HUB-ID.")
    if not arguments.selection:
        raise ConfigError("No selection is named. Pass --selection FOLDER, or put it into the config file.")
    show_progress_messages()
    import_from_here(arguments.allow_imports)
    from hf_datasel.selection import explain

    selection = load_selection(arguments.selection)
    with bars_on_terminals():
        dataset = dataset_arguments.load()
        for row in rows:
            found = explain(
                selection, dataset, row, arguments.model_name_or_path, allow_imports=arguments.allow_imports
            )
            print(json.dumps(found, ensure_ascii=False) if arguments.json else _text(found))
            if found["checkpoint"] and not arguments.json:
                print(f"  {_checkpoint(arguments.selection, found['checkpoint'])}")


def _may_be_row(argument: str) -> bool:
    """Whether it is no flag."""
    return not argument.startswith("-") or argument[1:].isdecimal()


def _row(named: str) -> int:
    if not named.isdecimal():
        raise ConfigError(f"Row {named!r} is no row number: rows are counted from 0.")
    return int(named)


def _checkpoint(selection: str, name: str) -> str:
    """Whether a checkpoint of the run that a selection comes from is there, and how to pass it."""
    path = Path(selection).expanduser()
    path = path if len(path.parents) > 2 else path.absolute()
    place = path.parents[1] / name
    return f"It is there: --model_name_or_path {place}." if place.is_dir() else f"There is no {place}."


def _text(found: Explanation) -> str:
    if found["unusable"]:
        head = f"could not be taken: {found['unusable']}"
    elif found["rank"] is None:
        head = f"was not taken; {found['of']:,} others were"
    else:
        head = f"was taken: number {found['rank'] + 1:,} of {found['of']:,}"
    lines = [f"Row {found['row']:,} {head}."]
    if found["interrupted"]:
        lines.append(f"  The choice was interrupted when {found['of']:,} rows had been taken.")
    if found["copies"]:
        lines.append(f"  The same prompt and response were taken as row {', '.join(map(str, found['copies']))}.")
    lines += [f"  {_score(each)}" for each in found["scores"]]
    if found["cluster"] is not None and not any(each.startswith(("Cluster", "Group")) for each in found["decided"]):
        number, rows, chosen = found["cluster"]
        lines.append(f"  Cluster {number}: {chosen:,} of its {rows:,} rows were taken.")
    return "\n".join([*lines, *(f"  {each}" for each in found["decided"])])


def _score(standing: Standing) -> str:
    taken = standing["chosen"]
    among = f"; those taken have {taken[0]:.5g} to {taken[1]:.5g}" if taken else ""
    if standing["value"] is None:
        return f"{standing['score']}: none{f' ({why})' if (why := standing['reason']) else ''}{among}."
    return f"{standing['score']}: {standing['value']:.5g}, place {standing['place']:,} of {standing['of']:,}{among}."
