"""Compare the lazy n-gram greedy with one that scores every row again at each step, with equal selections.

The full rescan is an efficient version of IterIT's procedure, with one sparse product per step instead of a loop over
columns.

Run: python benchmarks/ngram_greedy.py --data alpaca.json code_alpaca.json --rows 7800 --picks 2600
Without --data the texts are synthetic, with lengths and repetitions similar to Alpaca's responses.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from hf_datasel.strategies import ngram


def full_rescan_greedy(weights: csr_matrix, quality: np.ndarray, budget: int, decay: float) -> np.ndarray:
    """Select as `lazy_greedy`, but compute every score at every step."""
    alpha = np.ones(weights.shape[1])
    quality = quality.copy()
    selected = np.empty(budget, dtype=np.int64)
    for step in range(budget):
        scores = quality * (weights @ alpha)
        scores[selected[:step]] = -np.inf
        row = selected[step] = scores.argmax()
        alpha[weights.indices[weights.indptr[row] : weights.indptr[row + 1]]] *= decay
    return selected


def read_responses(files: list[Path], n_rows: int) -> list[str]:
    """Read the `output` of the first rows of Alpaca-form JSON files, one file after the other."""
    texts: list[str] = []
    for file in files:
        texts += [row["output"] for row in json.loads(file.read_text(encoding="utf-8"))]
    if len(texts) < n_rows:
        raise SystemExit(f"--rows {n_rows} is more than the {len(texts):,} rows of {', '.join(map(str, files))}.")
    return texts[:n_rows]


def made_up_texts(n_rows: int, rng: np.random.Generator) -> list[str]:
    """Make texts of phrases: log-normal lengths, Zipf-distributed words and phrases, so that n-grams recur."""
    words = np.array([f"w{i}" for i in range(20_000)])
    word_share = 1 / (np.arange(len(words)) + 3.0)
    phrases = np.array(
        [
            " ".join(rng.choice(words, size=size, p=word_share / word_share.sum()))
            for size in rng.integers(1, 6, size=50_000)
        ]
    )
    phrase_share = 1 / (np.arange(len(phrases)) + 150.0)
    sizes = np.ceil(rng.lognormal(mean=1.8, sigma=1.25, size=n_rows).clip(max=150)).astype(int)
    drawn = rng.choice(phrases, size=sizes.sum(), p=phrase_share / phrase_share.sum())
    return [" ".join(part) for part in np.split(drawn, np.cumsum(sizes)[:-1])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=7800, help="rows in the pool (default: %(default)s)")
    parser.add_argument("--picks", type=int, default=2600, help="rows to select (default: %(default)s)")
    parser.add_argument("--data", type=Path, nargs="+", metavar="FILE", help="Alpaca-form JSON files")
    parser.add_argument("--decay", type=float, default=0.1, help="(default: %(default)s)")
    parser.add_argument("--weighting", choices=["smooth-l2", "paper", "graphfilter"], default="smooth-l2")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the quality and of made-up texts (default: %(default)s)"
    )
    args = parser.parse_args()

    rng = np.random.default_rng(args.seed)
    texts = read_responses(args.data, args.rows) if args.data else made_up_texts(args.rows, rng)
    quality = rng.random(args.rows)  # uniform in [0, 1), where IFD is too

    start = time.perf_counter()
    weights = ngram.ngram_weights(texts, args.weighting)
    weighed = time.perf_counter()
    lazy = ngram.lazy_greedy(weights, quality, args.picks, args.decay)
    lazily = time.perf_counter()
    full = full_rescan_greedy(weights, quality, args.picks, args.decay)
    done = time.perf_counter()

    kind = "Alpaca-form" if args.data else "made-up"
    print(f"{args.rows:,} {kind} rows, {args.picks:,} picks, {args.weighting}, decay {args.decay}, seed {args.seed}")
    print(f"weights      {weighed - start:8.3f} s   {weights.shape[1]:,} n-grams, {weights.nnz:,} non-zeros")
    print(f"lazy greedy  {lazily - weighed:8.3f} s")
    print(f"full rescan  {done - lazily:8.3f} s   {(done - lazily) / (lazily - weighed):.0f} times as long")
    if not np.array_equal(lazy, full):
        raise SystemExit(f"The selections differ from pick {np.flatnonzero(lazy != full)[0]} on.")
    print("same rows in the same order")


if __name__ == "__main__":
    main()
