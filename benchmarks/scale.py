"""Select from a large made-up pool, from its files to the selected rows, and report time and memory of every step.

There are two pools. With `--dimensions 0`, the default, rows are short texts, and the steps need no model: loading,
the scan of all rows, scores of the text in shards, choices from the score tables by column and from a stream,
near-duplicates by MinHash, and the selected rows. With `--dimensions 384` rows have a vector and as many words as
real ones, and the steps are k-means, kMQ, k-Center, and near-duplicates by vectors and by text.

Every step is a process of its own, which reads what earlier steps have left in the folder; name steps to run only
these. "CPU s" includes child processes, "us/row" is CPU time by row, "MB" is the largest resident memory, and
"anonymous MB" is without mapped files. Linux only. It prints a Markdown table.

Run: python benchmarks/scale.py --rows 10000000
     python benchmarks/scale.py --rows 200000 --dimensions 384
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from argparse import Namespace as Args
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BLOCK = 50_000  # rows that are made up at once
WORDS = np.array([f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "lmnrstx"])
COLUMNS = ("step", "wall s", "CPU s", "us/row", "MB", "anonymous MB", "result")


# -- short texts -----------------------------------------------------------------------------------------------------
def make_texts(args: Args) -> dict[str, Any]:
    """Write rows of 60 to 100 characters, 6 % near-duplicates of an earlier row, 0.1 % without a response."""
    rng, per_file = np.random.default_rng(args.seed), -(-args.rows // shards(args))
    (args.folder / "rows").mkdir(parents=True, exist_ok=True)
    for number in range(shards(args)):
        blocks = blocks_of(range(number * per_file, min((number + 1) * per_file, args.rows)))
        write(args.folder / "rows" / f"rows-{number:05d}.parquet", (short_rows(rng, size) for size in blocks))
    return {"bytes": sum(path.stat().st_size for path in (args.folder / "rows").iterdir())}


def short_rows(rng: np.random.Generator, size: int) -> pa.Table:
    words, lengths = WORDS[rng.integers(len(WORDS), size=(size, 22))], rng.integers(9, 17, size=size)
    for row in np.flatnonzero(rng.random(size) < 0.06).tolist()[1:]:
        source = int(rng.integers(row))
        words[row], lengths[row] = words[source], lengths[source]
        if rng.random() < 0.5:  # another last word: a Jaccard similarity of 0.82 to 0.89
            words[row, 4 + lengths[row]] = WORDS[rng.integers(len(WORDS))]
    responses = [" ".join(row[5 : 5 + length]) for row, length in zip(words, lengths.tolist(), strict=True)]
    for row in np.flatnonzero(rng.random(size) < 0.001).tolist():
        responses[row] = ""
    return pa.table({"prompt": [f"{' '.join(row[:5])}?" for row in words], "completion": responses})


def scan(args: Args) -> dict[str, Any]:
    """Read all rows once, for their ids and reasons; later steps find the result in the cache."""
    from hf_datasel.formats import Pool

    pool = Pool(rows_of(args))
    return {"unusable": int((~pool.usable).sum())}


def score_shards(args: Args) -> dict[str, Any]:
    """Score the texts in shards, one after the other."""
    from hf_datasel.scores import Compressibility, Length
    from hf_datasel.scoring import Shard, ShardedScores

    job = ShardedScores(rows_of(args), [Length(), Compressibility()], args.folder / "score", on_summary=lambda _: None)
    for index in range(shards(args)):
        job.score(Shard(index, shards(args)))
    return {"bytes": sum(path.stat().st_size for path in (args.folder / "score" / "scores").iterdir())}


def stream_tables(args: Args) -> dict[str, Any]:
    """Select 5 % from the score tables, read as a stream."""
    from hf_datasel import select_streaming
    from hf_datasel.scoring import ScoreTables
    from hf_datasel.selectors import Top

    tables = ScoreTables(args.folder / "score" / "scores")
    selected = select_streaming(tables, Top("compressibility"), budget(args))
    return {"rows": len(tables.rows_of(rows_of(args), selected))}


def stream_rows(args: Args) -> dict[str, Any]:
    """Select 5 % from the text of the rows, read as a stream."""
    from datasets import load_dataset

    from hf_datasel import select_streaming
    from hf_datasel.selectors import Longest

    files = sorted(str(path) for path in (args.folder / "rows").glob("*.parquet"))
    stream = load_dataset("parquet", data_files=files, split="train", streaming=True)
    return {"rows": len(select_streaming(stream, Longest(), budget(args)))}


def select_tables(args: Args) -> dict[str, Any]:
    """Select 5 % from the score tables by column, and save the selection."""
    from hf_datasel import select
    from hf_datasel.scoring import ScoreTables
    from hf_datasel.selectors import Top

    selection = select(ScoreTables(args.folder / "score" / "scores"), Top("compressibility"), size=budget(args))
    selection.save(args.folder / "selection")
    return {"rows": len(selection.indices)}


def select_groups(args: Args) -> dict[str, Any]:
    """Select 5 % from the score tables within response lengths, after a filter."""
    from hf_datasel import select
    from hf_datasel.scoring import ScoreTables
    from hf_datasel.selectors import Chain, InRange, Top, Within

    tables = ScoreTables(args.folder / "score" / "scores")
    selector = Chain([InRange("compressibility", 0.1, 2.0)], Within(Top("compressibility"), "response_words"))
    return {"rows": len(select(tables, selector, size=budget(args)).indices)}


def apply(args: Args) -> dict[str, Any]:
    """Apply the saved selection to the dataset, and write its rows."""
    from hf_datasel import Selection
    from hf_datasel.hub.parents import write_parquet

    subset = Selection.load(args.folder / "selection").apply(rows_of(args))
    write_parquet(subset, args.folder / "subset.parquet")
    return {"rows": len(subset), "bytes": (args.folder / "subset.parquet").stat().st_size}


# -- vectors ---------------------------------------------------------------------------------------------------------
def make_vectors(args: Args) -> dict[str, Any]:
    """Write rows of about 75 and 250 words, with unit vectors in groups, one in twenty a copy of the row before."""
    rng = np.random.default_rng(args.seed)
    centres = units(rng.standard_normal((max(args.rows // 100, 2), args.dimensions), dtype=np.float32))
    (args.folder / "rows").mkdir(parents=True, exist_ok=True)
    tables = (long_rows(rng, size, centres) for size in blocks_of(range(args.rows), 10_000))
    write(args.folder / "rows" / "rows-00000.parquet", tables)
    return {"bytes": (args.folder / "rows" / "rows-00000.parquet").stat().st_size}


def long_rows(rng: np.random.Generator, size: int, centres: np.ndarray) -> pa.Table:
    noise = rng.standard_normal((size, centres.shape[1]), dtype=np.float32) / np.sqrt(np.float32(centres.shape[1]))
    vectors = centres[rng.integers(len(centres), size=size)] + noise * rng.uniform(0.2, 0.8, (size, 1)).astype("f4")
    copies = np.flatnonzero(rng.random(size) < 0.05)[1:]
    vectors[copies] = vectors[copies - 1] + noise[copies] / 1_000
    texts = [
        [" ".join(WORDS[rng.integers(len(WORDS), size=length)]) for length in rng.integers(low, high, size=size)]
        for low, high in ((30, 120), (100, 400))
    ]
    lists = pa.FixedSizeListArray.from_arrays(pa.array(units(vectors).ravel()), centres.shape[1])
    return pa.table({"prompt": texts[0], "completion": texts[1], "embedding": lists})


def units(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def cluster(args: Args) -> dict[str, Any]:
    """Score the length, and clusters of the vectors: a thousand of 200,000."""
    from hf_datasel import score
    from hf_datasel.scores import Cluster, Length

    clusters = Cluster(k=max(args.rows // 200, 2), column="embedding")
    scored = score(rows_of(args), [Length(), clusters], store=args.folder / "store")
    scored.to_parquet(args.folder / "scored.parquet")
    return {"k": clusters.k}


def select_scored(args: Args, selector: Any) -> dict[str, Any]:
    from hf_datasel import load_pool, select

    selection = select(load_pool(args.folder / "scored.parquet"), selector, size=budget(args))
    return {"rows": len(selection.indices), **selection.provenance["exclusions"]}


def kmq(args: Args) -> dict[str, Any]:
    """Select 5 % by kMQ."""
    from hf_datasel.selectors import KMQ

    return select_scored(args, KMQ("cluster_id", quality="response_words", weights="proportional"))


def k_center(args: Args) -> dict[str, Any]:
    """Select 5 % by k-Center."""
    from hf_datasel.selectors import KCenter

    return select_scored(args, KCenter())


def near_duplicates(args: Args) -> dict[str, Any]:
    """Exclude near-duplicates among all vectors, and select 5 % of the others at random."""
    from hf_datasel.selectors import Chain, NoNearDuplicates, Random

    return select_scored(args, Chain([NoNearDuplicates()], Random()))


# -- both ------------------------------------------------------------------------------------------------------------
def load(args: Args) -> dict[str, Any]:
    """Load the files, which `datasets` converts to Arrow once."""
    return {"rows": len(rows_of(args))}


def min_hash(args: Args) -> dict[str, Any]:
    """Exclude near-duplicates among the texts of all rows, and select 5 % of the others at random."""
    from hf_datasel import select
    from hf_datasel.selectors import Chain, NoTextDuplicates, Random

    selection = select(rows_of(args), Chain([NoTextDuplicates()], Random()), size=budget(args))
    return {"rows": len(selection.indices), **selection.provenance["exclusions"]}


TEXT_STEPS = (
    make_texts, load, scan, score_shards, stream_tables, stream_rows, select_tables, select_groups, apply, min_hash
)  # fmt: skip
VECTOR_STEPS = (make_vectors, load, cluster, kmq, k_center, near_duplicates, min_hash)


def rows_of(args: Args) -> Any:
    from hf_datasel import load_pool

    return load_pool(str(args.folder / "rows" / "*.parquet"))


def budget(args: Args) -> int:
    return args.rows // 20


def shards(args: Args) -> int:
    return min(max(args.rows // BLOCK, 2), 64)


def blocks_of(rows: range, block: int = BLOCK) -> Iterator[int]:
    """Yield the numbers of rows of blocks that cover the rows."""
    yield from (min(block, rows.stop - start) for start in range(rows.start, rows.stop, block))


def write(path: Path, tables: Iterator[pa.Table]) -> None:
    first = next(tables)
    with pq.ParquetWriter(path, first.schema) as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)


# -- processes -------------------------------------------------------------------------------------------------------
def measured(step: str, args: Args) -> list[str]:
    """Run a step in a new process, and return the cells of its line."""
    folder = str(args.folder)
    flags = ["--rows", str(args.rows), "--dimensions", str(args.dimensions), "--seed", str(args.seed)]
    settings = {"HF_HOME": f"{folder}/hf", "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with (args.folder / f"{step}.log").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, __file__, "--folder", folder, *flags, "--inside", step],
            stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **settings},
        )  # fmt: skip
        resident = without_files = 0
        while process.poll() is None:
            now, anonymous = memory(process.pid)
            resident, without_files = max(resident, now), max(without_files, anonymous)
            time.sleep(0.05)
        log.seek(0)
        output = log.read()
    if process.returncode:
        sys.exit(f"{step} failed:\n{output[-3000:]}")
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    result = ", ".join(f"{name} {value:,}" for name, value in json.loads(output.splitlines()[-1]).items())
    times = [f"{wall:,.1f}", f"{cpu:,.1f}", f"{1e6 * cpu / args.rows:,.1f}"]
    return [step, *times, f"{resident:,}", f"{without_files:,}", result]


def memory(pid: int) -> tuple[int, int]:
    """Return the largest resident memory of a process so far, and its present part that is no file, in MB."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has just ended
        return 0, 0
    sizes = {
        name: int(size.split()[0]) // 1_000 for name, size in (entry.split(":") for entry in lines if "kB" in entry)
    }
    return sizes.get("VmHWM", 0), sizes.get("RssAnon", 0)


def print_line(cells: Sequence[str]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def parse() -> Args:
    about, _, usage = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(about, epilog=usage, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", help="steps to run (default: all)")
    parser.add_argument("--rows", type=int, default=20_000, help="(default: 20,000)")
    parser.add_argument("--dimensions", type=int, default=0, help="of the vectors; 0 for short texts (default: 0)")
    parser.add_argument("--folder", type=Path, help="where everything is written (default: a temporary folder)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    args = parser.parse_args()
    known = [step.__name__ for step in (VECTOR_STEPS if args.dimensions else TEXT_STEPS)]
    if unknown := set(args.steps) - set(known):
        parser.error(f"There is no step {sorted(unknown)[0]!r}. The steps are {', '.join(known)}.")
    args.steps = args.steps or known
    return args


def main() -> None:
    """Run the steps, or inside a process one step."""
    args = parse()
    if args.inside:
        step: Callable[[Args], dict[str, Any]] = globals()[args.inside]
        print(json.dumps(step(args)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        args.folder = args.folder or Path(temporary)
        args.folder.mkdir(parents=True, exist_ok=True)
        print_line(COLUMNS)
        print_line(["---"] * len(COLUMNS))
        for step in args.steps:
            print_line(measured(step, args))


if __name__ == "__main__":
    main()
