"""Examples of each command, which its help and the documentation show."""

from __future__ import annotations

__all__ = ["EXAMPLES", "EXAMPLES_TITLE", "examples_text"]

EXAMPLES_TITLE = "examples:"

EXAMPLES: dict[str, tuple[str, ...]] = {
    "list": (
        "hf-datasel list scores",
        "hf-datasel list iterit ifd",
        "hf-datasel list --json",
    ),
    "score": (
        "hf-datasel score --dataset_name tatsu-lab/alpaca --scores length ifd --model_name_or_path Qwen/Qwen3-0.6B",
        "hf-datasel score --dataset_name rows.jsonl --scores refusal repetition --output_dir outputs/hygiene",
        "hf-datasel score --config recipes/alpaca-all-scores.yaml",
    ),
    "select": (
        "hf-datasel select --dataset_name tatsu-lab/alpaca --selector superfiltering "
        "--model_name_or_path Qwen/Qwen3-0.6B --selection_ratio 0.1 --save_subset",
        "hf-datasel select --dataset_name outputs/score/scored.parquet --selector top "
        '--selector_kwargs \'{"by": "ifd"}\' --selection_size 5000 --output_dir outputs/top-ifd',
        "hf-datasel select --config recipes/alpaca-superfiltering-select.yaml",
    ),
    "train": (
        "hf-datasel train --model_name_or_path Qwen/Qwen3-0.6B --dataset_name tatsu-lab/alpaca --selector iterit "
        "--selection_ratio 0.1 --output_dir outputs/iterit",
        "hf-datasel train --config recipes/alpaca-iterit.yaml --resume_from_checkpoint true",
    ),
    "explain": (
        "hf-datasel explain 17 42 --selection outputs/select --dataset_name tatsu-lab/alpaca",
        "hf-datasel explain 17 --selection outputs/select --dataset_name tatsu-lab/alpaca --json",
    ),
    "browse": (
        "hf-datasel browse --selection outputs/select --dataset_name tatsu-lab/alpaca --output_file rows.html",
        "hf-datasel browse --selection outputs/select outputs/top-ifd --dataset_name tatsu-lab/alpaca",
    ),
    "compare": (
        "hf-datasel compare --dataset_name tatsu-lab/alpaca --methods random longest --selection_ratio 0.1",
        "hf-datasel compare --dataset_name tatsu-lab/alpaca --selections outputs/select outputs/top-ifd",
        "hf-datasel compare --config recipes/alpaca-compare.yaml",
    ),
    "eval": (
        "hf-datasel eval --model_name_or_path outputs/iterit --suite quick",
        "hf-datasel eval --model_name_or_path outputs/iterit --suite gsm8k_cot ifeval --tier quick",
    ),
    "bench": (
        "hf-datasel bench --config recipes/bench/small.yaml --plan",
        "hf-datasel bench --config recipes/bench/small.yaml",
    ),
    "report": (
        "hf-datasel report --selection outputs/select --dataset_name tatsu-lab/alpaca",
        "hf-datasel report --selection outputs/iterit --dataset_name tatsu-lab/alpaca --title 'IterIT on Alpaca'",
    ),
    "push": (
        "hf-datasel push --selection outputs/select --dataset_name tatsu-lab/alpaca --repo_id me/alpaca-best "
        "--dry_run",
        "hf-datasel push --selection outputs/select --dataset_name tatsu-lab/alpaca --repo_id me/alpaca-best",
    ),
    "env": ("hf-datasel env",),
}
"""Command -> command lines."""


def examples_text(command: str) -> str:
    """Return the examples of a command as the last part of its help.

    Args:
        command: Name of the command.
    """
    return "\n".join([EXAMPLES_TITLE, *(f"  {line}" for line in EXAMPLES[command])])
