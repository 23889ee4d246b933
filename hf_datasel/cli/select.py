"""`hf-datasel select`: select rows once and save the selection."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_datasel.atomic import write_file
from hf_datasel.cli.arguments import (
    DatasetArguments,
    allow_local_imports,
    log_to_stderr,
    parse,
    selector_and_settings,
)
from hf_datasel.cli.output_folder import create_output_folder
from hf_datasel.cli.terminal import print_next_steps
from hf_datasel.errors import ConfigError, Interrupted, SelectionError
from hf_datasel.scoring.progress import map_progress_disabled, only_drawn_bars

if TYPE_CHECKING:
    from hf_datasel.rounds.selector import Selector
    from hf_datasel.scoring import ScoreTables
    from hf_datasel.selection import Selection

__all__ = ["SelectArguments", "run"]

_SUBSET = "subset.parquet"


@dataclass
class SelectArguments:
    """Settings of the selection: selector, budget, model and output folder."""

    selector: str = field(
        default="iterit",
        metadata={
            "help": "Name of a selector; `hf-datasel list` shows them. In a config file it may have its settings: "
            "{top: {by: ifd}}."
        },
    )
    selector_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": 'Settings of the selector, such as {"quality": "ifd"}.'}
    )
    selection_size: int | None = field(default=None, metadata={"help": "Number of rows to select."})
    selection_ratio: float | None = field(
        default=None, metadata={"help": "Share of all rows to select; 0.05 by default."}
    )
    selection_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Maximum total number of tokens of the selected rows, counted with the model's tokenizer, or read "
            "from the column num_tokens if no model is passed."
        },
    )
    seed: int = field(default=0, metadata={"help": "Random seed."})
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Model that computes missing scores: Hub id or folder."}
    )
    scoring_tokens_per_batch: int | None = field(
        default=None,
        metadata={
            "help": "Maximum number of padded tokens in a scoring batch; by default 1,024 on a CPU, else 16,384."
        },
    )
    output_dir: str = field(default="outputs/select", metadata={"help": "Folder for the selection."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the selection that output_dir contains."})
    save_subset: bool = field(default=False, metadata={"help": "Also write the selected rows as subset.parquet."})
    json: bool = field(default=False, metadata={"help": "Print the record of the selection as JSON instead of text."})
    allow_imports: bool = field(
        default=False,
        metadata={"help": "Permit a selector outside hf_datasel, as module:Class, also from the current folder."},
    )


def run(argv: Sequence[str]) -> None:
    """Select rows, save the selection, and print the number of selected and excluded rows."""
    dataset_arguments, arguments = parse((DatasetArguments, SelectArguments), argv, "select")
    log_to_stderr()
    allow_local_imports(arguments.allow_imports)
    from hf_datasel.hub.parents import write_parquet
    from hf_datasel.selection import select

    selector = _selector(arguments)
    folder = create_output_folder(arguments.output_dir)
    _check_overwrite(arguments)
    try:
        with only_drawn_bars():
            dataset = _score_tables(dataset_arguments, arguments) or dataset_arguments.load()
            selection = select(
                dataset,
                selector,
                arguments.selection_size,
                arguments.selection_ratio,
                arguments.seed,
                arguments.model_name_or_path,
                scoring_tokens_per_batch=arguments.scoring_tokens_per_batch,
                tokens=arguments.selection_tokens,
                columns=dataset_arguments.mapping,
            )
    except Interrupted as interrupt:
        if len(interrupt.selected):
            _save(interrupt.selection, folder)
            print(f"Interrupted: the {len(interrupt.selected):,} rows selected so far are in {folder}.")
        raise
    _save(selection, folder)
    if not arguments.json:
        print(selection.summary())
    if arguments.save_subset:
        with map_progress_disabled():
            subset = selection.apply(dataset)
            write_file(folder / _SUBSET, lambda file: write_parquet(subset, file), SelectionError)
    if arguments.json:
        print(json.dumps({"output_dir": arguments.output_dir, **selection.provenance}, indent=2, ensure_ascii=False))
    else:
        print(f"Written to {arguments.output_dir}.")
        print_next_steps(*_next_steps(dataset_arguments, arguments))


def _score_tables(dataset_arguments: DatasetArguments, arguments: SelectArguments) -> ScoreTables | None:
    """Return the score tables that `dataset_name` names; None if it names a dataset.

    Raises:
        ConfigError: The rows of the tables are requested, or a part of them.
    """
    from hf_datasel.scoring import ScoreTables

    name = dataset_arguments.dataset_name
    if not isinstance(name, str) or not ScoreTables.are_at(name):
        if isinstance(name, str) and ScoreTables.are_at(Path(name) / "scores"):
            tables, rows = str(Path(name) / "scores"), str(Path(name) / "scored.parquet")
            raise ConfigError(
                f"{name!r} is the output of hf-datasel score. Name the score tables in it, {tables!r}, or the rows "
                f"with their scores, {rows!r}."
            )
        return None
    if arguments.save_subset:
        raise ConfigError(
            "Score tables have no rows that could be saved. Omit --save_subset, and apply the selection to the "
            "dataset: Selection.load(OUTPUT_DIR).apply(dataset)."
        )
    if dataset_arguments.dataset_train_split != "train":
        raise ConfigError(
            "The score tables are those of one split. Omit --dataset_train_split, or select from the dataset."
        )
    return ScoreTables(name)


def _check_overwrite(arguments: SelectArguments) -> None:
    """Raise `ConfigError` if the output folder contains a selection that is not to be replaced.

    What was selected before an interruption is replaced in any case.
    """
    from hf_datasel.selection import Selection

    folder = Path(arguments.output_dir)
    if arguments.overwrite or not (folder / "selection.json").is_file():
        return
    try:
        earlier = Selection.load(folder)
    except SelectionError:
        found = "a selection with damaged files"
    else:
        if earlier.provenance.get("interrupted"):
            return
        found = f"a selection, {earlier.summary().splitlines()[0].rstrip('.')}"
    raise ConfigError(
        f"{arguments.output_dir} contains {found}. Pass another --output_dir, or --overwrite to replace it."
    )


def _next_steps(dataset_arguments: DatasetArguments, arguments: SelectArguments) -> list[list[str]]:
    """Return the commands that most runs are followed by."""
    rows = ["--selection", arguments.output_dir, *dataset_arguments.flags()]
    return [["report", *rows], ["push", *rows, "--repo_id", "NAMESPACE/NAME", "--dry_run"]]


def _save(selection: Selection, folder: Path) -> None:
    """Save a selection to the output folder, and remove the rows of the earlier selection in it.

    If that fails, the selection is saved to a temporary folder.

    Raises:
        SelectionError: The output folder cannot be written to; the message names the temporary folder.
    """
    subset, aside = folder / _SUBSET, folder / f".{_SUBSET}.old"
    try:
        if subset.is_file():
            os.replace(subset, aside)  # so that it is never beside the record of another selection
        selection.save(folder)
        aside.unlink(missing_ok=True)
    except (OSError, SelectionError) as error:
        if aside.is_file():
            os.replace(aside, subset)
        message = error.cli_message if isinstance(error, SelectionError) else f"Cannot write to {folder}: {error}."
        try:
            elsewhere = Path(tempfile.mkdtemp(prefix="hf-datasel-selection-"))
            selection.save(elsewhere)
        except (OSError, SelectionError):
            raise SelectionError(message) from error
        raise SelectionError(f"{message} The selection was saved to {elsewhere}: copy it from there.") from error


def _selector(arguments: SelectArguments) -> Selector:
    """Return the selector, after checks that need no dataset.

    Raises:
        ConfigError: If several budgets are set, or the selector or one of its settings is unknown or invalid.
        SelectionError: If the selector selects in several rounds with training between them.
    """
    from hf_datasel.selection import resolve_size
    from hf_datasel.selection.select_rows import check_single_round
    from hf_datasel.selectors import get_selector, list_selectors

    budgets = ("selection_size", "selection_ratio", "selection_tokens")
    budgets_set = [name for name in budgets if getattr(arguments, name) is not None]
    if len(budgets_set) > 1:
        raise ConfigError(f"{' and '.join(budgets_set)} exclude each other. Pass one of them.")
    resolve_size(1, arguments.selection_size, arguments.selection_ratio, budgets[:2])
    name, settings = selector_and_settings(arguments.selector, arguments.selector_kwargs)
    if (selector_type := list_selectors().get(name)) is not None:
        check_single_round(selector_type, settings.get("rounds", getattr(selector_type, "rounds", None)))
    return get_selector(name, settings, arguments.allow_imports)
