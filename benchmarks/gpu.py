"""Measure scoring, training and rounds on one GPU, as shares of what its matrix products reach.

Models have random weights in the shapes of Llama 3 8B and SmolLM2-135M; speed does not depend on the values. Rows are
made up and of equal length, two thirds of each are the response. For each shape and length:

- response only: the loss of response tokens as the package computes it, without the logits of prompts;
- full logits: the same batches through the model with all logits and torch's cross-entropy;
- Loss, IFD: `hf_datasel.score`, from the text of the rows to the columns;
- selecting, training: `SelectiveSFTTrainer` with IterIT and LoRA, two rounds of a quarter of the rows, as it accounts
  for them in `cost.json`.

The number of rows follows from the speed of a matrix product, so that each measurement takes about `--seconds`. Tokens
are those of the rows, once per forward pass. FLOPs are those that the result needs: of response tokens alone in the LM
head for scores (see `useful_flops` in scoring.py), and 2 N per token forward and 2 N backward for N parameters in
training, without recomputed activations. The share is relative to a large matrix product on the same device in the
same run. Memory is the most that was allocated on the GPU, with the model; on a CPU it is not measured.

Run: python benchmarks/gpu.py --markdown
     python benchmarks/gpu.py --shapes smollm2 --lengths 300 --device cpu --dtype float32 --seconds 2
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from peft import LoraConfig
from scoring import Pair, built, llama, matmul_rate, plain_losses, save_tokenizer, set_up, timed, useful_flops
from transformers import AutoTokenizer, PrinterCallback

from hf_datasel import SelectiveSFTConfig, SelectiveSFTTrainer, score
from hf_datasel.scores import IFD, Loss
from hf_datasel.scoring.cost import measure_cost
from hf_datasel.scoring.logprobs import LogprobRunner, SummedNLL
from hf_datasel.tokens.sequences import Sequence

SHAPES = {
    "8b": llama(4_096, 32, 128_256, intermediate_size=14_336, num_attention_heads=32, num_key_value_heads=8),
    "smollm2": llama(
        576,
        30,
        49_152,
        intermediate_size=1_536,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    ),
    "tiny": llama(32, 2, 128),
}
COLUMNS = ("shape", "tokens a row", "what", "rows", "tokens/s", "TFLOP/s", "share", "peak GB", "s")
USUAL_SHARE = 0.3  # of the matrix product, from which the number of rows is estimated


@dataclass
class Bench:
    """One model and rows of one length.

    Attributes:
        shape: Name of the shape.
        model: The model, on its device.
        tokenizer: Tokenizer with one token per word.
        length: Tokens of a row, with the end token.
        rate: FLOP/s of a large matrix product.
        seconds: Duration to aim at per measurement.
        tokens_per_batch: Padded tokens of a batch; None for the package's default.
    """

    shape: str
    model: Any
    tokenizer: Any
    length: int
    rate: float
    seconds: float
    tokens_per_batch: int | None

    @property
    def prompt(self) -> int:
        return self.length // 3

    def pairs(self, n_rows: int, is_prior: bool = False) -> list[Pair]:
        """Token ids of rows, and where the response starts; for the prior of IFD the response after one token."""
        rng = np.random.default_rng(0)
        start = 1 if is_prior else self.prompt
        length = self.length - self.prompt + 1 if is_prior else self.length
        words = rng.integers(1, self.model.config.vocab_size - 1, size=(n_rows, length))
        return [(row.tolist(), start) for row in words]

    def dataset(self, n_rows: int) -> datasets.Dataset:
        """Rows whose text has these lengths; the end token that training adds is the last one."""
        texts = [[f"w{word}" for word in ids[:-1]] for ids, _ in self.pairs(n_rows)]
        parts = {"prompt": [" ".join(text[: self.prompt]) for text in texts]}
        parts["completion"] = [" " + " ".join(text[self.prompt :]) for text in texts]
        return datasets.Dataset.from_dict(parts)

    def rows_for(self, flops_per_row: float) -> int:
        return int(np.clip(self.seconds * USUAL_SHARE * self.rate / flops_per_row, 8, 4_000))

    # -- measurements -------------------------------------------------------------------------------------------------
    def forward_passes(self) -> Iterator[list[str]]:
        """Measure equal batches with and without the logits of prompts."""
        n_rows = self.rows_for(useful_flops(self.pairs(1), self.model))
        pairs = self.pairs(n_rows)
        budget = self.tokens_per_batch or (1_024 if self.model.device.type == "cpu" else 16_384)
        size = max(budget // self.length, 1)
        batches = [pairs[start : start + size] for start in range(0, n_rows, size)]
        runner = LogprobRunner(self.model)

        def response_only(batch: list[Pair]) -> np.ndarray:
            sequences = [Sequence(np.array(ids), np.arange(start, len(ids))) for ids, start in batch]
            sums = runner(sequences, [SummedNLL()])[0]
            return np.asarray(sums[:, 0] / sums[:, 1])

        ways: dict[str, Callable[[list[Pair]], Any]] = {
            "response only": torch.no_grad()(response_only),
            "full logits": torch.no_grad()(partial(plain_losses, self.model)),
        }
        means = {}
        for name, way in ways.items():
            try:
                way(batches[0])
                run = partial(list, map(way, batches))
                results, seconds, peak = self.measured(run)
            except torch.OutOfMemoryError:
                yield self.line(name, n_rows, None, None, math.nan, math.nan)
                continue
            means[name] = np.concatenate(results)
            yield self.line(name, n_rows, n_rows * self.length, useful_flops(pairs, self.model), seconds, peak)
        tolerance = 1e-4 if self.model.dtype == torch.float32 else 5e-2
        if len(means) == 2 and not np.allclose(*means.values(), rtol=tolerance):
            raise SystemExit("The losses of response tokens differ from those of all logits.")

    def scores(self) -> Iterator[list[str]]:
        """Measure Loss and IFD from text to columns."""
        one = useful_flops(self.pairs(1), self.model)
        prior = useful_flops(self.pairs(1, is_prior=True), self.model)
        for name, each, flops in (
            ("Loss", Loss(max_length=self.length), one),
            ("IFD", IFD(max_length=self.length), one + prior),
        ):
            n_rows = self.rows_for(flops)
            data = self.dataset(n_rows)
            quiet = partial(score, on_summary=lambda line: None, scoring_tokens_per_batch=self.tokens_per_batch)
            quiet(data.select(range(4)), each, self.model, self.tokenizer)
            with measure_cost(self.model.device) as meter:
                _, seconds, peak = self.measured(partial(quiet, data, each, self.model, self.tokenizer))
            yield self.line(name, n_rows, meter.cost["tokens_forward"], flops * n_rows, seconds, peak)

    def rounds(self) -> Iterator[list[str]]:
        """Measure the phases of a run with two rounds; the adapter is removed again."""
        parameters = self.model.num_parameters()
        n_rows = max(self.rows_for(8 * parameters * self.length) // 8 * 8, 16)
        is_gpu = self.model.device.type == "cuda"
        with tempfile.TemporaryDirectory() as folder:
            args = SelectiveSFTConfig(
                output_dir=folder,
                selector="iterit",
                selection_ratio=0.25,
                num_train_epochs=2,
                per_device_train_batch_size=4,
                max_length=self.length,
                learning_rate=1e-4,
                gradient_checkpointing=is_gpu,
                bf16=self.model.dtype == torch.bfloat16,
                use_cpu=not is_gpu,
                scoring_tokens_per_batch=self.tokens_per_batch,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
            )
            adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
            trainer = SelectiveSFTTrainer(
                self.model,
                args,
                train_dataset=self.dataset(n_rows),
                processing_class=self.tokenizer,
                peft_config=adapter,
            )
            trainer.remove_callback(PrinterCallback)
            if is_gpu:
                torch.cuda.reset_peak_memory_stats()
            trainer.train()
            costs = trainer.costs
        self.model = trainer.model.unload()
        for phase in ("selecting", "training"):
            cost = costs[phase]
            peak = (cost["peak_memory"] or math.nan) / 1e9 if is_gpu else math.nan
            yield self.line(phase, n_rows, cost["tokens_forward"], cost["flops"], cost["wall_seconds"], peak)

    def measured(self, run: Callable[[], Any]) -> tuple[Any, float, float]:
        """Return what a call gives, its seconds, and the GB that were allocated at its peak."""
        is_gpu = self.model.device.type == "cuda"
        if is_gpu:
            torch.cuda.reset_peak_memory_stats()
        results, spent = timed(run, self.model.device)
        return results, float(spent[0]), torch.cuda.max_memory_allocated() / 1e9 if is_gpu else math.nan

    def line(
        self, what: str, n_rows: int, tokens: int | None, flops: float | None, seconds: float, peak: float
    ) -> list[str]:
        if tokens is None or flops is None:
            return [self.shape, f"{self.length:,}", what, f"{n_rows:,}", *["out of memory"] + [""] * 4]
        achieved = flops / seconds
        figures = [f"{tokens / seconds:,.0f}", f"{achieved / 1e12:.3g}", f"{achieved / self.rate:.0%}"]
        memory = "" if math.isnan(peak) else f"{peak:.1f}"
        return [self.shape, f"{self.length:,}", what, f"{n_rows:,}", *figures, memory, f"{seconds:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    has_gpu = torch.cuda.is_available()
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, metavar="SHAPE",
                        help=f"of {', '.join(SHAPES)} (default: 8b and smollm2 on a GPU, else tiny)")  # fmt: skip
    parser.add_argument("--lengths", nargs="+", type=int, default=[300, 2_000], help="tokens of a row")
    parser.add_argument("--device", default="cuda" if has_gpu else "cpu", help="(default: %(default)s)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16" if has_gpu else "float32")
    parser.add_argument("--tokens", type=int, help="scoring_tokens_per_batch, instead of the default")
    parser.add_argument("--seconds", type=float, default=15, help="of each measurement, about (default: %(default)s)")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    args = parser.parse_args()

    set_up()
    name = torch.cuda.get_device_name() if args.device.startswith("cuda") else "CPU, one thread"
    print(f"{name}; {args.dtype}; torch {torch.__version__}\n")
    separator = " | " if args.markdown else "  "
    print(separator.join(COLUMNS) if not args.markdown else f"| {separator.join(COLUMNS)} |")
    if args.markdown:
        print(f"|{' --- |' * len(COLUMNS)}")
    begin = time.perf_counter()
    for shape in args.shapes or (["8b", "smollm2"] if has_gpu else ["tiny"]):
        model = built(SHAPES[shape], args.device, args.dtype, seed=0)
        rate = matmul_rate(model)
        with tempfile.TemporaryDirectory() as folder:
            save_tokenizer(folder, model.config.vocab_size)
            tokenizer = AutoTokenizer.from_pretrained(Path(folder))
        for length in args.lengths:
            bench = Bench(shape, model, tokenizer, length, rate, args.seconds, args.tokens)
            for part in (bench.forward_passes, bench.scores, bench.rounds):
                for cells in part():
                    print(f"| {separator.join(cells)} |" if args.markdown else separator.join(cells), flush=True)
            model = bench.model
        print(f"matrix product of {shape}: {rate / 1e12:.3g} TFLOP/s", flush=True)
        del model, bench
    print(f"{time.perf_counter() - begin:.0f} seconds in all")


if __name__ == "__main__":
    main()
