"""Time the strategies against plain versions of them, side by side in one run, for equal choices.

For each strategy: the package, a way done well, and a plain one (`baselines.py` has them, and says what each does).
Every case runs in a process of its own, on made-up data that is the same for all ways, after a small run for warmth.
"CPU s" is what the process spent on all its threads, which other jobs on the machine change less than seconds on the
clock, and "times" is a ratio of these; of cases under two seconds it is the best of three. "MB" is the peak while the
choice is made, over what the process held before, data included; "MB in all" has that too (Linux only). Where each
choice costs the same, a plain version makes only the first of them, and the rest is extrapolated: such figures have a
~. The last column says whether the rows are the same, in order, and how many were compared if not all.

Run: python benchmarks/strategies.py
     python benchmarks/strategies.py --only k_center --sizes 12500 25000 50000
     python benchmarks/strategies.py --million
     python benchmarks/strategies.py --plot plots
Sizes are rows (for `zip_step` bytes). --data has texts of Alpaca-form JSON files in the place of made-up ones.
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
    found = np.empty((n, dimensions), dtype=np.float32)
    groups = int(np.clip(n // 20, 2, 2000))
    centres = rng.standard_normal((groups, dimensions), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    widths = rng.uniform(0.2, 0.8, groups).astype(np.float32) / np.sqrt(np.float32(dimensions))
    for at in range(0, n, 10_000):
        block = rng.standard_normal(found[at : at + 10_000].shape, dtype=np.float32)
        if args.vectors == "groups":
            group = rng.integers(groups, size=len(block))
            block = centres[group] + widths[group, None] * block
            block /= np.linalg.norm(block, axis=1, keepdims=True)
        found[at : at + 10_000] = block
    if args.vectors == "groups":
        found[: n // 20] = found[n // 2 : n // 2 + n // 20]
    return found


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
        return [{"instruction": texts[n + at][:120], "input": "", "output": texts[at]} for at in range(n)]
    rows = [row for file in args.data for row in json.loads(file.read_text(encoding="utf-8"))]
    if n > len(rows):
        raise SystemExit(f"{n:,} rows are more than the {len(rows):,} of --data. See --sizes.")
    return rows[:n]


def responses(n: int, args: Args) -> tuple[Any, ...]:
    if not args.data:
        return made_up_texts(n, np.random.default_rng(args.seed)), quality(n, args)
    return [row["output"] for row in records(n, args)], quality(n, args)


def weighed(n: int, args: Args) -> tuple[Any, ...]:
    """n-gram weights and quality: what all ways of the n-gram greedy begin with."""
    texts, values = responses(n, args)
    return strategies.ngram.ngram_weights(texts), values


def written(n: int, args: Args) -> tuple[Any, ...]:
    """Rows as ZIP takes them, the sizes of its stages, the published ones for large pools, and threads."""
    sizes = (10_000, 200, 100) if n >= 100_000 else (1_000, 50, 25)
    return [str(row).encode() for row in records(n, args)], sizes, args.threads


def beginning(size: int, args: Args) -> tuple[Any, ...]:
    """Rows as ZIP takes them, the first of them that have so many bytes together, those to try next, and threads."""
    count = size // 200 + TRIES
    texts = written(min(count, args.rows) if args.data else count, args)[0]
    before = int(np.searchsorted(np.cumsum([len(text) for text in texts]), size))
    if before == len(texts):
        raise SystemExit(f"{size:,} bytes are all of --data, and none are left to try. See --sizes.")
    # files may have fewer rows to try: the same again, which cost the same
    return texts, list(range(before)), np.resize(np.arange(before, len(texts)), TRIES).tolist(), args.threads


# -- what has no single function in the package, or none in baselines.py ---------------------------------------------
def cluster_sampling(data: np.ndarray, budget: int) -> tuple[Ids, float]:
    """k-means by scikit-learn on a sample of at most 131,072 rows, then a uniform draw from each cluster."""
    from hf_datasel.scores import Cluster
    from hf_datasel.scoring.kmeans import nearest

    _, centroids = Cluster(k=round(len(data) ** 0.5)).find(data)
    found = [nearest(data[at : at + 20_000], centroids) for at in range(0, len(data), 20_000)]
    ids, distances = (np.concatenate(part) for part in zip(*found, strict=True))
    drawn = strategies.clusters.sample_per_cluster(None, ids, budget, np.random.default_rng(0))
    return drawn, float(np.square(distances, dtype=np.float64).mean())


def library_sampling(data: np.ndarray, budget: int) -> tuple[Ids, float]:
    """The same as scikit-learn does it unless told otherwise: all rows, k-means++, until little moves."""
    from sklearn.cluster import KMeans

    fitted = KMeans(round(len(data) ** 0.5), random_state=42).fit(data)
    drawn = strategies.clusters.sample_per_cluster(None, fitted.labels_, budget, np.random.default_rng(0))
    return drawn, float(fitted.inertia_) / len(data)


def objective(data: np.ndarray, values: np.ndarray, chosen: Ids) -> float:
    """Coverage and quality of a choice, as facility location weighs them."""
    units = baselines.units_of(data)
    covered = sum((block @ units[chosen].T).max(axis=1).sum() for block in np.array_split(units, 16))
    return float((1 - ALPHA) * covered + ALPHA * values[chosen].sum())


STRATEGIES = {
    "ngram": Strategy(
        "n-gram greedy",
        7_800,
        lambda n: n // 3,
        weighed,
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
        written,
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
        beginning,
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
    "near_copies": Strategy(
        "near copies",
        12_000,
        lambda n: 8 * n // 12 if n >= 12_000 else n // 3,  # fewer of a small pool are no near copies
        with_quality(256),
        {
            OURS: lambda *data: strategies.near_copies.skip_near_copies(*data, THRESHOLD),
            WELL: lambda *data: baselines.near_copies_by_row(*data, THRESHOLD),
            PLAIN: lambda *data: baselines.near_copies_rebuilt(*data, THRESHOLD),
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
            chosen, parts = strategy.million
            if parts:
                yield [Case(name, way, 1_000_000, chosen, part) for way, part in parts.items()]
            continue
        sizes = args.sizes or ([strategy.size >> fewer for fewer in (3, 2, 1, 0)] if args.plot else [strategy.size])
        ways = [way for way in strategy.ways if way not in args.skip]
        for n in sizes:
            chosen = strategy.choose(n)
            yield [Case(name, way, n, chosen, min(strategy.parts.get(way, chosen), chosen)) for way in ways]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=STRATEGIES, default=list(STRATEGIES), metavar="STRATEGY",
                        help=f"of {', '.join(STRATEGIES)}")  # fmt: skip
    parser.add_argument(
        "--skip", nargs="+", choices=(WELL, PLAIN, LAZY), default=[], metavar="WAY", help="to leave out"
    )
    parser.add_argument("--sizes", type=int, nargs="+", metavar="N", help="rows, instead of each strategy's own")
    parser.add_argument("--million", action="store_true", help="a million rows; minutes to an hour each, up to 12 GB")
    parser.add_argument("--data", type=Path, nargs="+", metavar="FILE", help="Alpaca-form JSON files")
    parser.add_argument("--vectors", choices=["groups", "normal"], default="groups", help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, help="(default: 1, and one a core with --million)")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="measure four sizes, and draw them there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="to write the figures to")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--seed", type=int, default=0, help="of what is made up (default: %(default)s)")
    args = parser.parse_args()
    args.threads = args.threads or (os.cpu_count() if args.million else 1)
    args.rows = sum(len(json.loads(file.read_text(encoding="utf-8"))) for file in args.data or ())
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(args.threads)  # for the processes to come

    there = machine()
    print(f"{there['cores']} cores ({there['cpu']}), {args.threads} used; numpy {there['numpy']}\n")
    print(line(list(COLUMNS), args.markdown))
    if args.markdown:
        print(line(["---"] * len(COLUMNS), True))
    results: list[Result] = []
    for group in cases(args):
        ours = None
        for case in group:
            found = measured(find, case, args)
            ours = ours or found
            print(line(cells(found, ours), args.markdown), flush=True)
            results.append(found)
            if args.json:
                save(results, args.json)
    if args.plot:
        draw(results, {name: each.title for name, each in STRATEGIES.items()}, args.plot)


if __name__ == "__main__":
    main()
