"""Time IterIT's rounds against plain training on as many rows, and show where the time goes.

Each way trains a fresh copy of one model for the same epochs, batch size and rows an epoch, and saves a checkpoint an
epoch; all in one process, on one thread, after a small run of each for warmth. Ways:

- plain: `SFTTrainer` on the rows that the default chooses first, in every epoch;
- default: IterIT, which scores the whole pool in round 0, and the window of three times the budget later;
- whole pool: the same, with every row scored in every round;
- two scores: default, and `Loss` of the same rows from the forward pass that IFD runs;
- two passes: the same, each score with a pass of its own;
- bfloat16: default, with scoring_dtype="bfloat16";
- reuse: default, with reuse_training_loss=True.

Figures are CPU seconds of the process, which other jobs on the machine change less than seconds on the clock; "times"
is a ratio of these to plain. "prepare" is tokenising and finding the responses, "cond." and "prior" the two halves of
IFD in round 0 (0) and later (+), "greedy" the choice, "data" the rows and dataloaders of the rounds, "save" writing
checkpoints and selections, "train" the rest. "scored" counts rows that went through the model. "shared" is the mean
share of a round's rows that the default chose too. At the end, how long it takes to start dataloader workers, on the
clock: a round's rows have to be known before.

Run: python benchmarks/rounds.py
     python benchmarks/rounds.py --data alpaca.json --model path/to/model --rows 1000
Without --data the rows are made up, with lengths about those of Alpaca; without --model, so is a small Llama.
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
from hf_datasel.formats import Pool, converted
from hf_datasel.rounds.context import Round
from hf_datasel.scores import Loss
from hf_datasel.scoring.logprobs import Forwards
from hf_datasel.scoring.runner import ModelContext
from hf_datasel.selectors import IterIT
from hf_datasel.tokens import Prepared
from hf_datasel.training import choosing

PARTS = ("prepare", "cond. 0", "prior 0", "cond. +", "prior +", "greedy", "data", "save", "train")
COLUMNS = ("way", "CPU s", "times", "s", *PARTS, "scored", "shared")
WARM = 40


# -- the ways --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class WholePool(IterIT):
    """IterIT without a window."""

    def choose(self, round: Round) -> np.ndarray:
        round.state.pop("window", None)
        return super().choose(round)


@dataclass(frozen=True)
class WithLoss(IterIT):
    """IterIT that has the loss of each row too."""

    def choose(self, round: Round) -> np.ndarray:
        rows = round.state.get("window", np.arange(len(round.rows)))
        round.score(Loss(), rows)
        return super().choose(round)


class Way(NamedTuple):
    """How to train: with which selector (None: on given rows), with what settings, and whether passes are shared."""

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
    """CPU seconds by part. A part that begins inside another one is taken out of that."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()
        self._parts = [""]
        self._since = time.process_time()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens here as this part."""
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
        """The function, counted as this part."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return call(*args, **kwargs)

        return counted


class Result(NamedTuple):
    """What a run took, which rows went through the model to be scored, and which were chosen in each round."""

    spent: Counter[str]
    seconds: float
    scored: int
    chosen: list[set[int]]
    steps: int


@contextmanager
def instrumented(clock: Clock, way: Way, rounds: list[int], scored: list[int]) -> Iterator[None]:
    """Have the clock told when each part begins and ends.

    Args:
        rounds: the number of every round is appended as it begins.
        scored: the size of every scoring batch is appended.
    """
    reduced, forward, select = ModelContext.reduced, Forwards.__call__, SelectiveSFTTrainer._select

    def counted_pass(self: ModelContext, sequences: Any, reduction: Any, label: str, *rest: Any) -> np.ndarray:
        half = "prior" if label == "loss_prior" else "cond."
        if not way.shares:
            self._found.clear()
        with clock.part(f"{half} {'+' if rounds[-1] else '0'}"):
            return reduced(self, sequences, reduction, label, *rest)

    def counted_batch(self: Forwards, batch: Any, reductions: Any) -> Any:
        scored.append(len(batch))
        return forward(self, batch, reductions)

    def counted_round(self: SelectiveSFTTrainer, index: int) -> np.ndarray:
        rounds.append(index)
        with clock.part("greedy"):  # what is left of choosing once the rest is taken out
            return select(self, index)

    with ExitStack() as stack:
        for owner, name, part in (
            (Prepared, "marked", "prepare"),
            (SelectiveSFTTrainer, "_rows_dataset", "data"),
            (SFTTrainer, "get_train_dataloader", "data"),
            (SFTTrainer, "_save_checkpoint", "save"),
            (choosing, "save_selection", "save"),
        ):
            stack.enter_context(patch.object(owner, name, _method(clock.wrap(getattr(owner, name), part))))
        for owner, name, call in (
            (ModelContext, "reduced", counted_pass),
            (Forwards, "__call__", counted_batch),
            (SelectiveSFTTrainer, "_select", counted_round),
        ):
            stack.enter_context(patch.object(owner, name, call))
        yield


def _method(call: Callable[..., Any]) -> Callable[..., Any]:
    """A plain function, so that it is bound where it is put into a class."""
    return lambda *args, **kwargs: call(*args, **kwargs)


def trained(way: Way, rows: Rows, given: list[int], folder: str, args: argparse.Namespace) -> Result:
    """Train in one way, on a fresh copy of the model.

    Args:
        given: the rows to train on, where nothing is chosen; as many as are chosen otherwise.
    """
    model, tokenizer = load(folder, "cpu", "float32")
    pool = Dataset.from_list(rows)
    clock, rounds, scored = Clock(), list[int](), list[int]()
    set_seed(args.seed)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as output, instrumented(clock, way, rounds, scored):
        with clock.part("prepare"):
            trainer = made(way, pool, given, model, tokenizer, output, args)
            trainer.remove_callback(PrinterCallback)
        with clock.part("train"):
            trainer.train()
        seconds = time.perf_counter() - start
    chosen = [set(each.indices.tolist()) for each in getattr(trainer, "selections", [])]
    return Result(clock.spent, seconds, sum(scored), chosen, trainer.state.global_step)


def made(
    way: Way, pool: Dataset, given: list[int], model: Any, tokenizer: Any, output: str, args: argparse.Namespace
) -> SFTTrainer:
    """The trainer of a way."""
    settings = {
        "output_dir": output, "num_train_epochs": args.epochs, "per_device_train_batch_size": args.batch,
        "learning_rate": 1e-5, "bf16": False, "gradient_checkpointing": False, "use_cpu": True, "max_length": 512,
        "save_strategy": "epoch", "report_to": "none", "logging_steps": 5, "disable_tqdm": True, **way.settings,
    }  # fmt: skip
    settings["dataloader_pin_memory"] = False
    if way.selector is None:
        data = converted(Pool(pool.select(given)), chat_template=tokenizer.chat_template is not None)
        return SFTTrainer(model=model, args=SFTConfig(**settings), train_dataset=data, processing_class=tokenizer)
    config = SelectiveSFTConfig(**settings, selection_size=len(given))
    return SelectiveSFTTrainer(
        model=model, args=config, train_dataset=pool, processing_class=tokenizer, selector=way.selector
    )


def best(results: list[Result]) -> Result:
    """The run that took the least CPU time."""
    return min(results, key=lambda each: sum(each.spent[part] for part in PARTS))


# -- showing ---------------------------------------------------------------------------------------------------------
def cells(name: str, result: Result, plain: Result, default: Result) -> list[str]:
    """A line of the table."""
    total, base = (sum(each.spent[part] for part in PARTS) for each in (result, plain))
    parts = [f"{result.spent[part]:.1f}" if result.spent[part] else "" for part in PARTS]
    pairs = list(zip(result.chosen, default.chosen, strict=False))
    shared = f"{statistics.mean(len(one & other) / len(one) for one, other in pairs):.0%}" if pairs else ""
    scored = f"{result.scored:,}" if result.scored else ""
    return [name, f"{total:.1f}", f"{total / base:.2f}", f"{result.seconds:.1f}", *parts, scored, shared]


def line(parts: list[str], markdown: bool) -> str:
    if markdown:
        return f"| {' | '.join(parts)} |"
    return parts[0].ljust(12) + "".join(part.rjust(8) for part in parts[1:])


def seconds_to_first_batch(rows: Rows, given: list[int], folder: str, workers: int, args: argparse.Namespace) -> float:
    """Seconds on the clock from a dataloader of a round's rows to its first batch, the best of five."""
    model, tokenizer = load(folder, "cpu", "float32")
    with tempfile.TemporaryDirectory() as output:
        way = Way(None, {"dataloader_num_workers": workers})
        trainer = made(way, Dataset.from_list(rows), given, model, tokenizer, output, args)
        took = []
        for _ in range(5):
            start = time.perf_counter()
            batches = iter(trainer.get_train_dataloader())
            next(batches)
            took.append(time.perf_counter() - start)
            del batches  # and with it the workers
    return min(took)


def measure(folder: str, rows: Rows, args: argparse.Namespace) -> None:
    """Run every way, and print what it took."""
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
    given, found = list(range(budget)), dict[str, list[Result]]()
    for _ in range(args.repeats):
        for name in names:
            found.setdefault(name, []).append(result := trained(WAYS[name], rows, given, folder, args))
            print(f"{name}: {sum(result.spent[part] for part in PARTS):.1f} CPU s", file=sys.stderr)
            given = sorted(found["default"][0].chosen[0])
    results = {name: best(each) for name, each in found.items()}
    print(line(list(COLUMNS), args.markdown))
    if args.markdown:
        print(line(["---"] * len(COLUMNS), True))
    for name in sorted(names, key=list(WAYS).index):
        result = results[name]
        print(line(cells(name, result, results["plain"], results["default"]), args.markdown))
        if result.steps != results["plain"].steps:
            print(f"{name} made {result.steps} updates, and plain training {results['plain'].steps}.")
    alone, two = (seconds_to_first_batch(rows, given, folder, workers, args) for workers in (0, 2))
    print(f"Seconds to the first batch of a round: {alone:.3f} without workers, {two:.3f} with two.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300, help="of the pool (default: %(default)s)")
    parser.add_argument("--ratio", type=float, default=0.05, help="of them trained on a round (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--batch", type=int, default=4, help="rows an update (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=list(WAYS), help="ways besides plain and default (default: all)")
    parser.add_argument("--data", type=Path, metavar="FILE", help="Alpaca-form JSON file")
    parser.add_argument("--model", metavar="DIR", help="model with its tokenizer, in a folder")
    parser.add_argument("--repeats", type=int, default=1, help="the best counts (default: %(default)s)")
    parser.add_argument("--markdown", action="store_true", help="print the table in markdown")
    parser.add_argument("--seed", type=int, default=0, help="of what is made up (default: %(default)s)")
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
