"""Train the base model of the quickstart from scratch: about a minute on one CPU core.

Run: python recipes/quickstart/make_base.py
"""

import argparse
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from world import exact_match, questions, statements, tokenizer

HERE = Path(__file__).parent


def new_model(tok: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """Return a randomly initialized Llama with about 250,000 parameters."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tok),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        attention_dropout=0.0,
        bos_token_id=tok.bos_token_id,
        eos_token_id=tok.eos_token_id,
        pad_token_id=tok.pad_token_id,
    )
    return LlamaForCausalLM(config)


def train(model: LlamaForCausalLM, tok: PreTrainedTokenizerFast, steps: int, seed: int, batch_size: int = 128) -> None:
    """Train on randomly drawn lines, with a linear warm-up and decay of the learning rate."""
    started = time.perf_counter()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=4e-3, total_steps=steps, pct_start=0.05, anneal_strategy="linear", cycle_momentum=False
    )
    lines = [f"{line}<eos>" for line in statements(seed, steps * batch_size)]
    for step in range(1, steps + 1):
        batch = tok(lines[(step - 1) * batch_size : step * batch_size], padding=True, return_tensors="pt")
        labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
        loss = model(**batch, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"step {step:5d}  loss {loss.item():.3f}  {time.perf_counter() - started:.0f} s", flush=True)


def main() -> None:
    """Train the base model, print its exact match before fine-tuning, and save it in half precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output-dir", type=Path, default=HERE / "base")
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    tok = tokenizer()
    model = new_model(tok, args.seed)
    train(model, tok, args.steps, args.seed)
    print(f"{model.num_parameters():,} parameters, exact match {exact_match(model, tok, questions()):.3f}")
    model.half().save_pretrained(args.output_dir)
    tok.save_pretrained(args.output_dir)


if __name__ == "__main__":
    main()
