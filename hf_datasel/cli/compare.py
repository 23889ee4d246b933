"""`hf-datasel compare`: compare saved selections, or what several methods select from one dataset."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_datasel.cli.arguments import (
    DatasetArguments,
    allow_local_imports,
    dataset_title,
    log_to_stderr,
    parse,
    record_columns,
)
from hf_datasel.cli.methods import Method, parse_methods
from hf_datasel.cli.output_folder import create_output_folder
from hf_datasel.cli.saved_selections import load_selections
from hf_datasel.cli.selection_cache import SelectionCache
from hf_datasel.cli.stale_plots import linked_plots, remove_stale_plots
from hf_datasel.errors import ConfigError, DataselError, SelectionError, did_you_mean
from hf_datasel.scoring.progress import only_drawn_bars

if TYPE_CHECKING:
    from hf_datasel.analysis.comparison import Comparison, Failure
    from hf_datasel.selection import Selection

__all__ = ["CompareArguments", "run"]

_NAME_WIDTH = 44  # characters of a name in the printed table


@dataclass
class CompareArguments:
    """Settings of the comparison: the selections or methods, their budget, and the output folder."""

    selections: list[str] | None = field(
        default=None, metadata={"help": "Folders of saved selections to compare. Pass these or methods."}
    )
    methods: list[str] | None = field(
        default=None,
        metadata={
            "help": "Names of selectors to select rows with and compare; `hf-datasel list` shows them. In a config "
            "file each may have settings and a seed of its own, and a name may occur twice: "
            "[random, {random: {seed: 1}}, {top: {by: ifd}}]."
        },
    )
    selection_size: int | None = field(default=None, metadata={"help": "Number of rows each method selects."})
    selection_ratio: float | None = field(
        default=None, metadata={"help": "Share of all rows each method selects; 0.05 by default."}
    )
    selection_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Maximum total number of tokens of the rows each method selects, counted with the model's "
            "tokenizer, or read from the column num_tokens if no model is passed."
        },
    )
    seed: int = field(default=0, metadata={"help": "Random seed."})
    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Model that computes missing scores, and whose tokenizer counts tokens. A score that several "
            "methods need is computed once."
        },
    )
    scoring_tokens_per_batch: int | None = field(
        default=None,
        metadata={
            "help": "Maximum number of padded tokens in a scoring batch; by default 1,024 on a CPU, else 16,384."
        },
    )
    scores: list[str] | None = field(
        default=None, metadata={"help": "Numeric columns of the dataset whose distributions are shown as well."}
    )
    clusters: str | None = field(
        default=None, metadata={"help": "Column of clusters or groups; by default cluster_id, if it exists."}
    )
    vectors: str | None = field(
        default=None,
        metadata={"help": "Column of embeddings to find near-duplicates with; by default embedding, if it exists."},
    )
    title: str | None = field(default=None, metadata={"help": "Title of the page."})
    output_dir: str = field(
        default="outputs/compare",
        metadata={
            "help": "Folder for compare.html, compare.md, compare.json, plots/ and, with methods, a folder for each "
            "selection. A selection that an earlier run made in the same way is reused."
        },
    )
    json: bool = field(
        default=False, metadata={"help": "Print the comparison as JSON, as in compare.json, instead of tables."}
    )
    allow_imports: bool = field(
        default=False,
        metadata={"help": "Permit selectors outside hf_datasel, as module:Class, also from the current folder."},
    )


def run(argv: Sequence[str]) -> None:
    """Compare saved selections, or what methods select from one dataset; print a table and write a page."""
    dataset_arguments, arguments = parse((DatasetArguments, CompareArguments), argv, "compare")
    log_to_stderr()
    if not arguments.json:
        _run(dataset_arguments, arguments)
        return
    from hf_datasel.cards.report import json_text

    with redirect_stdout(sys.stderr):  # what is printed besides
        comparison = _run(dataset_arguments, arguments)
    print(json_text(comparison))


def _run(dataset_arguments: DatasetArguments, arguments: CompareArguments) -> Comparison:
    """Compare selections, write the page, print tables, and return the comparison."""
    allow_local_imports(arguments.allow_imports)
    from hf_datasel.analysis.comparison import compare
    from hf_datasel.cards.comparison import write_comparison
    from hf_datasel.cards.row_examples import rows_of_one

    methods = _methods(arguments)
    selections = load_selections(arguments.selections, "selections") if arguments.selections else {}
    record_columns(selections.values(), dataset_arguments.mapping)
    failures: list[Failure] = []
    folder = create_output_folder(arguments.output_dir)
    with only_drawn_bars():
        recorded = next((selection.columns for selection in selections.values() if selection.columns), None)
        dataset = dataset_arguments.load(recorded) if dataset_arguments.dataset_name or methods else None
        if methods and dataset is not None:
            _check_columns(dataset.column_names, arguments)
            selections, failures = _select_with(methods, dataset, arguments, folder, dataset_arguments.mapping)
        if not selections:
            reasons = " ".join(f"{failure['name']}: {failure['error']}" for failure in failures)
            raise SelectionError(f"None of the methods selected rows. {reasons}")
        comparison = compare(
            selections,
            None if methods else dataset,  # selections made here know their dataset and need no check against it
            scores=arguments.scores or (),
            clusters=arguments.clusters,
            vectors=arguments.vectors,
            model=arguments.model_name_or_path,
        )
    comparison["failures"] = failures
    title = arguments.title or _title(comparison, dataset_arguments.dataset_name)
    plots_before = linked_plots(folder / "compare.md")
    rows = None if dataset is None else rows_of_one(selections, next(iter(selections.values())).pool(dataset))
    remove_stale_plots(plots_before, write_comparison(comparison, folder, str(title), rows))
    _print_comparison(comparison)
    if dataset is None:
        print("Without --dataset_name it has no response lengths and no near-duplicates.")
    print(f"Written to {folder}: compare.html (all in one file), compare.md, compare.json and images in plots/.")
    if failures:
        names = ", ".join(failure["name"] for failure in failures)
        raise SelectionError(f"{len(failures)} of {len(methods)} methods failed: {names}. See above.")
    return comparison


def _methods(arguments: CompareArguments) -> list[Method]:
    """Return the methods to select with; empty if saved selections are compared."""
    if bool(arguments.methods) == bool(arguments.selections):
        which = "Both selections and methods are" if arguments.methods else "Neither selections nor methods are"
        raise ConfigError(f"{which} named: pass --selections FOLDER FOLDER, or --methods NAME NAME.")
    if not arguments.methods:
        return []
    return parse_methods(arguments.methods, arguments.seed, arguments.allow_imports)


def _check_columns(columns: Sequence[str], arguments: CompareArguments) -> None:
    """Raise `ConfigError` for misspelt columns before anything is selected; a score may still add its columns."""
    from hf_datasel.scores import score_for_column

    for name in (*(arguments.scores or ()), *filter(None, (arguments.clusters, arguments.vectors))):
        if name not in columns and score_for_column(name) is None:
            raise ConfigError(f"There is no column {name!r} in the dataset.{did_you_mean(name, columns)}")


def _title(comparison: Comparison, dataset_name: str | None) -> str:
    file = dataset_title(dataset_name) if dataset_name else f"{comparison['dataset']['rows']:,} rows"
    count = len(comparison["selections"])
    return f"{count} selection{'' if count == 1 else 's'} from {comparison['dataset'].get('name') or file}"


def _select_with(
    methods: Sequence[Method],
    dataset: Any,
    arguments: CompareArguments,
    folder: Path,
    columns: Mapping[str, str] | None,
) -> tuple[dict[str, Selection], list[Failure]]:
    """Select rows with each method or reuse an earlier selection; return the selections by name, and the failures."""
    from hf_datasel.selection import SelectionSession
    from hf_datasel.selection.provenance import without_paths

    shared = _shared_record(len(dataset), arguments)
    selecting = SelectionSession(
        dataset,
        arguments.model_name_or_path,
        scoring_tokens_per_batch=arguments.scoring_tokens_per_batch,
        columns=columns,
    )
    size, ratio, tokens = arguments.selection_size, arguments.selection_ratio, arguments.selection_tokens
    mapped = {"mapping": columns} if columns else {}
    cache = SelectionCache(folder, dataset, {**shared, **mapped, "dataset": selecting.pool.id})
    selections: dict[str, Selection] = {}
    failures: list[Failure] = []
    try:
        for method in methods:
            try:
                saved = cache.load(method)
                selection = saved
                if selection is None:
                    selection = selecting.select(method.selector, size, ratio, method.seed, tokens=tokens)
            except DataselError as error:
                spec = without_paths(method.selector.spec())
                failures.append({"name": method.name, "selector": spec, "error": error.cli_message})
                # Printed here as well as at the end, since other methods may take hours.
                print(f"{method.name}: failed. {error.cli_message}", file=sys.stderr)
                continue
            selections[method.name] = selection
            try:
                if saved is None:
                    cache.save(method, selection)
            except SelectionError as error:  # it can be compared all the same
                print(f"{method.name}: {len(selection.indices):,} rows. {error.cli_message}", file=sys.stderr)
                continue
            print(f"{method.name}: {len(selection.indices):,} rows, in {cache.folders[method.name]}.")
    except KeyboardInterrupt:
        print(f"\nInterrupted. Run the same command again to continue with what is in {folder}.", file=sys.stderr)
        raise
    if unused := cache.unused_folders():
        print(f"Also in {folder}, from earlier comparisons and not part of this one: {', '.join(unused)}.")
    return selections, failures


def _shared_record(num_rows: int, arguments: CompareArguments) -> dict[str, Any]:
    """Return the budget and the model, which are the same for all methods, as the cache records them."""
    from hf_datasel.scoring.models import model_identity
    from hf_datasel.selection import resolve_size

    size, ratio, tokens = arguments.selection_size, arguments.selection_ratio, arguments.selection_tokens
    if tokens is not None and (size is not None or ratio is not None):
        raise ConfigError("selection_tokens excludes selection_size and selection_ratio. Pass one of them.")
    names = ("selection_size", "selection_ratio")
    budget = {"rows": resolve_size(num_rows, size, ratio, names)} if tokens is None else {"tokens": tokens}
    model = arguments.model_name_or_path
    return {**budget, "model": None if model is None else model_identity(model)}


def _print_comparison(comparison: Comparison) -> None:
    from hf_datasel.cards.comparison import chance_sentence, notes, overlap_table, overview_table

    print("\n" + _text_table(*overview_table(comparison)))
    for failure in comparison["failures"]:
        print(f"{failure['name']}: failed. {failure['error']}")
    print(" ".join(notes(comparison)))
    if len(comparison["selections"]) > 1:
        print("\nJaccard (rows in both / rows in either)\n" + _text_table(*overlap_table(comparison)))
        print(chance_sentence(comparison))


def _text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as text, with names left-aligned and numbers right-aligned."""
    lines = [[_shorten(name), *cells] for name, *cells in rows]
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    return "\n".join(
        "  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]).rstrip()
        for name, *cells in (head, *lines)
    )


def _shorten(name: str) -> str:
    return name if len(name) <= _NAME_WIDTH else f"{name[: _NAME_WIDTH - 1]}…"
