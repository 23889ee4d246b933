"""Results of the quickstart: the tables of the two experiments, what IterIT selected, and a report on one run."""

from itertools import combinations
from pathlib import Path

import numpy as np
from world import UNKNOWN

from hf_datasel import Selection
from hf_datasel.analysis import jaccard_matrix
from hf_datasel.cards.build import gather
from hf_datasel.cards.report import write_report as write_html_report
from hf_datasel.evaluation import ExperimentResults
from hf_datasel.formats import load_pool

COMPARISON = """What is compared: before each of three epochs, IterIT computes with the current model how much each
question lowers the perplexity of its answer (IFD: below 1 it helps, and the closer to 1 the less). It selects the 5 %
of rows with a high IFD below 1 and n-grams that no selected row has yet. Superfiltering selects the 5 % with the
highest IFD below 1 once, with the model before training. The other methods train for the same number of steps on a
random 5 % of the rows, drawn once, or on the whole pool. Numbers are points: percent of 512 questions answered with an
exact match."""

LIMITATIONS = """Limitations:

- The methods are compared at equal steps, not at equal compute: see the last column of the tables. For the compute
  that IterIT needs, the other methods could train for more steps.
- The gain is not only a better ability to answer. No test prompt is in a pool, but a training row may state the fact
  that a test question asks for.
- All runs use the same base model and the same pool. They differ in the order of training and in what is drawn.
- The data is synthetic, with one kind of junk. The results say nothing about real data."""


def write_report(results: dict[str, ExperimentResults], output: Path) -> str:
    """Write `results.md` and an HTML report on one run, and return the text of `results.md`.

    Args:
        results: Results of the experiment on each pool, by its name.
        output: Folder to write to.
    """
    parts = [COMPARISON]
    for name, of_pool in results.items():
        parts += [f"## {name.replace('-', ' ').capitalize()}", of_pool.to_markdown().strip(), selected(of_pool)]
    text = "\n\n".join([*parts, "## Reading the tables", LIMITATIONS, describe_files(output)])
    (output / "results.md").write_text(f"# Quickstart\n\n{text}\n", encoding="utf-8")
    first = next(iter(results.values()))
    facts = gather(
        selections(first, 0),
        pool_of(first),
        title="IterIT on the synthetic quickstart data",
        results=first.results("iterit"),
    )
    write_html_report(facts, output / "report")
    return f"\n{text}"


def pool_of(results: ExperimentResults) -> object:
    """Return the rows of an experiment."""
    return load_pool(results.experiment.dataset_name)


def selections(results: ExperimentResults, run: int, method: str = "iterit") -> list[Selection]:
    """Return the selection of each round of a run."""
    folder = results.experiment.folder / results.runs_of(method)[run].folder / "model" / "selections"
    return [Selection.load(path) for path in sorted(folder.glob("round-*"))]


def selected(results: ExperimentResults) -> str:
    """Return how many of the selected rows are junk, and how much the rounds of IterIT overlap."""
    completions = pool_of(results)["completion"]
    shares = []
    for method in ("random", "iterit", "superfiltering"):
        rows = [row for part in selections(results, 0, method) for row in part.indices.tolist()]
        junk = sum(completions[row] == UNKNOWN for row in rows)
        shares.append(f"{method} {junk / len(rows):.0%}")
    matrices = [jaccard_matrix(selections(results, run)) for run in range(len(results.runs_of("iterit")))]
    mean = np.mean(matrices, axis=0)
    overlaps = ", ".join(
        f"{first} and {second} {mean[first, second]:.2f}" for first, second in combinations(range(len(mean)), 2)
    )
    return (
        f"Share of junk among the selected rows, first run: {', '.join(shares)}. Overlap of the rounds of IterIT "
        f"(Jaccard similarity, mean over runs): {overlaps}."
    )


def describe_files(output: Path) -> str:
    """Return a sentence with the paths of the written files."""
    return (
        f"Written to {output}/: report/report.html (a report on the rows of one run), results.md (this text), and for "
        "each pool a folder with its bench.yaml, results.json, the plots forest.png and cost.png, and the runs in "
        "cells/ (read their selections with hf_datasel.Selection.load)."
    )
