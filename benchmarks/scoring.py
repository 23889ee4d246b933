"""Compare IFD scoring with loops that compute the logits of the full vocabulary, with equal scores.

The loops are efficient versions of the published procedure, with the prompts of Cherry LLM (2308.12032), as in
`IFD(convention="cherry")`. All of them start from the text of the rows and run without gradients and without a cache:

- batch 1: two forward passes per row, with the mean loss that transformers computes from `labels`;
- batches of 8: padded, in dataset order;
- transformers' loss: padded batches by length, with each row's logits passed to the model's own `loss_function`, at
  the fastest of 1, 2, 4, 8 and 16 rows per batch on a subset of the rows;
- lm-eval, if it is installed: its log-likelihoods of continuations in batches of 8, sorted by length;
- hf_datasel.

Times are the best of a few interleaved repeats. Rates, ratios and shares are computed from CPU seconds on one thread,
which other jobs affect less, and on a GPU from seconds. A share is relative to the rate of a large matrix product on
the same device in the same run: see `useful_flops`. Memory is the peak in addition to the loaded model: on a CPU the
resident size in a new process (Linux only), on a GPU the allocated memory. The last table runs scores that share
passes separately and together.

Run: python benchmarks/scoring.py --data alpaca.json --model path/to/model --rows 1000
Without --data the rows are synthetic, with lengths similar to Alpaca. Without --model or a size, two random Llamas are
used.
On a GPU: python benchmarks/scoring.py --device cuda --dtype bfloat16 --shape 8b --rows 1000
"""

import argparse
import importlib.util
import json
import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable
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
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast

from hf_datasel import score
from hf_datasel.scores import IFD, Embedding, Loss
from hf_datasel.scoring.logprobs import LogprobRunner, SummedNLL
from hf_datasel.tokens.sequences import Sequence

MAX_LENGTH = 512
HEADER = "### Response:"
INTRODUCTION = (
    "Below is an instruction that describes a task{}. Write a response that appropriately completes the request."
)
PAIRED = ", paired with an input that provides further context"
WITHOUT_INPUT = f"{INTRODUCTION.format('')}\n\n### Instruction:\n{{instruction}}\n\n{HEADER}"
WITH_INPUT = f"{INTRODUCTION.format(PAIRED)}\n\n### Instruction:\n{{instruction}}\n\n### Input:\n{{input}}\n\n{HEADER}"
Rows = list[dict[str, str]]
Pair = tuple[list[int], int]
"""Token ids, and where the response starts in them."""
Losses = Callable[[Any, list[Pair]], list[float]]
Run = Callable[[Rows, Any, Any], np.ndarray]
"""Takes rows, model and tokenizer; gives the IFD of each row, NaN where it has none."""


# -- the variants ----------------------------------------------------------------------------------------------------
def encode(rows: Rows, tokenizer: Any) -> list[list[Pair]]:
    """Tokenize rows behind the Alpaca prompt, and their responses alone. Empty where there is no response left."""
    prompts = [(WITH_INPUT if row["input"] else WITHOUT_INPUT).format(**row) for row in rows]
    starts = [len(ids) for ids in tokenizer(prompts).input_ids]
    header = len(tokenizer(HEADER).input_ids)
    full_texts = tokenizer([prompt + row["output"] for prompt, row in zip(prompts, rows, strict=True)]).input_ids
    response_only = tokenizer([HEADER + row["output"] for row in rows]).input_ids
    both = [
        [(full_ids[:MAX_LENGTH], start), (answer[: max(MAX_LENGTH - start + 4, 0)], header)]
        for full_ids, start, answer in zip(full_texts, starts, response_only, strict=True)
    ]
    return [pairs if all(start < len(ids) for ids, start in pairs) else [] for pairs in both]


def one_by_one(rows: Rows, model: Any, tokenizer: Any) -> np.ndarray:
    """Score as published code does, one row at a time."""
    return np.concatenate([in_batches([row], model, tokenizer, transformers_losses, 1, False) for row in rows])


@torch.no_grad()
def in_batches(rows: Rows, model: Any, tokenizer: Any, losses: Losses, size: int, by_length: bool) -> np.ndarray:
    """Score in padded batches of so many rows."""
    encoded = encode(rows, tokenizer)
    results = np.full((2, len(rows)), np.nan)
    scored = [row for row, pairs in enumerate(encoded) if pairs]
    for which in (0, 1):
        selected = [(row, encoded[row][which]) for row in scored]
        if by_length:
            selected.sort(key=lambda item: -len(item[1][0]))
        for first in range(0, len(selected), size):
            row, pairs = zip(*selected[first : first + size], strict=True)
            results[which, row] = losses(model, list(pairs))
    ratios: np.ndarray = np.exp(results[0] - results[1])
    return ratios


def padded(pairs: list[Pair], device: torch.device) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The model's inputs, padded on the right, and the labels, which are -100 outside the responses."""
    shape = len(pairs), max(len(ids) for ids, _ in pairs)
    inputs, mask, labels = torch.zeros(shape).long(), torch.zeros(shape).long(), torch.full(shape, -100)
    for row, (ids, start) in enumerate(pairs):
        inputs[row, : len(ids)], mask[row, : len(ids)] = torch.tensor(ids), 1
        labels[row, start : len(ids)] = inputs[row, start : len(ids)]
    return {"input_ids": inputs.to(device), "attention_mask": mask.to(device)}, labels.to(device)


def plain_losses(model: Any, pairs: list[Pair]) -> list[float]:
    """Mean loss of each row, from all logits at once."""
    inputs, labels = padded(pairs, model.device)
    logits = model(**inputs, use_cache=False).logits.float()
    targets = torch.nn.functional.pad(labels, (0, 1), value=-100)[:, 1:]  # shifted here, so that no logits are copied
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    means: list[float] = (losses.view(targets.shape).sum(1) / (targets != -100).sum(1)).tolist()
    return means


def transformers_losses(model: Any, pairs: list[Pair]) -> list[float]:
    """Mean loss of each row through transformers, whose own is the mean over all tokens of a batch."""
    inputs, labels = padded(pairs, model.device)
    if len(pairs) == 1:
        return [model(input_ids=inputs["input_ids"], labels=labels, use_cache=False).loss.item()]
    logits = model(**inputs, use_cache=False).logits
    parts = [(logits[[row], : len(ids)], labels[[row], : len(ids)]) for row, (ids, _) in enumerate(pairs)]
    losses = [model.loss_function(part, target, vocab_size=logits.shape[-1]) for part, target in parts]
    return torch.stack(losses).tolist()


def with_lm_eval(rows: Rows, model: Any, tokenizer: Any) -> np.ndarray:
    """Score with lm-eval's model class, which takes contexts and continuations as token ids."""
    from lm_eval.models.huggingface import HFLM

    encoded = encode(rows, tokenizer)
    scored = [row for row, pairs in enumerate(encoded) if pairs]
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8, max_length=MAX_LENGTH)
    requests = [(("", ""), ids[:start], ids[start:]) for row in scored for ids, start in encoded[row]]
    sums = lm._loglikelihood_tokens(requests, disable_tqdm=True)
    means = [-total / len(answer) for (total, _), (_, _, answer) in zip(sums, requests, strict=True)]
    ratios = np.full(len(rows), np.nan)
    ratios[scored] = np.exp(np.array(means[::2]) - np.array(means[1::2]))
    return ratios


def with_hf_datasel(rows: Rows, model: Any, tokenizer: Any, tokens_per_batch: int | None = None) -> np.ndarray:
    """Score with the package."""
    ifd = IFD(convention="cherry", max_length=MAX_LENGTH)
    scored = score(datasets.Dataset.from_list(rows), ifd, model, tokenizer, tokens_per_batch, lambda line: None)
    return np.array(scored["ifd"][:], dtype=np.float64)


# -- measuring -------------------------------------------------------------------------------------------------------
def timed(run: Callable[[], Any], device: torch.device) -> tuple[Any, np.ndarray]:
    """What a call gives, and three times that it took: seconds, CPU seconds, and those that rates are taken from."""
    finish = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    finish()
    start, cpu = time.perf_counter(), time.process_time()
    results = run()
    finish()
    took = time.perf_counter() - start, time.process_time() - cpu
    return results, np.array([*took, took[device.type == "cpu"]])


def matmul_rate(model: Any) -> float:
    """FLOP/s of a large matrix product in the model's dtype, where the model is: the best of five."""
    size = 8192 if model.device.type == "cuda" else 2048
    left, right = torch.rand(2, size, size, device=model.device, dtype=model.dtype)
    product = partial(torch.mm, left, right, out=torch.empty_like(left))
    product()
    return 2 * size**3 / min(timed(product, model.device)[1][2] for _ in range(5))


def useful_flops(pairs: list[Pair], model: Any) -> float:
    """What the scores need at least, however they are computed: the same number for all variants.

    Two for each weight of the backbone's matrices and real token (embeddings and norms excluded); four for each layer,
    attention channel, and pair of a token with itself or an earlier one; two for each weight of the LM head and
    response token. Padding, logits of prompts, attention to later tokens, and softmax are work that is not counted.
    """
    config, embeddings = model.config, model.get_input_embeddings().weight
    matrices = sum(value.numel() for value in model.base_model.parameters() if value.ndim == 2) - embeddings.numel()
    heads = config.num_attention_heads
    channels = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    lengths = np.array([len(ids) for ids, _ in pairs], dtype=np.float64)
    attended = (lengths * (lengths + 1) / 2).sum()
    answers = sum(len(ids) - start for ids, start in pairs)
    head = 2 * config.vocab_size * config.hidden_size * answers
    return float(2 * matrices * lengths.sum() + 4 * config.num_hidden_layers * channels * attended + head)


def load(folder: str, device: str, dtype: str) -> tuple[Any, Any]:
    set_up()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    return model.to(device).eval(), AutoTokenizer.from_pretrained(folder)


def set_up() -> None:
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # published code tokenizes whole rows, then cuts


def resident(entry: str) -> float:
    """MB of this process now (VmRSS), or at most so far (VmHWM)."""
    return int(Path("/proc/self/status").read_text(encoding="utf-8").split(f"{entry}:")[1].split()[0]) / 1024


def peak_in_new_process(run: Run, folder: str, dtype: str, rows: Rows) -> float:
    """MB that a variant needs at its peak, over the loaded model. For a process of its own."""
    model, tokenizer = load(folder, "cpu", dtype)
    run(rows[:2], model, tokenizer)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts again from here
    run(rows, model, tokenizer)
    return resident("VmHWM") - before


def peak_memory(run: Run, folder: str, rows: Rows, model: Any, tokenizer: Any) -> float:
    """The same; of what is allocated, where the model is on a GPU. NaN where there is no /proc."""
    if model.device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run(rows, model, tokenizer)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if not Path("/proc/self/clear_refs").exists():
        return math.nan
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(peak_in_new_process, run, folder, str(model.dtype)[6:], rows).result()


# -- comparing -------------------------------------------------------------------------------------------------------
def best_size(rows: Rows, model: Any, tokenizer: Any) -> int:
    """Rows a batch with which transformers' loss takes the least time, on a part of the rows."""
    part = rows[:: -(-len(rows) // 16)]
    took = dict.fromkeys((1, 2, 4, 8, 16), math.inf)
    for _ in range(2):
        for size in took:
            run = partial(in_batches, losses=transformers_losses, size=size, by_length=True)
            spent = timed(partial(run, part, model, tokenizer), model.device)[1]
            took[size] = min(took[size], spent[2])
    print(f"transformers' loss on {len(part)} rows, seconds: " + ", ".join(f"{took[b]:.2f} at {b}" for b in took))
    return min(took, key=lambda size: took[size])


def compare(model: Any, tokenizer: Any, folder: str, rows: Rows, args: argparse.Namespace) -> None:
    """Run every variant and print what it took."""
    pairs = [pair for both in encode(rows, tokenizer) for pair in both]
    tokens, flops = sum(len(ids) for ids, _ in pairs), useful_flops(pairs, model)
    print(f"\n{len(rows):,} rows, {tokens:,} tokens, {model.num_parameters():,} parameters, {args.dtype}")
    size = best_size(rows, model, tokenizer)
    by_length = partial(in_batches, losses=transformers_losses, size=size, by_length=True)
    variants: dict[str, Run] = {
        "batch 1": one_by_one,
        "batches of 8": partial(in_batches, losses=plain_losses, size=8, by_length=False),
        f"transformers' loss, batches of {size}": by_length,
        **({"lm-eval, batches of 8": with_lm_eval} if importlib.util.find_spec("lm_eval") else {}),
        "hf_datasel": partial(with_hf_datasel, tokens_per_batch=args.tokens),
    }
    for run in variants.values():
        run(rows[:2], model, tokenizer)
    rate, results, best = matmul_rate(model), dict[str, np.ndarray](), dict[str, np.ndarray]()
    for _ in range(args.repeats):
        for name, run in variants.items():
            results[name], spent = timed(partial(run, rows, model, tokenizer), model.device)
            best[name] = np.minimum(best.get(name, math.inf), spent)
    rate = max(rate, matmul_rate(model))
    print(f"matrix product: {rate / 1e9:,.1f} GFLOP/s; needed for the scores: {flops / 1e9:,.1f} GFLOP")
    print(f"{'':34} seconds  of CPU  ratio  tokens/s  GFLOP/s  share  peak MB  ratio")
    peaks: list[float] = []
    for name, run in variants.items():
        seconds, cpu, counted = best[name]
        peaks.append(peak_memory(run, folder, rows, model, tokenizer))
        line = f"{name:34}{seconds:8.2f}{cpu:8.2f}{best['batch 1'][2] / counted:7.2f}{tokens / counted:10,.0f}"
        line += f"{flops / counted / 1e9:9.1f}{flops / counted / rate:7.0%}"
        print(f"{line}{peaks[-1]:9.0f}{peaks[0] / peaks[-1]:7.2f}", flush=True)
    check_equal(results, 1e-5 if model.dtype == torch.float32 else 5e-2)


def check_equal(results: dict[str, np.ndarray], tolerance: float) -> None:
    """Stop where a variant gives other scores than the first one."""
    expected, worst = next(iter(results.values())), 0.0
    for name, scores in results.items():
        if not np.array_equal(np.isnan(scores), np.isnan(expected)):
            raise SystemExit(f"{name} leaves other rows without a score.")
        worst = max(worst, float(np.nanmax(np.abs(scores / expected - 1))))
        if worst > tolerance:
            raise SystemExit(f"{name} gives other scores, by up to {worst:.1e} relative.")
    print(f"Scores are equal to {worst:.1e} relative; {int(np.isnan(expected).sum())} rows have none in all of them.")


def compare_shared(model: Any, tokenizer: Any, rows: Rows, args: argparse.Namespace) -> None:
    """Run scores that share passes together, and each alone, and count the rows that the model reads."""
    data = datasets.Dataset.from_list(rows)
    scores = [Loss(), IFD(), Embedding(as_trained=True)]
    score(data.select(range(2)), scores, model, tokenizer, on_summary=lambda line: None)
    print(f"{'':34} seconds  of CPU  rows through the model")
    passed: dict[str, list[int]] = {}
    for name, target in {"Loss": scores[:1], "IFD": scores[1:2], "Embedding": scores[2:], "together": scores}.items():
        counts = passed[name] = list[int]()
        hook = model.base_model.register_forward_pre_hook(
            lambda module, inputs, named, counts=counts: counts.append(len(named["input_ids"])), with_kwargs=True
        )
        run = partial(score, data, target, model, tokenizer, args.tokens, lambda line: None)
        seconds, cpu, _ = timed(run, model.device)[1]
        hook.remove()
        print(f"{name:34}{seconds:8.2f}{cpu:8.2f}{sum(counts):24,}", flush=True)
    if sum(passed["together"]) != sum(passed["IFD"]):
        raise SystemExit("Together the scores run more rows through the model than IFD alone.")


# -- rows and models -------------------------------------------------------------------------------------------------
def made_up_rows(n_rows: int, vocabulary: int, rng: np.random.Generator) -> Rows:
    """Make rows of made-up words, with log-normal lengths."""
    share = 1 / (np.arange(vocabulary) + 3.0)

    def text(typical: float, sigma: float) -> str:
        size = min(math.ceil(rng.lognormal(np.log(typical), sigma)), 500)
        return " ".join(f"w{word}" for word in rng.choice(vocabulary, size=size, p=share / share.sum()))

    return [{"instruction": text(16, 0.6), "input": "", "output": text(45, 1.0)} for _ in range(n_rows)]


def save_tokenizer(folder: str, vocabulary: int) -> None:
    """Build a tokenizer of one token a word."""
    words = ["<unk>", *(f"w{word}" for word in range(vocabulary - 1))]
    backend = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="w0").save_pretrained(folder)


def built(config: LlamaConfig, device: str, dtype: str, seed: int) -> Any:
    """A Llama with random weights, made where it is to run."""
    torch.manual_seed(seed)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()


def largest_budget(model: Any) -> int:
    """The most tokens, of rows of `MAX_LENGTH` with half of it scored, that go through the model at once."""
    forwards, budget = LogprobRunner(model), 0
    row = Sequence(np.arange(MAX_LENGTH), np.arange(MAX_LENGTH // 2, MAX_LENGTH))
    while True:
        target = 2 * budget or 4096
        run = partial(torch.no_grad()(forwards), [row] * (target // MAX_LENGTH), [SummedNLL()])
        try:
            spent = timed(run, model.device)[1]
        except torch.OutOfMemoryError:
            return budget
        budget = target
        print(f"tokens_per_batch={budget:,}: {budget / spent[0]:,.0f} tokens/s", flush=True)


def llama(hidden: int, layers: int, vocabulary: int, **more: int) -> LlamaConfig:
    size = {"intermediate_size": 4 * hidden, "num_attention_heads": max(hidden // 64, 4), **more}
    return LlamaConfig(hidden_size=hidden, num_hidden_layers=layers, vocab_size=vocabulary, **size)


def configs(args: argparse.Namespace) -> list[LlamaConfig]:
    """The made-up models: that of --shape, or that of the size asked for, or the two defaults."""
    if args.shape == "8b":
        heads = {"num_attention_heads": 32, "num_key_value_heads": 8}
        return [llama(4_096, 32, 128_256, intermediate_size=14_336, **heads)]
    if args.hidden or args.layers or args.vocab:
        return [llama(args.hidden or 512, args.layers or 4, args.vocab or 32_000)]
    return [llama(96, 3, 2_048), llama(512, 4, 32_000)]


def measure(folder: str, config: LlamaConfig | None, args: argparse.Namespace) -> None:
    """Compare on one model: that in the folder, or one that is made up from a config."""
    if config is not None:
        save_tokenizer(folder, config.vocab_size)
    if args.shape == "8b":  # never on the disk, nor in main memory
        model, tokenizer = built(config, args.device, args.dtype, args.seed), AutoTokenizer.from_pretrained(folder)
        print(f"largest tokens_per_batch that fits: {largest_budget(model):,}")
    else:
        if config is not None:
            built(config, "cpu", "float32", args.seed).save_pretrained(folder)
        model, tokenizer = load(folder, args.device, args.dtype)
    n_rows = args.rows or (256 if model.num_parameters() < 1e7 else 48)
    if args.data is None:
        rows = made_up_rows(n_rows, model.config.vocab_size, np.random.default_rng(args.seed))
    else:
        rows = json.loads(args.data.read_text(encoding="utf-8"))[:n_rows]
    compare(model, tokenizer, folder, rows, args)
    compare_shared(model, tokenizer, rows, args)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, help="(default: 256 for a model of under 10M parameters, else 48)")
    parser.add_argument("--data", type=Path, metavar="FILE", help="Alpaca-form JSON file")
    parser.add_argument("--model", metavar="DIR", help="model with its tokenizer, in a folder")
    parser.add_argument("--shape", choices=["8b"], help="make up a model of the size of Llama 3 8B, on a GPU")
    for option in ("--hidden", "--layers", "--vocab"):
        parser.add_argument(option, type=int, help="of one made-up model, instead of the two")
    parser.add_argument("--device", default="cpu", help="(default: %(default)s)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--tokens", type=int, help="tokens_per_batch of hf_datasel, instead of its default")
    parser.add_argument("--repeats", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    args = parser.parse_args()
    if args.shape == "8b" and torch.device(args.device).type != "cuda":
        parser.error("--shape 8b needs --device cuda: it is built on the device.")

    set_up()
    for config in [None] if args.model else configs(args):
        with tempfile.TemporaryDirectory() as folder:
            measure(args.model or folder, config, args)


if __name__ == "__main__":
    main()
