"""Results of the quickstart: a table, a figure and the numbers as JSON."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_datasel import Selection
from hf_datasel.analysis import jaccard_matrix, plot_rounds
from hf_datasel.cards.build import gather
from hf_datasel.cards.facts import Result
from hf_datasel.cards.report import write_report as write_html_report

BATCH = 32
DESCRIPTIONS = {"random": "random rows", "whole pool": "the whole pool"}
STYLES = {"half junk": ("o", "#20639b", "#20639b"), "no junk": ("s", "#e07b39", "white")}  # marker, edge, face

COMPARISON = """What is compared: before each of three epochs, IterIT computes with the current model how much
each question lowers the perplexity of its answer (IFD: below 1 it helps, and the closer to 1 the less). It selects the
5 % of rows with a high IFD below 1 and n-grams that no selected row has yet. The other methods train for the same
number of steps on a random 5 % of the rows, drawn once, or on the whole pool."""

LIMITATIONS = """Limitations:

- The methods are compared at equal steps, not at equal time (last column of the table). In the time that IterIT needs,
  the other two could train for more steps.
- The gain is not only a better ability to answer. No test prompt is in a pool, but a training row may state the fact
  that a test question asks for.
- All seeds use the same base model. They differ in the pool and in the order of training.
- The data is synthetic, with one kind of junk. The results say nothing about real data."""


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        accuracy: Share of the 512 questions answered with an exact match.
        unique_rows: Number of different rows trained on.
        junk: Share of the rows selected in all rounds whose answer is "I do not know.".
        seconds: Duration of training, including selection.
        selections: One selection per round.
        folder: Folder in which the selections were saved.
    """

    pool: str
    method: str
    seed: int
    accuracy: float
    steps: int
    unique_rows: int
    junk: float
    seconds: float
    selections: Sequence[Selection]
    folder: Path

    @property
    def selection_seconds(self) -> float:
        """Seconds spent on scoring and selection."""
        return sum(selection.provenance["seconds"] for selection in self.selections)


def write_report(runs: list[Run], untrained: float, output: Path) -> str:
    """Write `results.json`, `results.md`, `quickstart.png` and an HTML report on one run.

    Returns:
        The text of `results.md`.
    """
    text = "\n\n".join(
        [
            COMPARISON,
            accuracies(runs, untrained),
            overlaps(runs),
            describe_results(runs),
            LIMITATIONS,
            describe_files(runs, output),
        ]
    )
    (output / "results.md").write_text(f"# Quickstart\n\n{text}\n", encoding="utf-8")
    numbers = {"untrained": untrained, "runs": [run_to_json(run, output) for run in runs]}
    (output / "results.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    draw(runs, untrained).savefig(output / "quickstart.png", dpi=150)
    [first] = runs_with(runs, pool=runs[0].pool, seed=runs[0].seed, method="IterIT")
    facts = gather(
        first.selections,
        first.selections[-1].dataset,
        title="IterIT on the synthetic quickstart data",
        results=evaluation_results(runs, untrained, first.pool),
    )
    write_html_report(facts, output / "report")
    return f"\n{text}"


def evaluation_results(runs: list[Run], untrained: float, pool: str) -> list[Result]:
    """Return the accuracies on one pool, for the HTML report."""
    plain = {
        "IterIT": "rows selected by IterIT (this run)",
        "random": "the same number of random rows",
        "whole pool": "the whole pool",
    }
    accuracies = {"nothing (the base model)": [untrained]}
    accuracies |= {
        plain[method]: [run.accuracy for run in runs_with(runs, pool=pool, method=method)] for method in plain
    }
    return [
        {
            "trained_on": trained_on,
            "metric": "exact match",
            "dataset": "512 questions",
            "value": float(np.mean(values)),
            "note": f"mean of {len(values)} seeds, {min(values):.3f} to {max(values):.3f}" if len(values) > 1 else "",
        }
        for trained_on, values in accuracies.items()
    ]


def run_to_json(run: Run, output: Path) -> dict[str, object]:
    """Return a run without its selections, which are saved separately."""
    plain = {field.name: getattr(run, field.name) for field in fields(run) if field.name != "selections"}
    return plain | {
        "folder": str(run.folder.relative_to(output)),
        "selection_seconds": run.selection_seconds,
        "selected": [len(selection.indices) for selection in run.selections],
        "jaccard": jaccard_matrix(run.selections).tolist(),
    }


# -- the text --------------------------------------------------------------------------------------------------------
def accuracies(runs: list[Run], untrained: float) -> str:
    """Return the main table: accuracy by method and pool, number of rows and duration."""
    pools, seeds = names(runs, "pool"), names(runs, "seed")
    head = ["method", *(f"accuracy, {pool}" for pool in pools), f"unique rows, {pools[0]}", "seconds (selection)"]
    rows = [["untrained", *(f"{untrained:.3f}" for _ in pools), "", ""]]
    for method in names(runs, "method"):
        of_method = runs_with(runs, method=method)
        scores = [spread([run.accuracy for run in runs_with(of_method, pool=pool)]) for pool in pools]
        unique = np.mean([run.unique_rows for run in runs_with(of_method, pool=pools[0])])
        junk = np.mean([run.junk for run in runs_with(of_method, pool=pools[0])])
        seconds = np.mean([run.seconds for run in of_method])
        selection_seconds = np.mean([run.selection_seconds for run in of_method])
        rows.append([method, *scores, f"{unique:,.0f} ({junk:.0%} junk)", f"{seconds:.1f} ({selection_seconds:.1f})"])
    seed_range = (
        f"mean over seeds {', '.join(map(str, seeds))} (lowest to highest)" if len(seeds) > 1 else f"seed {seeds[0]}"
    )
    steps = " or ".join(map(str, names(runs, "steps")))
    intro = (
        f"Share of 512 questions answered with an exact match after {steps} steps of {BATCH} rows, {seed_range}. "
        "Seconds are means over both pools."
    )
    return f"{intro}\n\n{table(head, rows)}"


def overlaps(runs: list[Run]) -> str:
    """Return the table of the overlap between the rounds of IterIT."""
    matrices = {pool: jaccards(runs, pool) for pool in names(runs, "pool")}
    last = runs_with(runs, method="IterIT")[0].selections[-1]
    window, size = last.provenance["rows_scored"], last.provenance["selected"]
    rows = [
        [
            f"{first} and {second}",
            *(spread([matrix[first, second] for matrix in of_pool]) for of_pool in matrices.values()),
        ]
        for first, second in combinations(range(len(runs_with(runs, method="IterIT")[0].selections)), 2)
    ]
    intro = (
        f"Overlap of the rows of two rounds of IterIT (Jaccard similarity). Every round selects {size:,} of the same "
        f"{window:,} rows, so random selection would give about {size / (2 * window - size):.3f}."
    )
    return f"{intro}\n\n{table(['rounds', *matrices], rows)}"


def describe_results(runs: list[Run]) -> str:
    """Return one sentence per pool that compares IterIT with the other methods."""
    sentences = []
    for pool in names(runs, "pool"):
        iterit = {run.seed: run.accuracy for run in runs_with(runs, pool=pool, method="IterIT")}
        clauses = []
        for method in names(runs, "method")[1:]:
            gaps = [iterit[run.seed] - run.accuracy for run in runs_with(runs, pool=pool, method=method)]
            difference = (
                f"{abs(np.mean(gaps)):.3f} {'more' if np.mean(gaps) > 0 else 'less'} than on {DESCRIPTIONS[method]}"
            )
            clauses.append(f"{difference} (more with {sum(gap > 0 for gap in gaps)} of {len(gaps)} seeds)")
        sentences.append(
            f"- {pool.capitalize()}: trained on IterIT's rows, the model scores {', and '.join(clauses)}."
        )
    return "Comparison:\n\n" + "\n".join(sentences)


def describe_files(runs: list[Run], output: Path) -> str:
    """Return a sentence with the paths of the written files."""
    folder = runs[0].folder.relative_to(output)
    return (
        f"Written to {output}/: report/report.html (a report on the rows of one run), results.md (this text), "
        f"results.json, quickstart.png, and the selections of each run, such as {folder}/round-0 (read them with "
        "hf_datasel.Selection.load)."
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table with aligned columns."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in [head, *rows]]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: Sequence[float]) -> str:
    """Return the mean, and the lowest and highest value if there are several."""
    mean = f"{np.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f} to {max(values):.3f})"


# -- the figure ------------------------------------------------------------------------------------------------------
def draw(runs: list[Run], untrained: float) -> Figure:
    """Draw the scores selected per round, the overlap between rounds, and accuracy by method."""
    pool, seed = runs[0].pool, runs[0].seed
    figure = Figure(figsize=(13.5, 4.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.25, 1, 1.45])
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    [first] = runs_with(runs, pool=pool, seed=seed, method="IterIT")
    plot_rounds(first.selections, "ifd", ax=left, log=True)
    left.yaxis.set_major_formatter("{x:g}")
    left.axhline(1, color="0.3", linewidth=1, linestyle=":")
    left.text(2.45, 1.08, "never selected above 1", ha="right", fontsize=8, color="0.3")
    left.set_ylabel("IFD under the model of the round")
    left.set_title(f"What IterIT selected ({pool}, seed {seed})", fontsize=10.5, loc="left")
    left.legend(frameon=False, loc="upper right", fontsize=9)
    draw_overlap(middle, np.mean(jaccards(runs, pool), axis=0))
    middle.set_title(f"Overlap of its rounds ({pool}, mean)", fontsize=10.5, loc="left")
    draw_accuracy(right, runs, untrained)
    return figure


def draw_overlap(ax: Axes, matrix: np.ndarray) -> None:
    """Draw a matrix of Jaccard similarities as colored cells with numbers."""
    ax.imshow(matrix, cmap="Blues", vmin=0, vmax=1.25)  # no cell gets the darkest color
    for (row, column), value in np.ndenumerate(matrix):
        ax.text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.75 else "black")
    ticks = range(len(matrix))
    ax.set_xticks(ticks, [f"round {index}" for index in ticks])
    ax.set_yticks(ticks, [f"round {index}" for index in ticks])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def draw_accuracy(ax: Axes, runs: list[Run], untrained: float) -> None:
    """Draw one dot per seed and a line at the mean, for each method and pool."""
    methods, pools = names(runs, "method"), names(runs, "pool")
    for shift, pool in zip(np.linspace(-0.19, 0.19, len(pools)), pools, strict=True):
        marker, edge, face = STYLES[pool]
        for index, method in enumerate(methods):
            values = [run.accuracy for run in runs_with(runs, pool=pool, method=method)]
            x, mean = index + shift, float(np.mean(values))
            jitter = np.linspace(-0.07, 0.07, len(values)) if len(values) > 1 else [0.0]
            ax.hlines(mean, x - 0.15, x + 0.15, color=edge, linewidth=2)
            label = f"{pool} in the pool" if index == 0 else None
            ax.scatter(
                x + np.asarray(jitter),
                values,
                marker=marker,
                s=34,
                edgecolor=edge,
                facecolor=face,
                linewidth=1.3,
                zorder=3,
                label=label,
            )
            ax.annotate(f"{mean:.2f}", (x, max(values)), (0, 7), textcoords="offset points", ha="center", fontsize=9)
    ax.axhline(untrained, color="0.4", linewidth=1, linestyle="--", zorder=0)
    ax.annotate(
        "untrained",
        (0.005, untrained),
        (0, 3),
        xycoords=ax.get_yaxis_transform(),
        textcoords="offset points",
        fontsize=8,
        color="0.3",
    )
    ax.set_xticks(range(len(methods)), methods)
    ax.set_xlim(-0.55, len(methods) - 0.45)
    ax.set_ylim(0, 1)
    ax.set_ylabel("share of questions answered")
    ax.set_title("Accuracy: one dot per seed, line at the mean", fontsize=10.5, loc="left")
    ax.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 0.03), fontsize=9)


# -- the runs --------------------------------------------------------------------------------------------------------
def names(runs: list[Run], attribute: str) -> list[str]:
    """Return the different values of an attribute, in the order of the runs."""
    return list(dict.fromkeys(getattr(run, attribute) for run in runs))


def runs_with(runs: list[Run], **values: object) -> list[Run]:
    """Return the runs with these values of their attributes."""
    return [run for run in runs if all(getattr(run, name) == value for name, value in values.items())]


def jaccards(runs: list[Run], pool: str) -> list[np.ndarray]:
    """Return the overlap between the rounds of IterIT, one matrix per seed."""
    return [jaccard_matrix(run.selections) for run in runs_with(runs, pool=pool, method="IterIT")]
