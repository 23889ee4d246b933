"""`hf-datasel browse`: write a page with the rows of a dataset and what selections made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hf_datasel.cli.arguments import (
    DatasetArguments,
    dataset_title,
    log_to_stderr,
    parse,
    record_columns,
)
from hf_datasel.cli.saved_selections import load_selections
from hf_datasel.errors import ConfigError
from hf_datasel.scoring.progress import only_drawn_bars

__all__ = ["BrowseArguments", "run"]


@dataclass
class BrowseArguments:
    """Settings of the page."""

    selection: list[str] | None = field(
        default=None, metadata={"help": "Folders of saved selections of one dataset; two are compared row by row."}
    )
    output_file: str = field(
        default="browse.html",
        metadata={"help": "HTML file to write. It contains the rows, and loads nothing from a network."},
    )
    title: str | None = field(
        default=None, metadata={"help": "Title of the page; by default the methods and the name of the dataset."}
    )
    max_characters: int = field(
        default=2_000, metadata={"help": "Characters at which a prompt or a response is cut; the page says where."}
    )
    max_rows: int = field(
        default=100_000,
        metadata={
            "help": "Largest number of rows. Of a larger dataset the page has the selected rows, and a random sample "
            "of the others."
        },
    )


def run(argv: Sequence[str]) -> None:
    """Write a page with all rows, and print its path."""
    dataset_arguments, arguments = parse((DatasetArguments, BrowseArguments), argv, "browse")
    if not arguments.selection:
        raise ConfigError("No selection is named. Pass --selection FOLDER, or put it into the config file.")
    log_to_stderr()
    from hf_datasel.cards.browse import write_browse

    selections = load_selections(arguments.selection, "selection")
    record_columns(selections.values(), dataset_arguments.mapping)
    recorded = next((selection.columns for selection in selections.values() if selection.columns), None)
    with only_drawn_bars():
        dataset = dataset_arguments.load(recorded)
        title = arguments.title or f"{', '.join(selections)} on {dataset_title(str(dataset_arguments.dataset_name))}"
        path = write_browse(
            selections,
            dataset,
            Path(arguments.output_file).expanduser(),
            title=str(title),
            max_characters=arguments.max_characters,
            max_rows=arguments.max_rows,
        )
    size = path.stat().st_size / 1e6
    print(f"Written to {path} ({size:.1f} MB, all in one file). It contains rows: share it as you would share them.")
