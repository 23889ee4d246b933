"""Time IFD scoring against the loop of published code, and against that loop in batches, for equal scores.

The loop is the published procedure done well: batch 1, two forward passes a row, logits of the whole vocabulary at
every position, no gradients, no cache. The second variant runs the same on length-sorted padded batches. Both follow
the prompts of Cherry LLM (2308.12032), as `IFD(convention="cherry")` does; all three begin with the rows' text.
Times are taken in one process, one variant after the other, on one thread. Memory is taken in a fresh process a
variant: the highest resident size while it runs, less that with the model loaded and a few rows scored (Linux only).

Run: python benchmarks/scoring.py --data alpaca.json --model path/to/model --rows 1000
Without --data the rows are made up, with lengths about those of Alpaca; without --model so is a small Llama.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hf_datasel import score
from hf_datasel.scores import IFD

MAX_LENGTH = 512
HEADER = "### Response:"
WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n"
    f"{HEADER}"
)
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    f"### Instruction:\n{{instruction}}\n\n{HEADER}"
)
Rows = list[dict[str, str]]
Pair = tuple[list[int], int]
"""Token ids, and where the response starts in them."""


# -- the variants ----------------------------------------------------------------------------------------------------
def encode(row: dict[str, str], tokenizer: Any) -> tuple[Pair, Pair]:
    """Tokenize the row behind the Alpaca prompt, and its response alone, behind the end of that prompt."""
    prompt = WITH_INPUT.format(**row) if row["input"] else WITHOUT_INPUT.format(**row)
    start, header = len(tokenizer(prompt).input_ids), len(tokenizer(HEADER).input_ids)
    whole = tokenizer(prompt + row["output"]).input_ids[:MAX_LENGTH]
    alone = tokenizer(HEADER + row["output"]).input_ids[: max(MAX_LENGTH - start + 4, 0)]
    return (whole, start), (alone, header)


@torch.no_grad()
def one_by_one(rows: Rows, model: Any, tokenizer: Any) -> np.ndarray:
    """Score as published code does, one row at a time."""
    found = np.full(len(rows), np.nan)
    for at, row in enumerate(rows):
        losses = []
        for ids, start in encode(row, tokenizer):
            if start >= len(ids):
                break
            inputs = torch.tensor([ids])
            labels = inputs.clone()
            labels[:, :start] = -100
            losses.append(model(input_ids=inputs, labels=labels, use_cache=False).loss.item())
        if len(losses) == 2:
            found[at] = np.exp(losses[0] - losses[1])
    return found


def by_length(pairs: list[Pair], tokens: int) -> Iterator[list[int]]:
    """Group positions, longest first, so that a padded batch has at most so many tokens."""
    left = sorted(range(len(pairs)), key=lambda at: -len(pairs[at][0]))
    while left:
        size = max(tokens // max(len(pairs[left[0]][0]), 1), 1)
        yield left[:size]
        left = left[size:]


@torch.no_grad()
def in_batches(rows: Rows, model: Any, tokenizer: Any, tokens: int = 8192) -> np.ndarray:
    """Score in length-sorted padded batches, with all logits."""
    encoded = [encode(row, tokenizer) for row in rows]
    losses = np.full((2, len(rows)), np.nan)
    for which in (0, 1):
        pairs = [both[which] for both in encoded]
        for batch in by_length(pairs, tokens):
            width = len(pairs[batch[0]][0])
            inputs, mask = torch.zeros(2, len(batch), width, dtype=torch.long)
            labels = torch.full((len(batch), width), -100)
            for at, (ids, start) in enumerate(pairs[each] for each in batch):
                inputs[at, : len(ids)], mask[at, : len(ids)] = torch.tensor(ids), 1
                labels[at, start : len(ids)] = inputs[at, start : len(ids)]
            logits = model(input_ids=inputs, attention_mask=mask, use_cache=False).logits[:, :-1]
            each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="none").sum(1)
            losses[which, batch] = (each / (labels != -100).sum(1)).numpy()
    found: np.ndarray = np.exp(losses[0] - losses[1])
    return found


def with_hf_datasel(rows: Rows, model: Any, tokenizer: Any) -> np.ndarray:
    """Score with the package."""
    scores = [IFD(convention="cherry", max_length=MAX_LENGTH)]
    scored = score(datasets.Dataset.from_list(rows), scores, model, tokenizer, on_summary=lambda line: None)
    return np.array(scored["ifd"][:], dtype=np.float64)


VARIANTS: dict[str, Callable[[Rows, Any, Any], np.ndarray]] = {
    "batch 1, all logits": one_by_one,
    "batches by length, all logits": in_batches,
    "hf_datasel": with_hf_datasel,
}


# -- measuring -------------------------------------------------------------------------------------------------------
def load(folder: str) -> tuple[Any, Any]:
    """Load model and tokenizer for one thread, without progress bars."""
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # published code tokenizes whole rows, then cuts
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def resident(entry: str) -> float:
    """MB of this process now (VmRSS), or at most so far (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(entry)) / 1024


def peak_memory(variant: str, folder: str, rows: Rows) -> float:
    """MB that a variant needs at its peak, over the loaded model. For a process of its own."""
    model, tokenizer = load(folder)
    VARIANTS[variant](rows[:2], model, tokenizer)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts again from here
    VARIANTS[variant](rows, model, tokenizer)
    return resident("VmHWM") - before


def in_new_process(variant: str, folder: str, rows: Rows) -> float:
    """Measure the peak in a fresh process; NaN where there is no /proc."""
    if not Path("/proc/self/clear_refs").exists():
        return float("nan")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(peak_memory, variant, folder, rows).result()


def timed(run: Callable[[], np.ndarray]) -> tuple[np.ndarray, float, float]:
    """Scores, seconds, and CPU seconds, which other jobs on the machine change less."""
    start, cpu = time.perf_counter(), time.process_time()
    scores = run()
    return scores, time.perf_counter() - start, time.process_time() - cpu


# -- rows and model --------------------------------------------------------------------------------------------------
def made_up_rows(n_rows: int, vocabulary: int, rng: np.random.Generator) -> Rows:
    """Make rows of made-up words, with log-normal lengths."""
    share = 1 / (np.arange(vocabulary) + 3.0)

    def text(typical: float, sigma: float) -> str:
        size = int(rng.lognormal(np.log(typical), sigma).__ceil__())
        return " ".join(f"w{word}" for word in rng.choice(vocabulary, size=min(size, 500), p=share / share.sum()))

    return [{"instruction": text(16, 0.6), "input": "", "output": text(45, 1.0)} for _ in range(n_rows)]


def save_small_model(folder: str, hidden: int, vocabulary: int, seed: int) -> None:
    """Build a Llama of two layers with random weights, and a tokenizer of one token a word."""
    words = ["<unk>", *(f"w{word}" for word in range(vocabulary - 1))]
    backend = Tokenizer(WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>").save_pretrained(folder)
    torch.manual_seed(seed)
    size = {"hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **size)).save_pretrained(folder)


def compare(folder: str, rows: Rows) -> None:
    """Run every variant and print what it took."""
    model, tokenizer = load(folder)
    tokens = sum(len(ids) for row in rows for ids, _ in encode(row, tokenizer))
    print(
        f"{len(rows):,} rows, {tokens:,} tokens in both passes, {model.num_parameters():,} parameters, fp32, 1 thread"
    )
    print(f"{'':30} seconds  of CPU   ratio  peak MB   ratio")
    found, first = {}, None
    for variant, run in VARIANTS.items():
        run(rows[:2], model, tokenizer)
        found[variant], seconds, cpu = timed(partial(run, rows, model, tokenizer))
        peak = in_new_process(variant, folder, rows)
        first = first or (cpu, peak)
        ratios = first[0] / cpu, first[1] / peak
        print(f"{variant:30}{seconds:8.2f}{cpu:8.2f}{ratios[0]:8.2f}{peak:9.0f}{ratios[1]:8.2f}", flush=True)
    expected = found["batch 1, all logits"]
    for variant, scores in found.items():
        if not np.array_equal(np.isnan(scores), np.isnan(expected)):
            raise SystemExit(f"{variant} leaves other rows without a score.")
        worst = float(np.nanmax(np.abs(scores / expected - 1)))
        if worst > 1e-5:
            raise SystemExit(f"{variant} gives other scores, by up to {worst:.1e} relative.")
    print(f"Scores are equal to {worst:.1e} relative; {int(np.isnan(expected).sum())} rows have none in all of them.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=256, help="(default: %(default)s)")
    parser.add_argument("--hidden", type=int, default=128, help="of the made-up model (default: %(default)s)")
    parser.add_argument("--vocab", type=int, default=32_000, help="of the made-up model (default: %(default)s)")
    parser.add_argument("--data", type=Path, metavar="FILE", help="Alpaca-form JSON file")
    parser.add_argument("--model", metavar="DIR", help="model with its tokenizer, in a folder")
    parser.add_argument("--seed", type=int, default=0, help="of what is made up (default: %(default)s)")
    args = parser.parse_args()

    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        if args.model is None:
            save_small_model(folder, args.hidden, args.vocab, args.seed)
        if args.data is None:
            rows = made_up_rows(args.rows, args.vocab, np.random.default_rng(args.seed))
        else:
            rows = json.loads(args.data.read_text(encoding="utf-8"))[: args.rows]
        compare(args.model or folder, rows)


if __name__ == "__main__":
    main()
