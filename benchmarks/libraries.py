"""Compare strategies with libraries that compute the same, in one run, each in a separate process.

- `facility` is the coverage of facility location without quality: apricot and submodlib, lazy greedy on the matrix of
  all cosines, which is computed inside the measured call. apricot takes no negative numbers, so they are set to 0.
- `near_duplicates` keeps rows in order, unless a kept row is nearly equal: faiss finds all pairs in a flat index by
  range search, and semhash (threshold search of usearch, which is approximate) keeps the first row of each group.

The columns are those of `strategies.py`. A library that is not installed is left out, with a line that says so:
pip install apricot-select submodlib-py faiss-cpu semhash

Run: python benchmarks/libraries.py
     python benchmarks/libraries.py --only facility --sizes 3000 10000 30000
"""

import argparse
import importlib.util
import os
from argparse import Namespace as Args
from collections.abc import Iterator
from typing import Any

import baselines
import numpy as np
from side_by_side import COLUMNS, OURS, Case, Ids, Result, Strategy, cells, line, machine, measured
from strategies import vectors

from hf_datasel import strategies

THRESHOLD = 0.9
MODULES = {"apricot": "apricot", "submodlib": "submodlib", "faiss": "faiss", "semhash": "semhash"}


# -- facility location -----------------------------------------------------------------------------------------------
def coverage(data: np.ndarray, budget: int) -> Ids:
    return strategies.facility.facility_location(data, np.zeros(len(data)), budget, alpha=0)


def with_apricot(data: np.ndarray, budget: int) -> Ids:
    from apricot import FacilityLocationSelection

    units = baselines.units_of(data)
    similar = units @ units.T
    np.maximum(similar, 0, out=similar)
    return np.asarray(FacilityLocationSelection(budget, metric="precomputed", optimizer="lazy").fit(similar).ranking)


def with_submodlib(data: np.ndarray, budget: int) -> Ids:
    from submodlib.functions.facilityLocation import FacilityLocationFunction

    units = baselines.units_of(data)
    function = FacilityLocationFunction(n=len(data), mode="dense", sijs=units @ units.T, separate_rep=False)
    options = {"stopIfZeroGain": False, "stopIfNegativeGain": False, "verbose": False, "show_progress": False}
    return np.array([row for row, _ in function.maximize(budget=budget, optimizer="LazyGreedy", **options)])


def covered(data: np.ndarray, selected: Ids) -> float:
    """Sum of the cosines of all rows and their nearest selected row."""
    units = baselines.units_of(data)
    return float(sum((block @ units[selected].T).max(axis=1).sum() for block in np.array_split(units, 16)))


# -- near-duplicates -------------------------------------------------------------------------------------------------
def without_near_duplicates(data: np.ndarray, budget: int) -> Ids:
    order = -np.arange(len(data), dtype=np.float64)
    return strategies.near_duplicates.skip_near_duplicates(data, order, budget, THRESHOLD)


def with_faiss(data: np.ndarray, budget: int) -> Ids:
    import faiss

    units = np.ascontiguousarray(baselines.units_of(data), dtype=np.float32)
    index = faiss.IndexFlatIP(units.shape[1])
    index.add(units)
    is_kept, kept = np.ones(len(units), dtype=bool), list[int]()
    for start in range(0, len(units), 4_096):  # all pairs at once would not fit into memory
        if len(kept) >= budget:
            break
        limits, _, similar = index.range_search(units[start : start + 4_096], THRESHOLD)
        for row in range(start, min(start + 4_096, len(units))):
            if is_kept[row]:
                kept.append(row)
                later = similar[limits[row - start] : limits[row - start + 1]]
                is_kept[later[later > row]] = False
    return np.array(kept[:budget])


def with_semhash(data: np.ndarray, budget: int) -> Ids:
    from semhash import SemHash

    class NoEncoder:
        def encode(self, inputs: Any, **options: Any) -> np.ndarray:
            raise NotImplementedError("The vectors are given.")

    names = [str(row) for row in range(len(data))]
    result = SemHash.from_embeddings(data, names, NoEncoder()).self_deduplicate(THRESHOLD)
    return np.array(sorted(map(int, result.selected)))[:budget]


COMPARISONS = {
    "facility": Strategy(
        "facility location",
        3_000,
        lambda n: n // 10,
        lambda n, args: (vectors(n, args, 384),),
        {OURS: coverage, "apricot": with_apricot, "submodlib": with_submodlib},
        value=covered,
    ),
    "near_duplicates": Strategy(
        "near-duplicates",
        10_000,
        lambda n: n // 2,
        lambda n, args: (vectors(n, args, 384),),
        {OURS: without_near_duplicates, "faiss": with_faiss, "semhash": with_semhash},
    ),
}


# -- running ---------------------------------------------------------------------------------------------------------
def find(name: str) -> Strategy:
    return COMPARISONS[name]


def is_installed(way: str) -> bool:
    return way == OURS or importlib.util.find_spec(MODULES[way]) is not None


def cases(args: Args) -> Iterator[list[Case]]:
    """The cases to hold against each other, the package first."""
    for name in args.only:
        comparison = COMPARISONS[name]
        for n in args.sizes or [comparison.size]:
            selected = comparison.select(n)
            yield [Case(name, way, n, selected, selected) for way in comparison.ways if is_installed(way)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=COMPARISONS, default=list(COMPARISONS), metavar="STRATEGY",
                        help=f"of {', '.join(COMPARISONS)}")  # fmt: skip
    parser.add_argument("--sizes", type=int, nargs="+", metavar="N", help="rows, instead of each strategy's own")
    parser.add_argument("--vectors", choices=["groups", "normal"], default="groups", help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    args = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(args.threads)  # for the processes to come

    info = machine()
    print(f"{info['cores']} cores ({info['cpu']}), {args.threads} used; numpy {info['numpy']}")
    for way, module in MODULES.items():
        if not is_installed(way):
            print(f"{way} is left out: the module {module} is not installed.")
    print(f"\n{line(list(COLUMNS), args.markdown)}")
    if args.markdown:
        print(line(["---"] * len(COLUMNS), True))
    for group in cases(args):
        package_result: Result | None = None
        for case in group:
            result = measured(find, case, args)
            package_result = package_result or result
            print(line(cells(result, package_result), args.markdown), flush=True)


if __name__ == "__main__":
    main()
