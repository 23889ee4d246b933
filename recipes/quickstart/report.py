"""What the quickstart's runs gave: a table, a figure and the numbers behind them."""

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
from hf_datasel.cards.report import write_report as write_page

BATCH = 32
PLAIN = {"random": "random rows", "whole pool": "the whole pool"}
STYLES = {"half junk": ("o", "#20639b", "#20639b"), "no junk": ("s", "#e07b39", "white")}  # marker, edge, face

IN_WORDS = """What is compared: before each of three epochs, IterIT asks the model as it is then how much each question
helps it with its answer (IFD: below 1 it helps, and the closer to 1 the less) and takes the 5 % of rows that are
hardest and say something new. The others train on 5 % of the rows, drawn once, or on the whole pool, for as many
steps."""

CAVEATS = """What they do not show:

- That selecting is worth its time. Steps are equal, seconds are not (last column of the table): for as long as IterIT
  took, the other two could have trained for more steps.
- That the gain is skill alone. No test prompt is in a pool, but a row that was trained on may state the fact that a
  test question asks for.
- How much another base model would change: all seeds start from the same one, and differ in pool and training order.
- Anything about real data. The people, the questions and the junk are made up, and the junk is of one kind."""


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        accuracy: share of the 512 questions answered word for word.
        different_rows: rows trained on, each counted once.
        junk: share of the rows chosen, over all rounds, that are answered "I do not know.".
        seconds: of training, with selecting.
        selections: one a round.
        folder: where these were saved.
    """

    pool: str
    method: str
    seed: int
    accuracy: float
    steps: int
    different_rows: int
    junk: float
    seconds: float
    selections: Sequence[Selection]
    folder: Path

    @property
    def selecting(self) -> float:
        """Seconds spent on scoring and choosing."""
        return sum(selection.provenance["seconds"] for selection in self.selections)


def write_report(runs: list[Run], untrained: float, output: Path) -> str:
    """Write `results.json`, `results.md`, `quickstart.png` and a page about one selection.

    What was written to `results.md` comes back.
    """
    text = "\n\n".join(
        [IN_WORDS, accuracies(runs, untrained), overlaps(runs), meaning(runs), CAVEATS, places(runs, output)]
    )
    (output / "results.md").write_text(f"# Quickstart\n\n{text}\n", encoding="utf-8")
    numbers = {"untrained": untrained, "runs": [as_json(run, output) for run in runs]}
    (output / "results.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    draw(runs, untrained).savefig(output / "quickstart.png", dpi=150)
    [first] = where(runs, pool=runs[0].pool, seed=runs[0].seed, method="IterIT")
    facts = gather(
        first.selections,
        first.selections[-1].dataset,
        title="IterIT in a made-up world",
        results=measured(runs, untrained, first.pool),
    )
    write_page(facts, output / "report")
    return f"\n{text}"


def measured(runs: list[Run], untrained: float, pool: str) -> list[Result]:
    """List the accuracies on one pool, for the page."""
    plain = {"IterIT": "rows of IterIT, as here", "random": "as many random rows", "whole pool": "the whole pool"}
    values = {"nothing (the base model)": [untrained]}
    values |= {plain[method]: [run.accuracy for run in where(runs, pool=pool, method=method)] for method in plain}
    return [
        {
            "trained_on": trained_on,
            "metric": "exact match",
            "dataset": "512 questions",
            "value": float(np.mean(found)),
            "note": f"mean of {len(found)} seeds, {min(found):.3f} to {max(found):.3f}" if len(found) > 1 else "",
        }
        for trained_on, found in values.items()
    ]


def as_json(run: Run, output: Path) -> dict[str, object]:
    """Everything about a run but the selections, which are files of their own."""
    plain = {each.name: getattr(run, each.name) for each in fields(run) if each.name != "selections"}
    return plain | {
        "folder": str(run.folder.relative_to(output)),
        "selecting": run.selecting,
        "chosen": [len(selection.indices) for selection in run.selections],
        "jaccard": jaccard_matrix(run.selections).tolist(),
    }


# -- the text --------------------------------------------------------------------------------------------------------
def accuracies(runs: list[Run], untrained: float) -> str:
    """Build the main table: accuracy by method and pool, and what it took."""
    pools, seeds = names(runs, "pool"), names(runs, "seed")
    head = ["method", *(f"accuracy, {pool}" for pool in pools), f"different rows, {pools[0]}", "seconds (selecting)"]
    rows = [["untrained", *(f"{untrained:.3f}" for _ in pools), "", ""]]
    for method in names(runs, "method"):
        of_method = where(runs, method=method)
        scores = [spread([run.accuracy for run in where(of_method, pool=pool)]) for pool in pools]
        seen = np.mean([run.different_rows for run in where(of_method, pool=pools[0])])
        junk = np.mean([run.junk for run in where(of_method, pool=pools[0])])
        seconds = np.mean([run.seconds for run in of_method])
        selecting = np.mean([run.selecting for run in of_method])
        rows.append([method, *scores, f"{seen:,.0f} ({junk:.0%} junk)", f"{seconds:.1f} ({selecting:.1f})"])
    over = (
        f"mean over seeds {', '.join(map(str, seeds))} (lowest to highest)" if len(seeds) > 1 else f"seed {seeds[0]}"
    )
    steps = " or ".join(map(str, names(runs, "steps")))
    intro = (
        f"Share of 512 questions answered word for word after {steps} steps of {BATCH} rows, {over}. Seconds are "
        "means over both pools."
    )
    return f"{intro}\n\n{table(head, rows)}"


def overlaps(runs: list[Run]) -> str:
    """Build the table of what the rounds of IterIT share."""
    found = {pool: jaccards(runs, pool) for pool in names(runs, "pool")}
    last = where(runs, method="IterIT")[0].selections[-1]
    window, size = last.provenance["rows_scored"], last.provenance["chosen"]
    rows = [
        [f"{one} and {other}", *(spread([matrix[one, other] for matrix in of_pool]) for of_pool in found.values())]
        for one, other in combinations(range(len(where(runs, method="IterIT")[0].selections)), 2)
    ]
    intro = (
        f"Rows that two rounds of IterIT have in common (Jaccard). Every round chooses {size:,} of the same "
        f"{window:,} rows, so that chance would give about {size / (2 * window - size):.3f}."
    )
    return f"{intro}\n\n{table(['rounds', *found], rows)}"


def meaning(runs: list[Run]) -> str:
    """Say in one sentence a pool how IterIT did, whatever it was."""
    sentences = []
    for pool in names(runs, "pool"):
        ours = {run.seed: run.accuracy for run in where(runs, pool=pool, method="IterIT")}
        clauses = []
        for method in names(runs, "method")[1:]:
            gaps = [ours[run.seed] - run.accuracy for run in where(runs, pool=pool, method=method)]
            than = f"{abs(np.mean(gaps)):.3f} {'more' if np.mean(gaps) > 0 else 'less'} than on {PLAIN[method]}"
            clauses.append(f"{than} (ahead with {sum(gap > 0 for gap in gaps)} of {len(gaps)} seeds)")
        sentences.append(
            f"- {pool.capitalize()}: trained on IterIT's rows, the model scores {', and '.join(clauses)}."
        )
    return "What the numbers mean:\n\n" + "\n".join(sentences)


def places(runs: list[Run], output: Path) -> str:
    """Say where things are."""
    folder = runs[0].folder.relative_to(output)
    return (
        f"Written to {output}/: report/report.html (open it: a page about the rows of one run), results.md (this), "
        f"results.json, quickstart.png, and the selections of each run, such as {folder}/round-0 (read them with "
        "hf_datasel.Selection.load)."
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    """Lay a Markdown table out so that it can be read as it is."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in [head, *rows]]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: Sequence[float]) -> str:
    """Mean, and the lowest and highest where there are several."""
    mean = f"{np.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f} to {max(values):.3f})"


# -- the figure ------------------------------------------------------------------------------------------------------
def draw(runs: list[Run], untrained: float) -> Figure:
    """Draw the scores chosen per round, the overlap between rounds, and accuracy by method."""
    pool, seed = runs[0].pool, runs[0].seed
    figure = Figure(figsize=(13.5, 4.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.25, 1, 1.45])
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    [first] = where(runs, pool=pool, seed=seed, method="IterIT")
    plot_rounds(first.selections, "ifd", ax=left, log=True)
    left.yaxis.set_major_formatter("{x:g}")
    left.axhline(1, color="0.3", linewidth=1, linestyle=":")
    left.text(2.45, 1.08, "never chosen above", ha="right", fontsize=8, color="0.3")
    left.set_ylabel("IFD, by the model of the round")
    left.set_title(f"What IterIT chose ({pool}, seed {seed})", fontsize=10.5, loc="left")
    left.legend(frameon=False, loc="upper right", fontsize=9)
    draw_overlap(middle, np.mean(jaccards(runs, pool), axis=0))
    middle.set_title(f"Overlap of its rounds ({pool}, mean)", fontsize=10.5, loc="left")
    draw_accuracy(right, runs, untrained)
    return figure


def draw_overlap(ax: Axes, matrix: np.ndarray) -> None:
    """Draw a matrix of Jaccard similarities as shaded cells with their numbers."""
    ax.imshow(matrix, cmap="Blues", vmin=0, vmax=1.25)  # the darkest cell stays light enough for its frame
    for (row, column), value in np.ndenumerate(matrix):
        ax.text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.75 else "black")
    ticks = range(len(matrix))
    ax.set_xticks(ticks, [f"round {each}" for each in ticks])
    ax.set_yticks(ticks, [f"round {each}" for each in ticks])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def draw_accuracy(ax: Axes, runs: list[Run], untrained: float) -> None:
    """Draw a dot a seed and a line at the mean, method by method and pool by pool."""
    methods, pools = names(runs, "method"), names(runs, "pool")
    for shift, pool in zip(np.linspace(-0.19, 0.19, len(pools)), pools, strict=True):
        marker, edge, face = STYLES[pool]
        for at, method in enumerate(methods):
            values = [run.accuracy for run in where(runs, pool=pool, method=method)]
            x, mean = at + shift, float(np.mean(values))
            jitter = np.linspace(-0.07, 0.07, len(values)) if len(values) > 1 else [0.0]
            ax.hlines(mean, x - 0.15, x + 0.15, color=edge, linewidth=2)
            label = f"{pool} in the pool" if at == 0 else None
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
    ax.set_title("Accuracy: a dot a seed, a line at the mean", fontsize=10.5, loc="left")
    ax.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 0.03), fontsize=9)


# -- the runs --------------------------------------------------------------------------------------------------------
def names(runs: list[Run], attribute: str) -> list[str]:
    """List the values of an attribute, in the order of the runs."""
    return list(dict.fromkeys(getattr(run, attribute) for run in runs))


def where(runs: list[Run], **values: object) -> list[Run]:
    """List the runs with these values."""
    return [run for run in runs if all(getattr(run, name) == value for name, value in values.items())]


def jaccards(runs: list[Run], pool: str) -> list[np.ndarray]:
    """Compute the overlap between the rounds of IterIT, one matrix a seed."""
    return [jaccard_matrix(run.selections) for run in where(runs, pool=pool, method="IterIT")]
