"""Draw the rows of `smollm2-cpu.yaml` and `smollm2-cpu-more.yaml` from Alpaca, Code Alpaca and GSM8K.

Run: python recipes/bench/make_mixture.py

A flag replaces a dataset by another one on the Hub, or by a file:

    python recipes/bench/make_mixture.py --alpaca alpaca.json --code_alpaca code.json --gsm8k gsm8k.jsonl

It writes `pool.jsonl`, `heldout.jsonl` and `target.jsonl`, rows for methods that select for a target, into
`--output_dir`, in the columns of Alpaca and a column `source`, with as many rows of each source. Rows are short, so
that a CPU is enough. No row has a prompt that is nearly equal to that of another row of these files: cosines of TF-IDF
vectors are below 0.8.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from hf_datasel import load_pool
from hf_datasel.formats import Pool

SOURCES = {"alpaca": "tatsu-lab/alpaca", "code_alpaca": "sahil2801/CodeAlpaca-20k", "gsm8k": "openai/gsm8k"}
CONFIGS = {"openai/gsm8k": "main"}
NEARLY_EQUAL = 0.8  # cosine of TF-IDF vectors
CALCULATIONS = re.compile(r"<<[^>]*>>")  # annotations of GSM8K for a calculator, such as <<6*7=42>>


def short_rows(name: str, max_words: int, seed: int) -> Iterator[dict[str, str]]:
    """Yield the rows of a dataset that have a response and at most so many words, in random order."""
    pool = Pool(load_pool(name, config=CONFIGS.get(name)))
    order = np.random.default_rng(seed).permutation(np.flatnonzero(pool.reasons == ""))
    for number in order:
        (row,) = pool.rows([number])
        if row.response.strip() and len(f"{row.prompt} {row.response}".split()) <= max_words:
            response = CALCULATIONS.sub("", row.response)
            yield {"instruction": row.instruction, "input": row.input, "output": response}


def prompt(row: dict[str, str]) -> str:
    return f"{row['instruction']}\n{row['input']}"


def draw(
    name: str, source: str, count: int, others: list[dict[str, str]], args: argparse.Namespace, seed: int
) -> list[dict[str, str]]:
    """Return rows of a source whose prompts are not nearly equal to each other's or to those of other rows."""
    limit = 2 * count + sum(row["source"] == source for row in others)
    candidates = list(itertools.islice(short_rows(name, args.max_words, seed), limit))
    vectors = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]").fit_transform(
        [prompt(row) for row in [*others, *candidates]]
    )
    kept = list(range(len(others)))
    for position in range(len(others), vectors.shape[0]):
        if len(kept) == len(others) + count:
            break
        if not kept or (vectors[kept] @ vectors[position].T).max() < NEARLY_EQUAL:
            kept.append(position)
    rows = [candidates[position - len(others)] | {"source": source} for position in kept[len(others) :]]
    if len(rows) < count:
        raise SystemExit(
            f"{name} has {len(rows):,} of the {count:,} rows that are needed: with a response, at most "
            f"{args.max_words} words and a prompt unlike the others. Lower --pool_rows, --heldout_rows or "
            "--target_rows, or raise --max_words."
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    for source, name in SOURCES.items():
        parser.add_argument(f"--{source}", default=name, help=f"Dataset on the Hub, or a file; by default {name}.")
    parser.add_argument("--pool_rows", type=int, default=1_002, help="Rows of the pool.")
    parser.add_argument("--heldout_rows", type=int, default=150, help="Held-out rows.")
    parser.add_argument("--target_rows", type=int, default=60, help="Rows of the target.")
    parser.add_argument("--max_words", type=int, default=60, help="Words that prompt and response have at most.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/smollm2-cpu"))
    args = parser.parse_args()

    pool_rows, heldout_rows = args.pool_rows // len(SOURCES), args.heldout_rows // len(SOURCES)
    rows: list[dict[str, str]] = []
    for source in SOURCES:
        rows += draw(getattr(args, source), source, pool_rows + heldout_rows, rows, args, args.seed)
    target: list[dict[str, str]] = []
    for source in SOURCES:
        count = args.target_rows // len(SOURCES)
        target += draw(getattr(args, source), source, count, [*rows, *target], args, args.seed + 1)
    is_heldout = np.arange(len(rows)) % (pool_rows + heldout_rows) < heldout_rows
    shuffled = np.random.default_rng(args.seed).permutation(len(rows))
    files = {
        "pool": [rows[number] for number in shuffled if not is_heldout[number]],
        "heldout": [rows[number] for number in shuffled if is_heldout[number]],
        "target": target,
    }
    args.output_dir.mkdir(parents=True, exist_ok=True)
    for name, written in files.items():
        file = args.output_dir / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in written), encoding="utf-8")
        print(f"{len(written):>6,} rows in {file}")


if __name__ == "__main__":
    main()
