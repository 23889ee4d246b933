"""Compare the golden score with the published procedure, one full forward pass per row and anchor, with equal scores.

The first variant is an efficient version of that procedure: batch 1, no gradients, no cache, zero-shot scores computed
once. The second computes only the logits of the answers, and the third also runs padded batches by length. The tokens
are the same in all variants; for all but the package, they are prepared in advance. One process, one thread.

Run: python benchmarks/nuggets.py --rows 20 --anchors 50
The rows and a small Llama are synthetic, with a small vocabulary, since the LM head is a small part of a large model.
--model takes another model with its tokenizer.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hf_datasel import score
from hf_datasel.formats import canonical_rows
from hf_datasel.scores.nuggets import Nuggets
from hf_datasel.scoring.few_shot_prompts import OneShotPrompts

Rows = list[dict[str, str]]
Task = tuple[np.ndarray, np.ndarray]
"""What stands before an answer, and the answer."""


# -- the variants ----------------------------------------------------------------------------------------------------
def one_by_one(model: Any, tasks: list[Task]) -> list[float]:
    """Summed log-probability of each answer, from all logits."""
    results = []
    for before, answer in tasks:
        ids = torch.from_numpy(np.concatenate([before, answer]))
        logits = model(input_ids=ids[None], use_cache=False).logits[0, len(before) - 1 : -1]
        results.append(-torch.nn.functional.cross_entropy(logits, ids[len(before) :], reduction="sum").item())
    return results


def answers_only(model: Any, tasks: list[Task]) -> list[float]:
    """Summed log-probability of each answer, from the logits of its own tokens."""
    results = []
    for before, answer in tasks:
        ids = torch.from_numpy(np.concatenate([before, answer]))
        logits = model(input_ids=ids[None], use_cache=False, logits_to_keep=len(answer) + 1).logits[0, :-1]
        results.append(-torch.nn.functional.cross_entropy(logits, ids[len(before) :], reduction="sum").item())
    return results


def in_batches(model: Any, tasks: list[Task], tokens: int = 2048) -> list[float]:
    """Summed log-probability of each answer, from the logits of its own tokens, in right-padded batches by length."""
    results = np.zeros(len(tasks))
    remaining = sorted(range(len(tasks)), key=lambda index: -sum(map(len, tasks[index])))
    while remaining:
        width = sum(map(len, tasks[remaining[0]]))
        batch, remaining = remaining[: max(tokens // width, 1)], remaining[max(tokens // width, 1) :]
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        for row, index in enumerate(batch):
            ids[row, : sum(map(len, tasks[index]))] = torch.from_numpy(np.concatenate(tasks[index]))
        states = model.model(input_ids=ids, use_cache=False).last_hidden_state
        for row, index in enumerate(batch):
            start, stop = len(tasks[index][0]), sum(map(len, tasks[index]))
            logits = model.lm_head(states[row, start - 1 : stop - 1])
            results[index] = -torch.nn.functional.cross_entropy(logits, ids[row, start:stop], reduction="sum").item()
    return list(results)


@torch.no_grad()
def golden(
    run: Callable[[Any, list[Task]], list[float]], model: Any, tokenizer: Any, tasks: Rows, rows: Rows
) -> np.ndarray:
    """Return the share of the tasks that each row wins, with full sequences."""
    tokens = OneShotPrompts(tokenizer)
    anchors = [tokens.anchor(row, "alpaca") for row in canonical_rows(columns(tasks))]
    zero = np.array(run(model, [(anchor.alone, anchor.answer) for anchor in anchors]))
    shares = []
    for ids in tokens.examples(canonical_rows(columns(rows)), "alpaca"):
        pairs = [(np.concatenate([ids, anchor.after_example]), anchor.answer) for anchor in anchors]
        shares.append((np.array(run(model, pairs)) > zero).mean())
    return np.array(shares)


def with_hf_datasel(model: Any, tokenizer: Any, file: str, rows: Rows) -> np.ndarray:
    """Score with the package."""
    scored = score(datasets.Dataset.from_list(rows), [Nuggets(anchor_file=file)], model, tokenizer)
    return np.array(scored["golden"][:], dtype=np.float64)


# -- rows and model --------------------------------------------------------------------------------------------------
def columns(rows: Rows) -> dict[str, list[str]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def made_up_rows(count: int, question: int, answer: int, vocabulary: int, rng: np.random.Generator) -> Rows:
    """Make rows of made-up words, with log-normal lengths around these."""

    def text(typical: int) -> str:
        return " ".join(
            f"w{word}" for word in rng.choice(vocabulary - 2, size=int(typical * rng.lognormal(0, 0.3)) + 1)
        )

    return [{"instruction": text(question), "input": "", "output": text(answer)} for _ in range(count)]


def save_small_model(folder: str, hidden: int, vocabulary: int, seed: int) -> None:
    """Build a Llama of two layers with random weights, and a tokenizer of one token a word."""
    words = ["<unk>", "\n", *(f"w{word}" for word in range(vocabulary - 2))]
    backend = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = Split(" ", "removed")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    tokenizer.chat_template = (
        "{% for message in messages %}{{ '\n ' + message['content'] + ' ' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '\n ' }}{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    size = {"hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **size)).save_pretrained(folder)


def compare(folder: str, rows: Rows, tasks: Rows, file: Path) -> None:
    """Run every variant and print its time."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    file.write_text(json.dumps(tasks), encoding="utf-8")
    tokens = OneShotPrompts(tokenizer)
    examples = [len(ids) for ids in tokens.examples(canonical_rows(columns(rows)), "alpaca")]
    anchors = [tokens.anchor(row, "alpaca") for row in canonical_rows(columns(tasks))]
    lengths = [len(anchor.after_example) + len(anchor.answer) for anchor in anchors]
    print(
        f"{len(rows)} rows of {np.mean(examples):.0f} tokens, {len(tasks)} anchors of {np.mean(lengths):.0f}, "
        f"{model.num_parameters():,} parameters, fp32, 1 thread"
    )
    plain = {"batch 1, all logits": one_by_one, "batch 1, answers' logits": answers_only, "batches": in_batches}
    variants: dict[str, Callable[[Rows], np.ndarray]] = {
        name: partial(golden, run, model, tokenizer, tasks) for name, run in plain.items()
    }
    variants["hf_datasel"] = partial(with_hf_datasel, model, tokenizer, str(file))
    print(f"{'':30} seconds  of CPU   ratio")
    results, first = {}, 0.0
    for name, variant in variants.items():
        variant(rows[:1])
        start, cpu = time.perf_counter(), time.process_time()
        results[name] = variant(rows)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        first = first or cpu
        print(f"{name:30}{seconds:8.2f}{cpu:8.2f}{first / cpu:8.2f}", flush=True)
    expected = results["batch 1, all logits"]
    for name, scores in results.items():
        if not np.allclose(scores, expected, atol=1e-6):
            raise SystemExit(f"{name} gives other scores, by up to {np.abs(scores - expected).max():.2g}.")
    print(f"Scores are equal, from {expected.min():.2f} to {expected.max():.2f}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20, help="(default: %(default)s)")
    parser.add_argument("--anchors", type=int, default=50, help="(default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=200, help="of a row, about (default: %(default)s)")
    parser.add_argument("--hidden", type=int, default=256, help="of the made-up model (default: %(default)s)")
    parser.add_argument("--vocab", type=int, default=2_000, help="of the made-up model (default: %(default)s)")
    parser.add_argument("--model", metavar="DIR", help="Llama-like model with its tokenizer, in a folder")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    args = parser.parse_args()

    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    rng = np.random.default_rng(args.seed)
    rows = made_up_rows(args.rows, args.tokens // 4, args.tokens - args.tokens // 4, args.vocab, rng)
    tasks = made_up_rows(args.anchors, 16, 45, args.vocab, rng)
    with tempfile.TemporaryDirectory() as folder:
        if args.model is None:
            save_small_model(folder, args.hidden, args.vocab, args.seed)
        compare(args.model or folder, rows, tasks, Path(folder) / "anchors.json")


if __name__ == "__main__":
    main()
