"""`hf-datasel report`"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hf_datasel.cli.arguments import (
    DatasetArguments,
    bars_on_terminals,
    output_folder,
    parse,
    show_progress_messages,
)
from hf_datasel.cli.pages import linked_plots, remove_old
from hf_datasel.errors import ConfigError

if TYPE_CHECKING:
    from hf_datasel.cards.facts import Facts

__all__ = ["ReportArguments", "RunArguments", "run", "run_folder"]


@dataclass
class RunArguments:
    """What a page is about: a selection or a training run, and how well its rows do."""

    selection: str | None = field(
        default=None, metadata={"help": "Folder of a selection, or output_dir of a training run with all its rounds."}
    )
    results: str | None = field(
        default=None,
        metadata={
            "help": "JSON file with measurements of models trained on the rows: a list of objects with trained_on, "
            "metric, dataset, value and, if need be, note."
        },
    )


@dataclass
class ReportArguments(RunArguments):
    """Where the page goes."""

    title: str | None = field(default=None, metadata={"help": "Of the page; by default METHOD on DATASET."})
    output_dir: str = field(
        default="outputs/report", metadata={"help": "Folder for report.html, report.md, plots/ and facts.json."}
    )


def run(argv: Sequence[str]) -> None:
    """Write a page about a selection or a training run, and print where it is."""
    dataset_arguments, arguments = parse((DatasetArguments, ReportArguments), argv, "report")
    show_progress_messages()
    from hf_datasel.cards.build import gather
    from hf_datasel.cards.report import read_results, write_report
    from hf_datasel.cards.run import read_run

    selections, training = read_run(run_folder(arguments.selection))
    results = read_results(str(arguments.results)) if arguments.results else []
    folder = output_folder(arguments.output_dir)
    with bars_on_terminals():
        dataset = dataset_arguments.load() if dataset_arguments.dataset_name else None
        if dataset is not None:
            selections[-1].apply(dataset)  # refuses another dataset
        facts = gather(selections, dataset, title=str(arguments.title or ""), training=training, results=results)
    facts["title"] = facts["title"] or _title(facts, dataset_arguments.dataset_name)
    before = linked_plots(folder / "report.md")
    paths = write_report(facts, folder)
    remove_old(before, paths)
    plots = sum(path.suffix == ".png" for path in paths)
    if dataset is None:
        print("Without --dataset_name there are no response lengths and no baselines in it.")
    print(f"Written to {folder}: report.html (all in one file), report.md, facts.json and {plots} images in plots/.")


def run_folder(named: str | None) -> Path:
    """The folder of a selection or a run; that of the run, where the one with its selections is named.

    Raises:
        ConfigError: none is named.
    """
    if not named or not isinstance(named, str):
        raise ConfigError("No selection is named. Pass --selection FOLDER, or put it into the config file.")
    folder = Path(named).expanduser()
    return folder.resolve().parent if any(folder.glob("round-*/selection.json")) else folder


def _title(facts: Facts, dataset_name: str | None) -> str:
    file = Path(dataset_name).stem if dataset_name else f"{facts['parent']['rows']:,} rows"
    return f"{facts['method']['name']} on {facts['parent']['name'] or file}"
