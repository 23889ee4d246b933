"""Compare IterIT's rounds with plain training on as many rows, and show where the time goes.

Each variant trains a new copy of one model for the same epochs, batch size and rows per epoch, and saves a checkpoint
per epoch, all in one process on one thread, after a small warm-up run. Variants:

- plain: `SFTTrainer` on the rows that the default selects first, in every epoch;
- default: IterIT, which scores the whole pool in round 0, and the window of three times the budget later;
- whole pool: the same, with every row scored in every round;
- two scores: default, and `Loss` of the same rows from the forward pass that IFD runs;
- two passes: the same, each score with a pass of its own;
- bfloat16: default, with scoring_dtype="bfloat16";
- reuse: default, with reuse_training_loss=True.

Figures are CPU seconds of the process, which other jobs on the machine affect less than wall time; "times" is the
ratio to plain. "prepare" is tokenization and locating the responses, "cond." and "prior" are the two parts of IFD in
round 0 (0) and later (+), "greedy" is the selection, "data" the rows and dataloaders of the rounds, "save" writing
checkpoints and selections, and "train" everything else. "scored" counts rows that went through the model. "shared" is
the mean share of a round's rows that the default selected too. The last line is the wall time to start dataloader
workers, which can only start when the rows of a round are selected.

Run: python benchmarks/rounds.py
     python benchmarks/rounds.py --data alpaca.json --model path/to/model --rows 1000
Without --data the rows are synthetic, with lengths similar to Alpaca; without --model, a small random Llama is used.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
from datasets import Dataset
from scoring import Rows, built, llama, load, made_up_rows, save_tokenizer, set_up
from transformers import PrinterCallback, set_seed
from trl import SFTConfig, SFTTrainer

from hf_datasel import SelectiveSFTConfig, SelectiveSFTTrainer
from hf_datasel.formats import Pool, convert_pool
from hf_datasel.rounds.context import RoundContext
from hf_datasel.scores import Loss
from hf_datasel.scoring.logprobs import LogprobRunner
from hf_datasel.scoring.runner import ModelRunner
from hf_datasel.selectors import IterIT
from hf_datasel.tokens import PreparedDataset
from hf_datasel.training import trainer as trainer_module
from hf_datasel.training.round_data import TokenizedPool

PARTS = ("prepare", "cond. 0", "prior 0", "cond. +", "prior +", "greedy", "data", "save", "train")
COLUMNS = ("way", "CPU s", "times", "s", *PARTS, "scored", "shared")
WARM = 40


# -- the ways --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class WholePool(IterIT):
    """IterIT without a window."""

    def select(self, context: RoundContext) -> np.ndarray:
        context.state.pop("window", None)
        return super().select(context)


@dataclass(frozen=True)
class WithLoss(IterIT):
    """IterIT that also computes the loss of each row."""

    def select(self, context: RoundContext) -> np.ndarray:
        rows = context.state.get("window", np.arange(len(context.pool)))
        context.score(Loss(), rows)
        return super().select(context)


class Way(NamedTuple):
    """One variant: selector (None trains on fixed rows), settings, and whether scores share forward passes."""

    selector: IterIT | None
    settings: dict[str, Any]
    shares: bool = True


WAYS = {
    "plain": Way(None, {}),
    "default": Way(IterIT(), {}),
    "whole pool": Way(WholePool(), {}),
    "two scores": Way(WithLoss(), {}),
    "two passes": Way(WithLoss(), {}, shares=False),
    "bfloat16": Way(IterIT(), {"scoring_dtype": "bfloat16"}),
    "reuse": Way(IterIT(), {"reuse_training_loss": True}),
}


# -- measuring -------------------------------------------------------------------------------------------------------
class Clock:
    """CPU seconds per part. The time of a nested part does not count in the outer part."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()
        self._parts = [""]
        self._since = time.process_time()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time of this block as this part."""
        self._turn()
        self._parts.append(name)
        try:
            yield
        finally:
            self._turn()
            self._parts.pop()

    def _turn(self) -> None:
        now = time.process_time()
        self.spent[self._parts[-1]] += now - self._since
        self._since = now

    def wrap(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        """Return the function with its time counted as this part."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return call(*args, **kwargs)

        return counted


class Result(NamedTuple):
    """Time of a run, number of rows scored, and rows selected in each round."""

    spent: Counter[str]
    seconds: float
    scored: int
    selected: list[set[int]]
    steps: int


@contextmanager
def instrumented(clock: Clock, way: Way, rounds: list[int], scored: list[int]) -> Iterator[None]:
    """Measure the time of each part.

    Args:
        clock: Clock that counts the time.
        way: Variant that is measured.
        rounds: List to which the number of every round is appended when it begins.
        scored: List to which the size of every scoring batch is appended.
    """
    reduce, forward, select = ModelRunner.reduce, LogprobRunner.__call__, SelectiveSFTTrainer._select

    def counted_pass(self: ModelRunner, sequences: Any, reduction: Any, label: str, *more: Any) -> np.ndarray:
        half = "prior" if label == "loss_prior" else "cond."
        if not way.shares:
            self._results.clear()
        with clock.part(f"{half} {'+' if rounds[-1] else '0'}"):
            return reduce(self, sequences, reduction, label, *more)

    def counted_batch(self: LogprobRunner, batch: Any, reductions: Any) -> Any:
        scored.append(len(batch))
        return forward(self, batch, reductions)

    def counted_round(self: SelectiveSFTTrainer, index: int) -> np.ndarray:
        rounds.append(index)
        with clock.part("greedy"):  # selecting without the nested parts
            return select(self, index)

    with ExitStack() as stack:
        for target, name, part in (
            (PreparedDataset, "with_spans", "prepare"),
            (TokenizedPool, "dataset", "data"),
            (SFTTrainer, "get_train_dataloader", "data"),
            (SFTTrainer, "_save_checkpoint", "save"),
            (trainer_module, "save_selection", "save"),
        ):
            stack.enter_context(patch.object(target, name, _method(clock.wrap(getattr(target, name), part))))
        for target, name, call in (
            (ModelRunner, "reduce", counted_pass),
            (LogprobRunner, "__call__", counted_batch),
            (SelectiveSFTTrainer, "_select", counted_round),
        ):
            stack.enter_context(patch.object(target, name, call))
        yield


def _method(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a plain function, which is bound when it becomes an attribute of a class."""
    return lambda *args, **kwargs: call(*args, **kwargs)


def trained(way: Way, rows: Rows, row_numbers: list[int], folder: str, args: argparse.Namespace) -> Result:
    """Train one variant on a new copy of the model.

    Args:
        way: The variant.
        rows: All rows.
        row_numbers: Rows to train on without a selector; otherwise their number is the budget.
        folder: Folder of the model.
        args: Arguments of the command line.
    """
    model, tokenizer = load(folder, "cpu", "float32")
    pool = Dataset.from_list(rows)
    clock, rounds, scored = Clock(), list[int](), list[int]()
    set_seed(args.seed)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as output, instrumented(clock, way, rounds, scored):
        with clock.part("prepare"):
            trainer = build_trainer(way, pool, row_numbers, model, tokenizer, output, args)
            trainer.remove_callback(PrinterCallback)
        with clock.part("train"):
            trainer.train()
        seconds = time.perf_counter() - start
    selected = [set(selection.indices.tolist()) for selection in getattr(trainer, "selections", [])]
    return Result(clock.spent, seconds, sum(scored), selected, trainer.state.global_step)


def build_trainer(
    way: Way, pool: Dataset, row_numbers: list[int], model: Any, tokenizer: Any, output: str, args: argparse.Namespace
) -> SFTTrainer:
    """Return the trainer of a variant."""
    settings = {
        "output_dir": output, "num_train_epochs": args.epochs, "per_device_train_batch_size": args.batch,
        "learning_rate": 1e-5, "bf16": False, "gradient_checkpointing": False, "use_cpu": True, "max_length": 512,
        "save_strategy": "epoch", "report_to": "none", "logging_steps": 5, "disable_tqdm": True, **way.settings,
    }  # fmt: skip
    settings["dataloader_pin_memory"] = False
    if way.selector is None:
        data = convert_pool(Pool(pool.select(row_numbers)), chat_template=tokenizer.chat_template is not None)
        return SFTTrainer(model=model, args=SFTConfig(**settings), train_dataset=data, processing_class=tokenizer)
    config = SelectiveSFTConfig(**settings, selection_size=len(row_numbers))
    return SelectiveSFTTrainer(
        model=model, args=config, train_dataset=pool, processing_class=tokenizer, selector=way.selector
    )


def best(results: list[Result]) -> Result:
    """Return the run with the least CPU time."""
    return min(results, key=lambda run: sum(run.spent[part] for part in PARTS))


# -- showing ---------------------------------------------------------------------------------------------------------
def cells(name: str, result: Result, plain: Result, default: Result) -> list[str]:
    """Return a line of the table."""
    total, base = (sum(run.spent[part] for part in PARTS) for run in (result, plain))
    parts = [f"{result.spent[part]:.1f}" if result.spent[part] else "" for part in PARTS]
    pairs = zip(result.selected, default.selected, strict=False)
    shares = [len(rows & default_rows) / len(rows) for rows, default_rows in pairs]
    shared = f"{statistics.mean(shares):.0%}" if shares else ""
    scored = f"{result.scored:,}" if result.scored else ""
    return [name, f"{total:.1f}", f"{total / base:.2f}", f"{result.seconds:.1f}", *parts, scored, shared]


def line(parts: list[str], markdown: bool) -> str:
    if markdown:
        return f"| {' | '.join(parts)} |"
    return parts[0].ljust(12) + "".join(part.rjust(8) for part in parts[1:])


def seconds_to_first_batch(
    rows: Rows, row_numbers: list[int], folder: str, workers: int, args: argparse.Namespace
) -> float:
    """Return the wall time from a dataloader of a round's rows to its first batch, the best of five."""
    model, tokenizer = load(folder, "cpu", "float32")
    with tempfile.TemporaryDirectory() as output:
        way = Way(None, {"dataloader_num_workers": workers})
        trainer = build_trainer(way, Dataset.from_list(rows), row_numbers, model, tokenizer, output, args)
        took = []
        for _ in range(5):
            start = time.perf_counter()
            batches = iter(trainer.get_train_dataloader())
            next(batches)
            took.append(time.perf_counter() - start)
            del batches  # and with it the workers
    return min(took)


def measure(folder: str, rows: Rows, args: argparse.Namespace) -> None:
    """Run every variant and print its time."""
    budget = max(int(len(rows) * args.ratio), 1)
    model, tokenizer = load(folder, "cpu", "float32")
    words = sum(len(" ".join(row.values()).split()) for row in rows)
    print(
        f"{len(rows):,} rows of {words / len(rows):.0f} words, {budget:,} of them trained on in each of {args.epochs} "
        f"epochs in batches of {args.batch}; {model.num_parameters():,} parameters"
    )
    del model, tokenizer
    names = list(dict.fromkeys(["default", "plain", *(args.only or WAYS)]))
    for name in names:
        trained(WAYS[name], rows[:WARM], list(range(4)), folder, args)
    row_numbers, runs = list(range(budget)), dict[str, list[Result]]()
    for _ in range(args.repeats):
        for name in names:
            runs.setdefault(name, []).append(result := trained(WAYS[name], rows, row_numbers, folder, args))
            print(f"{name}: {sum(result.spent[part] for part in PARTS):.1f} CPU s", file=sys.stderr)
            row_numbers = sorted(runs["default"][0].selected[0])
    results = {name: best(run) for name, run in runs.items()}
    print(line(list(COLUMNS), args.markdown))
    if args.markdown:
        print(line(["---"] * len(COLUMNS), True))
    for name in sorted(names, key=list(WAYS).index):
        result = results[name]
        print(line(cells(name, result, results["plain"], results["default"]), args.markdown))
        if result.steps != results["plain"].steps:
            print(f"{name} made {result.steps} updates, and plain training {results['plain'].steps}.")
    alone, two = (seconds_to_first_batch(rows, row_numbers, folder, workers, args) for workers in (0, 2))
    print(f"Seconds to the first batch of a round: {alone:.3f} without workers, {two:.3f} with two.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300, help="rows of the pool (default: %(default)s)")
    parser.add_argument("--ratio", type=float, default=0.05, help="share of rows per round (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--batch", type=int, default=4, help="rows per update (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=list(WAYS), help="ways besides plain and default (default: all)")
    parser.add_argument("--data", type=Path, metavar="FILE", help="Alpaca-form JSON file")
    parser.add_argument("--model", metavar="DIR", help="model with its tokenizer, in a folder")
    parser.add_argument(
        "--repeats", type=int, default=1, help="repeats, of which the best counts (default: %(default)s)"
    )
    parser.add_argument("--markdown", action="store_true", help="print the table in markdown")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    args = parser.parse_args()

    set_up()
    warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing` is deprecated", FutureWarning)
    vocabulary = 8_192
    if args.data is None:
        rows = made_up_rows(args.rows, vocabulary, np.random.default_rng(args.seed))
    else:
        rows = json.loads(args.data.read_text(encoding="utf-8"))[: args.rows]
    with tempfile.TemporaryDirectory() as folder:
        if args.model is None:
            save_tokenizer(folder, vocabulary)
            built(llama(192, 4, vocabulary), "cpu", "float32", args.seed).save_pretrained(folder)
        measure(args.model or folder, rows, args)


if __name__ == "__main__":
    main()
