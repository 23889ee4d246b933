"""Measure what selecting costs in the rounds of IterIT, compared with training, and what each way to pay less changes.

One model is trained by IterIT: before each epoch it scores rows and selects the budget. At the same moments, with the
same weights, each other way selects as well, with the window and the state of its own earlier rounds; its rows are not
trained on. Ways:

- exact: IterIT with its defaults;
- once: `reselection_strategy="no"`, which trains on the rows of round 0 in every epoch;
- store: the same, with the scores of round 0 in a score store (`score_store`), as in every run after the first one;
- prior: `IterIT(prior="first-round")`, which keeps the loss without the prompt of round 0;
- reuse: `reuse_training_loss=True`, which takes the loss of a row from the step that trained on it;
- all three: the score store, the prior of the first round and the losses of training steps together;
- bfloat16: `scoring_dtype="bfloat16"`;
- small first: a smaller model scores all rows, and `TopShare` keeps a share of them for IterIT.

The first table shows the whole run: scored tokens, FLOPs (2 per parameter and token; of training 6), their ratio to
the FLOPs of training, and CPU seconds of forward passes. Passes that an earlier way has run are not run again; their
seconds are those of as many tokens with the same model and data type. The second table shows, for each round, the
Jaccard similarity of the rows with those of the exact way.

Run: python benchmarks/rounds.py --dataset tatsu-lab/alpaca --rows 1000 --model HuggingFaceTB/SmolLM2-135M-Instruct
     --small_model EleutherAI/pythia-14m
Without --dataset the rows are synthetic, with lengths similar to Alpaca; without a model, a random Llama is used.
"""

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from datasets import Dataset, load_dataset
from scoring import built, llama, load, made_up_rows, save_tokenizer, set_up
from transformers import PrinterCallback, set_seed

from hf_datasel import SelectiveSFTConfig, SelectiveSFTTrainer
from hf_datasel.rounds.cache import RoundCache
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.run import run_round
from hf_datasel.rounds.selector import Selector
from hf_datasel.scores import IFD
from hf_datasel.scoring.cost import Cost, Parameters
from hf_datasel.scoring.first_round import FirstRoundLosses
from hf_datasel.scoring.runner import ModelRunner
from hf_datasel.selectors import Chain, IterIT, TopShare
from hf_datasel.training.checkpoint_state import CarriedState
from hf_datasel.training.round_selection import RoundRunner
from hf_datasel.training.schedule import Schedule

Kind = tuple[float, str]
"""Parameters of the model that scores, and the data type of autocast."""


class Way(NamedTuple):
    """One way to select: the selector, and the settings of the trainer that change what it costs."""

    selector: Selector
    once: bool = False
    stored: bool = False
    reuse: bool = False
    dtype: str | None = None


def ways(small_model: str, share: float) -> dict[str, Way]:
    """Return the ways by name; the exact one comes first."""
    small = TopShare(IFD(small_model, column_prefix="small_"), share, high=1.0)
    return {
        "exact": Way(IterIT()),
        "once": Way(IterIT(), once=True),
        "store": Way(IterIT(), stored=True),
        "prior": Way(IterIT(prior="first-round")),
        "reuse": Way(IterIT(), reuse=True),
        "all three": Way(IterIT(prior="first-round"), stored=True, reuse=True),
        "small first": Way(Chain([small], IterIT())),
        "bfloat16": Way(IterIT(), dtype="bfloat16"),
    }


# -- measuring -------------------------------------------------------------------------------------------------------
@dataclass
class Meter:
    """Tokens and times of forward passes.

    Attributes:
        requested: Tokens that the way in progress has to score, by kind.
        run: Tokens that were run, by kind.
        seconds: CPU seconds that these took, by kind.
    """

    requested: Counter[Kind] = field(default_factory=Counter)
    run: Counter[Kind] = field(default_factory=Counter)
    seconds: Counter[Kind] = field(default_factory=Counter)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Count every forward pass in the context."""
        reduce, run_batches = ModelRunner.reduce, ModelRunner._run_batches

        def kind(runner: ModelRunner) -> Kind:
            return Parameters.of(runner.model).active, str(runner.autocast)

        def counted(runner: ModelRunner, sequences: Any, reduction: Any, *more: Any) -> np.ndarray:
            is_new = (sequences, reduction) not in runner._results
            values = reduce(runner, sequences, reduction, *more)
            if is_new:
                known = runner._known_rows.get((sequences, reduction), [])
                self.requested[kind(runner)] += int(sequences.lengths[~np.isin(sequences.owner, known)].sum())
            return values

        def timed(runner: ModelRunner, *arguments: Any) -> int:
            start = time.process_time()
            tokens = run_batches(runner, *arguments)
            self.seconds[kind(runner)] += time.process_time() - start
            self.run[kind(runner)] += tokens
            return tokens

        with patch.object(ModelRunner, "reduce", counted), patch.object(ModelRunner, "_run_batches", timed):
            yield

    def seconds_of(self, tokens: Counter[Kind]) -> float:
        """Return the CPU seconds of as many tokens, at the rates measured so far; NaN without a rate."""
        rates = {kind: self.seconds[kind] / self.run[kind] if self.run[kind] else np.nan for kind in tokens}
        return sum(count * rates[kind] for kind, count in tokens.items())


@dataclass
class Comparison:
    """Selects in all ways at the beginning of each round of one training run.

    Args:
        ways: The ways; the rows of the first one are trained on.
        meter: Counts their passes.

    Attributes:
        selected: Selected rows of each way, by round.
        tokens: Tokens that each way has scored, by kind.
        seconds: CPU seconds spent on all of this.
    """

    ways: dict[str, Way]
    meter: Meter
    selected: dict[str, list[set[int]]] = field(default_factory=lambda: defaultdict(list))
    tokens: dict[str, Counter[Kind]] = field(default_factory=lambda: defaultdict(Counter))
    seconds: float = 0.0
    _states: dict[str, dict[str, np.ndarray]] = field(default_factory=lambda: defaultdict(dict))

    def select(
        self, runner: RoundRunner, index: int, schedule: Schedule, carried: CarriedState, model: Any, optimizer: Any
    ) -> tuple[np.ndarray, None, RoundContext]:
        """Select in all ways; has the arguments of `RoundRunner.run`, which it replaces."""
        start = time.process_time()
        runner.losses.gather()
        results = {}
        for name, way in self.ways.items():
            if way.once and index:
                self.selected[name].append(self.selected[name][0])
                continue
            self.meter.requested.clear()
            rows, context = self._select(way, runner, index, schedule, model, self._states[name])
            results[name] = rows, None, context  # trained on in random order
            if index or not way.stored:
                self.tokens[name] += self.meter.requested
            self.selected[name].append(set(rows.tolist()))
            print(f"round {index}, {name}: {self.describe(name)}", file=sys.stderr)
        runner.losses.clear()
        self.seconds += time.process_time() - start
        return results[next(iter(self.ways))]

    def _select(
        self, way: Way, runner: RoundRunner, index: int, schedule: Schedule, model: Any, state: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, RoundContext]:
        engine = replace(runner.engine(model), first_round_losses=FirstRoundLosses(state))
        if not way.reuse:
            engine.training_losses = None
        if way.dtype is not None:
            engine.autocast = getattr(torch, way.dtype)
        context = RoundContext(
            RoundCache(runner.data.pool, engine.compute, engine.describe),
            budget=schedule.round_plan(index).budget,
            index=index,
            eligible=runner.data.eligible,
            seed=runner.args.seed,
            plan=schedule.plan,
            state=state,
            show_progress=False,
        )
        return run_round(way.selector, context, strict=False), context

    def overlaps(self, name: str) -> list[float]:
        """Return the Jaccard similarity of the rows of a way with those of the first one, by round."""
        exact = next(iter(self.selected.values()))
        return [
            len(rows & others) / len(rows | others) for rows, others in zip(self.selected[name], exact, strict=False)
        ]

    def flops(self, name: str) -> float:
        """Return the FLOPs of a way so far."""
        return sum(2 * parameters * count for (parameters, _), count in self.tokens[name].items())

    def describe(self, name: str) -> str:
        """Return what a way has cost so far, for the progress."""
        tokens, seconds = self.tokens[name].total(), self.meter.seconds_of(self.tokens[name])
        return (
            f"{tokens:,} tokens, {self.flops(name) / 1e12:.1f} TFLOPs and {seconds:.0f} CPU s so far; "
            f"Jaccard {self.overlaps(name)[-1]:.2f}"
        )


def train(model: Any, tokenizer: Any, rows: Dataset, comparison: Comparison, args: argparse.Namespace) -> Cost:
    """Train with the rows of the first way, and return the cost of training alone.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        rows: The pool.
        comparison: Selects the rows.
        args: Arguments of the command line.
    """
    set_seed(args.seed)
    with tempfile.TemporaryDirectory() as output:
        config = SelectiveSFTConfig(
            output_dir=output, num_train_epochs=args.epochs, per_device_train_batch_size=args.batch,
            learning_rate=args.learning_rate, bf16=False, gradient_checkpointing=False, use_cpu=True, max_length=512,
            save_strategy="no", report_to="none", logging_steps=1000, disable_tqdm=True, dataloader_pin_memory=False,
            selection_ratio=args.ratio, reuse_training_loss=True, score_store=args.store or f"{output}/store",
        )  # fmt: skip
        trainer = SelectiveSFTTrainer(
            model=model, args=config, train_dataset=rows, processing_class=tokenizer, selector=IterIT()
        )
        trainer.remove_callback(PrinterCallback)

        def select(runner: RoundRunner, *arguments: Any) -> tuple[np.ndarray, RoundContext]:
            return comparison.select(runner, *arguments)

        with patch.object(RoundRunner, "run", select), comparison.meter.installed():
            trainer.train()
        costs: dict[str, Cost] = json.loads((Path(output) / "cost.json").read_text(encoding="utf-8"))
    return costs["training"]


# -- showing ---------------------------------------------------------------------------------------------------------
def table(head: list[str], lines: list[list[str]], markdown: bool) -> str:
    """Return a table as text."""
    if markdown:
        return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *lines])
    return "\n".join(cells[0].ljust(14) + "".join(cell.rjust(12) for cell in cells[1:]) for cells in [head, *lines])


def show(comparison: Comparison, training: Cost, training_seconds: float, markdown: bool) -> None:
    """Print both tables."""
    ways = {name: (comparison.tokens[name].total(), comparison.flops(name)) for name in comparison.ways}
    seconds = {name: comparison.meter.seconds_of(comparison.tokens[name]) for name in comparison.ways}
    ways["training"], seconds["training"] = (training["tokens_forward"], training["flops"]), training_seconds
    times = {name: "" if np.isnan(value) else f"{value:.0f}" for name, value in seconds.items()}
    lines = [
        [name, f"{tokens:,}", f"{flops / 1e12:.1f}", f"{flops / training['flops']:.2f}", times[name]]
        for name, (tokens, flops) in ways.items()
    ]
    print(table(["way", "tokens", "TFLOPs", "x training", "CPU s"], lines, markdown), end="\n\n")
    rounds = range(len(comparison.selected["exact"]))
    lines = [[name, *(f"{value:.2f}" for value in comparison.overlaps(name))] for name in comparison.ways]
    print(table(["Jaccard", *(f"round {index}" for index in rounds)], lines, markdown))


def read_rows(name: str | None, count: int, seed: int) -> Dataset:
    """Return the first rows of a JSON file, random rows of a dataset on the Hub, or synthetic rows without a name."""
    if name is None:
        return Dataset.from_list(made_up_rows(count, 8_192, np.random.default_rng(seed)))
    if Path(name).is_file():
        return load_dataset("json", data_files=name, split=f"train[:{count}]")
    return load_dataset(name, split="train").shuffle(seed=seed).select(range(count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", metavar="NAME", help="JSON file of rows, or dataset on the Hub")
    parser.add_argument("--rows", type=int, default=300, help="rows of the pool (default: %(default)s)")
    parser.add_argument("--model", metavar="NAME", help="name or folder of the model to train")
    parser.add_argument("--small_model", metavar="NAME", help="name or folder of the model of the first pass")
    parser.add_argument("--share", type=float, default=0.3, help="share that it keeps (default: %(default)s)")
    parser.add_argument("--ratio", type=float, default=0.05, help="share of rows per round (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--batch", type=int, default=4, help="rows per update (default: %(default)s)")
    parser.add_argument("--learning_rate", type=float, default=1e-4, help="(default: %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="WAY", help="ways besides the exact one (default: all)")
    parser.add_argument("--store", metavar="DIR", help="score store to keep, so that another run repeats no pass")
    parser.add_argument("--markdown", action="store_true", help="print the tables in markdown")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    args = parser.parse_args()

    set_up()
    warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing` is deprecated", FutureWarning)
    with tempfile.TemporaryDirectory() as folder:
        names = {"model": args.model, "small": args.small_model}
        for (name, given), layers in zip(names.items(), (4, 1), strict=True):
            if given is None:
                names[name] = f"{folder}/{name}"
                save_tokenizer(names[name], 8_192)
                built(llama(192, layers, 8_192), "cpu", "float32", args.seed).save_pretrained(names[name])
        model, tokenizer = load(names["model"], "cpu", "float32")
        rows = read_rows(args.dataset, args.rows, args.seed)
        selected = {
            name: way
            for name, way in ways(names["small"], args.share).items()
            if args.only is None or name in ("exact", *args.only)
        }
        budget = max(int(len(rows) * args.ratio), 1)
        print(
            f"{len(rows):,} rows, {budget:,} of them trained on in each of {args.epochs} epochs in batches of "
            f"{args.batch}; {model.num_parameters():,} parameters"
        )
        comparison, start = Comparison(selected, Meter()), time.process_time()
        training = train(model, tokenizer, rows, comparison, args)
        show(comparison, training, time.process_time() - start - comparison.seconds, args.markdown)


if __name__ == "__main__":
    main()
