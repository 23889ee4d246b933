"""Compare the strategies with baseline versions of them in one run, with equal selections.

For each strategy there are the package, a variant "done well", and a "plain" one (see `baselines.py`). Every case runs
in a separate process, on synthetic data that is the same for all variants, after a small warm-up run. "CPU s" is the
CPU time of all threads of the process, which other jobs on the machine affect less than wall time, and "times" is the
ratio of these; cases under two seconds are the best of three. "MB" is the peak memory during the selection minus the
memory before, which includes the data; "MB in all" is the peak of the process (Linux only). If all steps cost the
same, a baseline runs only the first ones, and the cost of the others is extrapolated: such figures have a ~. The last
column says whether the rows are the same, in order, and how many were compared if not all.

Run: python benchmarks/strategies.py
     python benchmarks/strategies.py --only k_center --sizes 12500 25000 50000
     python benchmarks/strategies.py --million
     python benchmarks/strategies.py --plot plots
Sizes are rows (for `zip_step` bytes). --data uses the texts of Alpaca-form JSON files instead of synthetic ones.
"""

import argparse
import json
import os
from argparse import Namespace as Args
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import baselines
import numpy as np
from ngram_greedy import full_rescan_greedy, made_up_texts
from side_by_side import (
    COLUMNS,
    LAZY,
    OURS,
    PLAIN,
    WELL,
    Case,
    Ids,
    Result,
    Strategy,
    cells,
    draw,
    line,
    machine,
    measured,
    save,
)

from hf_datasel import strategies

DECAY, THRESHOLD, ALPHA, BINS, TRIES = 0.1, 0.9, 0.5, 10, 10_000


# -- data ------------------------------------------------------------------------------------------------------------
def vectors(n: int, args: Args, dimensions: int) -> np.ndarray:
    """Unit vectors in groups, some tight and some wide, one in twenty a copy of another; or a normal distribution."""
    rng = np.random.default_rng(args.seed)
    result = np.empty((n, dimensions), dtype=np.float32)
    groups = int(np.clip(n // 20, 2, 2000))
    centres = rng.standard_normal((groups, dimensions), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    widths = rng.uniform(0.2, 0.8, groups).astype(np.float32) / np.sqrt(np.float32(dimensions))
    for start in range(0, n, 10_000):
        block = rng.standard_normal(result[start : start + 10_000].shape, dtype=np.float32)
        if args.vectors == "groups":
            group = rng.integers(groups, size=len(block))
            block = centres[group] + widths[group, None] * block
            block /= np.linalg.norm(block, axis=1, keepdims=True)
        result[start : start + 10_000] = block
    if args.vectors == "groups":
        result[: n // 20] = result[n // 2 : n // 2 + n // 20]
    return result


def vectors_alone(n: int, args: Args) -> tuple[Any, ...]:
    return (vectors(n, args, 384),)


def with_quality(dimensions: int) -> Callable[[int, Args], tuple[Any, ...]]:
    return lambda n, args: (vectors(n, args, dimensions), quality(n, args))


def quality(n: int, args: Args) -> np.ndarray:
    return np.random.default_rng(args.seed + 1).random(n)


def records(n: int, args: Args) -> list[dict[str, str]]:
    """Alpaca-form rows: the first of the files, or made up."""
    if not args.data:
        texts = made_up_texts(2 * n, np.random.default_rng(args.seed))
        return [{"instruction": texts[n + start][:120], "input": "", "output": texts[start]} for start in range(n)]
    rows = [row for file in args.data for row in json.loads(file.read_text(encoding="utf-8"))]
    if n > len(rows):
        raise SystemExit(f"{n:,} rows are more than the {len(rows):,} of --data. See --sizes.")
    return rows[:n]


def responses(n: int, args: Args) -> tuple[Any, ...]:
    if not args.data:
        return made_up_texts(n, np.random.default_rng(args.seed)), quality(n, args)
    return [row["output"] for row in records(n, args)], quality(n, args)


def with_weights(n: int, args: Args) -> tuple[Any, ...]:
    """n-gram weights and quality: what all ways of the n-gram greedy begin with."""
    texts, values = responses(n, args)
    return strategies.ngram.ngram_weights(texts), values


def zip_rows(n: int, args: Args) -> tuple[Any, ...]:
    """Rows as ZIP takes them, the sizes of its stages, the published ones for large pools, and threads."""
    sizes = (10_000, 200, 100) if n >= 100_000 else (1_000, 50, 25)
    return [str(row).encode() for row in records(n, args)], sizes, args.threads


def zip_step_rows(size: int, args: Args) -> tuple[Any, ...]:
    """Rows as ZIP takes them, the first of them that have so many bytes together, those to try next, and threads."""
    count = size // 200 + TRIES
    texts = zip_rows(min(count, args.rows) if args.data else count, args)[0]
    before = int(np.searchsorted(np.cumsum([len(text) for text in texts]), size))
    if before == len(texts):
        raise SystemExit(f"{size:,} bytes are all of --data, and none are left to try. See --sizes.")
    # files may have fewer rows to try: the same again, which cost the same
    return texts, list(range(before)), np.resize(np.arange(before, len(texts)), TRIES).tolist(), args.threads


# -- what has no single function in the package, or none in baselines.py ---------------------------------------------
def cluster_sampling(data: np.ndarray, budget: int) -> tuple[Ids, float]:
    """k-means by scikit-learn, one start of 20 steps on a sample of rows, then a uniform draw from each cluster."""
    from hf_datasel.scores import Cluster
    from hf_datasel.scoring.kmeans import nearest_centroids

    _, centroids = Cluster(k=round(len(data) ** 0.5), n_init=1, max_iter=20, max_fit_rows=131_072).find(data)
    ids, distances = nearest_centroids(data, centroids)
    drawn = strategies.clusters.sample_per_cluster(None, ids, budget, np.random.default_rng(0))
    return drawn, float(np.square(distances, dtype=np.float64).mean())


def library_sampling(data: np.ndarray, budget: int) -> tuple[Ids, float]:
    """The same as scikit-learn does it unless told otherwise: all rows, k-means++, until little moves."""
    from sklearn.cluster import KMeans

    fitted = KMeans(round(len(data) ** 0.5), random_state=42).fit(data)
    drawn = strategies.clusters.sample_per_cluster(None, fitted.labels_, budget, np.random.default_rng(0))
    return drawn, float(fitted.inertia_) / len(data)


def objective(data: np.ndarray, values: np.ndarray, selected: Ids) -> float:
    """Coverage and quality of a selection, as facility location weighs them."""
    units = baselines.units_of(data)
    covered = sum((block @ units[selected].T).max(axis=1).sum() for block in np.array_split(units, 16))
    return float((1 - ALPHA) * covered + ALPHA * values[selected].sum())


STRATEGIES = {
    "ngram": Strategy(
        "n-gram greedy",
        7_800,
        lambda n: n // 3,
        with_weights,
        {
            OURS: lambda *data: strategies.ngram.lazy_greedy(*data, DECAY),
            WELL: lambda *data: full_rescan_greedy(*data, DECAY),
            PLAIN: lambda *data: baselines.ngram_by_columns(*data, DECAY),
        },
        million=(50_000, {OURS: 50_000, WELL: 100}),
    ),
    "ngram_texts": Strategy(
        "n-gram greedy, from texts",
        7_800,
        lambda n: n // 3,
        responses,
        {OURS: lambda *data: strategies.ngram.ngram_greedy(*data, DECAY)},
        million=(50_000, {OURS: 50_000}),
    ),
    "zip": Strategy(
        "ZIP",
        1_500,
        lambda n: n // 10,
        zip_rows,
        {
            OURS: lambda texts, sizes, threads, k: strategies.zip.zip_greedy(texts, k, *sizes, threads=threads),
            PLAIN: lambda texts, sizes, threads, k: baselines.zip_recompressed(texts, k, *sizes),
        },
        million=(50_000, {OURS: 2_000}),
    ),
    "zip_step": Strategy(
        "ZIP: 10,000 tries",
        2_000_000,
        lambda n: TRIES,
        zip_step_rows,
        {
            OURS: lambda texts, before, after, threads, k: strategies.zip.ratios_with(
                texts, before, after[:k], threads=threads
            ),
            PLAIN: lambda texts, before, after, threads, k: baselines.ratios_recompressed(texts, before, after[:k]),
        },
        parts={PLAIN: 20},
    ),
    "k_center": Strategy(
        "k-Center",
        20_000,
        lambda n: n // 100,
        vectors_alone,
        {
            OURS: lambda data, k: strategies.farthest.farthest_first(data, k, start=[0]),
            WELL: baselines.farthest_by_vector,
            PLAIN: baselines.farthest_by_matrix,
        },
        million=(10_000, {OURS: 10_000, WELL: 300}),
    ),
    "near_duplicates": Strategy(
        "near-duplicates",
        12_000,
        lambda n: 8 * n // 12 if n >= 12_000 else n // 3,  # fewer of a small pool are no near-duplicates
        with_quality(256),
        {
            OURS: lambda *data: strategies.near_duplicates.skip_near_duplicates(*data, THRESHOLD),
            WELL: lambda *data: baselines.near_duplicates_by_row(*data, THRESHOLD),
            PLAIN: lambda *data: baselines.near_duplicates_rebuilt(*data, THRESHOLD),
        },
    ),
    "facility": Strategy(
        "facility location",
        5_000,
        lambda n: n // 10,
        with_quality(384),
        {
            OURS: lambda *data: strategies.facility.facility_location(*data, ALPHA),
            WELL: lambda *data: baselines.facility_in_blocks(*data, ALPHA),
            PLAIN: lambda *data: baselines.facility_plain(*data, ALPHA),
            LAZY: lambda *data: baselines.facility_lazy(*data, ALPHA),
        },
        value=objective,
    ),
    "dq": Strategy(
        "DQ",
        5_000,
        lambda n: n,
        vectors_alone,
        {
            OURS: lambda data, k: np.concatenate(strategies.graph_cut.graph_cut_bins(data, BINS)),
            WELL: lambda data, k: baselines.graph_cut_running(data, BINS),
            PLAIN: lambda data, k: baselines.graph_cut_summed(data, BINS),
        },
    ),
    "kmeans": Strategy(
        "k-means sampling",
        40_000,
        lambda n: n // 10,
        vectors_alone,
        {OURS: cluster_sampling, PLAIN: library_sampling},
        million=(100_000, {OURS: 100_000}),
        seeded=True,
    ),
}


# -- running ---------------------------------------------------------------------------------------------------------
def find(name: str) -> Strategy:
    return STRATEGIES[name]


def cases(args: Args) -> Iterator[list[Case]]:
    """The cases to hold against each other, the package first."""
    for name in args.only:
        strategy = STRATEGIES[name]
        if args.million:
            selected, parts = strategy.million
            if parts:
                yield [Case(name, way, 1_000_000, selected, part) for way, part in parts.items()]
            continue
        sizes = args.sizes or ([strategy.size >> fewer for fewer in (3, 2, 1, 0)] if args.plot else [strategy.size])
        ways = [way for way in strategy.ways if way not in args.skip]
        for n in sizes:
            selected = strategy.select(n)
            yield [Case(name, way, n, selected, min(strategy.parts.get(way, selected), selected)) for way in ways]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=STRATEGIES, default=list(STRATEGIES), metavar="STRATEGY",
                        help=f"of {', '.join(STRATEGIES)}")  # fmt: skip
    parser.add_argument("--skip", nargs="+", choices=(WELL, PLAIN, LAZY), default=[], metavar="WAY", help="to exclude")
    parser.add_argument("--sizes", type=int, nargs="+", metavar="N", help="rows, instead of each strategy's own")
    parser.add_argument("--million", action="store_true", help="a million rows; minutes to an hour each, up to 12 GB")
    parser.add_argument("--data", type=Path, nargs="+", metavar="FILE", help="Alpaca-form JSON files")
    parser.add_argument("--vectors", choices=["groups", "normal"], default="groups", help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, help="(default: 1, and one a core with --million)")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="measure four sizes, and draw them there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="to write the figures to")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    args = parser.parse_args()
    args.threads = args.threads or (os.cpu_count() if args.million else 1)
    args.rows = sum(len(json.loads(file.read_text(encoding="utf-8"))) for file in args.data or ())
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(args.threads)  # for the processes to come

    info = machine()
    print(f"{info['cores']} cores ({info['cpu']}), {args.threads} used; numpy {info['numpy']}\n")
    print(line(list(COLUMNS), args.markdown))
    if args.markdown:
        print(line(["---"] * len(COLUMNS), True))
    results: list[Result] = []
    for group in cases(args):
        package_result = None
        for case in group:
            result = measured(find, case, args)
            package_result = package_result or result
            print(line(cells(result, package_result), args.markdown), flush=True)
            results.append(result)
            if args.json:
                save(results, args.json)
    if args.plot:
        draw(results, {name: strategy.title for name, strategy in STRATEGIES.items()}, args.plot)


if __name__ == "__main__":
    main()
