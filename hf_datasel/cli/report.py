"""`hf-datasel report`: write a page about a selection or a training run."""

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
from hf_datasel.cli.output_folder import create_output_folder
from hf_datasel.cli.stale_plots import linked_plots, remove_stale_plots
from hf_datasel.errors import ConfigError
from hf_datasel.scoring.progress import only_drawn_bars

__all__ = ["ReportArguments", "RunArguments", "run", "run_folder"]


@dataclass
class RunArguments:
    """The selection or training run, and evaluation results of models trained on its rows."""

    selection: str | None = field(
        default=None,
        metadata={"help": "Folder of a saved selection, or output_dir of a training run, for all its rounds."},
    )
    results: str | None = field(
        default=None,
        metadata={
            "help": "JSON file with evaluation results of models trained on the rows: a list of objects with "
            "trained_on, metric, dataset, value and, optionally, note and the other keys of hf_datasel.cards.Result, "
            "such as runs and intervals."
        },
    )


@dataclass
class ReportArguments(RunArguments):
    """Settings of the page."""

    title: str | None = field(
        default=None, metadata={"help": "Title of the report; by default the method and the name of the dataset."}
    )
    output_dir: str = field(
        default="outputs/report", metadata={"help": "Folder for report.html, report.md, plots/ and facts.json."}
    )


def run(argv: Sequence[str]) -> None:
    """Write a page about a selection or a training run, and print its path."""
    dataset_arguments, arguments = parse((DatasetArguments, ReportArguments), argv, "report")
    log_to_stderr()
    from hf_datasel.cards.build import gather, read_run
    from hf_datasel.cards.report import default_title, read_results, write_report

    selections, training = read_run(run_folder(arguments.selection))
    results = read_results(str(arguments.results)) if arguments.results else []
    record_columns(selections, dataset_arguments.mapping)
    folder = create_output_folder(arguments.output_dir)
    with only_drawn_bars():
        dataset = dataset_arguments.load(selections[-1].columns) if dataset_arguments.dataset_name else None
        if dataset is not None:
            selections[-1].apply(dataset)  # raises if it is another dataset
        facts = gather(selections, dataset, title=str(arguments.title or ""), training=training, results=results)
    name = dataset_arguments.dataset_name
    facts["title"] = facts["title"] or default_title(facts, dataset_title(name) if name else "")
    plots_before = linked_plots(folder / "report.md")
    paths = write_report(facts, folder)
    remove_stale_plots(plots_before, paths)
    plots = sum(path.suffix == ".png" for path in paths)
    if dataset is None:
        print("Without --dataset_name it has no response lengths and no baselines.")
    print(f"Written to {folder}: report.html (all in one file), report.md, facts.json and {plots} images in plots/.")


def run_folder(selection: str | None) -> Path:
    """Return the folder of a selection or a training run.

    Args:
        selection: Folder of a selection, of a run, or the folder `selections` of a run.

    Raises:
        ConfigError: If no folder is named.
    """
    if not selection or not isinstance(selection, str):
        raise ConfigError("No selection is named. Pass --selection FOLDER, or put it into the config file.")
    folder = Path(selection).expanduser()
    return folder.resolve().parent if any(folder.glob("round-*/selection.json")) else folder
