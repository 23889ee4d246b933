"""`hf-datasel explain`: why rows were selected, or were not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from hf_datasel.cli.arguments import (
    DatasetArguments,
    allow_local_imports,
    log_to_stderr,
    parse,
    record_columns,
)
from hf_datasel.cli.saved_selections import load_selection
from hf_datasel.errors import ConfigError
from hf_datasel.scoring.progress import only_drawn_bars

__all__ = ["ExplainArguments", "run"]

_DESCRIPTION = "ROW: number of a row of the dataset, counted from 0. Row numbers come before the flags."


@dataclass
class ExplainArguments:
    """Settings of the explanation: `hf-datasel explain 17 42 --selection FOLDER --dataset_name FILE`."""

    selection: str | None = field(default=None, metadata={"help": "Folder of a saved selection."})
    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Model for embeddings that the selection used and did not save. For a round of training, pass the "
            "checkpoint saved just before the selection."
        },
    )
    json: bool = field(default=False, metadata={"help": "Print one JSON object per row instead of text."})
    allow_imports: bool = field(
        default=False,
        metadata={
            "help": "Permit what the selection names: a selector outside hf_datasel, an endpoint, a model's own code."
        },
    )


def run(argv: Sequence[str]) -> None:
    """Print why rows were selected, or were not."""
    rows = list(takewhile(_is_positional, argv))
    argument_types = (DatasetArguments, ExplainArguments)
    dataset_arguments, arguments = parse(argument_types, argv[len(rows) :], "explain ROW [ROW ...]", _DESCRIPTION)
    row_numbers = [_row_number(row) for row in rows]
    if not row_numbers:
        raise ConfigError("No row is named: hf-datasel explain 17 --selection FOLDER --dataset_name FILE-OR-HUB-ID.")
    if not arguments.selection:
        raise ConfigError("No selection is named. Pass --selection FOLDER, or put it into the config file.")
    log_to_stderr()
    allow_local_imports(arguments.allow_imports)
    from hf_datasel.selection import explain
    from hf_datasel.selection.explanation_text import explanation_text

    selection = load_selection(arguments.selection)
    record_columns([selection], dataset_arguments.mapping)
    with only_drawn_bars():
        dataset = dataset_arguments.load(selection.columns)
        for row in row_numbers:
            explanation = explain(
                selection, dataset, row, arguments.model_name_or_path, allow_imports=arguments.allow_imports
            )
            print(json.dumps(explanation, ensure_ascii=False) if arguments.json else explanation_text(explanation))
            if explanation["checkpoint"] and not arguments.json:
                print(f"  {_checkpoint_hint(arguments.selection, explanation['checkpoint'])}")


def _is_positional(argument: str) -> bool:
    return not argument.startswith("-") or argument[1:].isdecimal()


def _row_number(argument: str) -> int:
    if not argument.isdecimal():
        raise ConfigError(f"Row {argument!r} is no row number: rows are counted from 0.")
    return int(argument)


def _checkpoint_hint(selection: str, name: str) -> str:
    """Return a sentence that says how to pass the checkpoint of the training run, or that it was not saved."""
    path = Path(selection).expanduser()
    path = path if len(path.parents) > 2 else path.absolute()
    checkpoint = path.parents[1] / name
    return f"Pass --model_name_or_path {checkpoint}." if checkpoint.is_dir() else f"There is no {checkpoint}."
