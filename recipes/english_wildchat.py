"""Write the English conversations of WildChat-1M to a file, as the at-scale comparison (2410.09335) uses them.

    python recipes/english_wildchat.py

The license of the dataset is ODC-BY, and it needs no permission. English is what its column `language` says. Of each
message only role and content are kept.
"""

import argparse
from pathlib import Path
from typing import Any

from datasets import load_dataset


def messages(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    conversations = batch["conversation"]
    return {
        "messages": [[{key: turn[key] for key in ("role", "content")} for turn in turns] for turns in conversations]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--dataset_name", default="allenai/WildChat-1M", help="Dataset on the Hub, or a folder.")
    parser.add_argument("--output_file", type=Path, default=Path("outputs/wildchat/english.parquet"))
    args = parser.parse_args()

    rows = load_dataset(args.dataset_name, split="train")
    english = rows.filter(lambda names: [name == "English" for name in names], input_columns="language", batched=True)
    kept = english.map(messages, batched=True, remove_columns=english.column_names)
    args.output_file.parent.mkdir(parents=True, exist_ok=True)
    kept.to_parquet(args.output_file)
    print(f"{len(kept):,} of {len(rows):,} conversations in {args.output_file}")


if __name__ == "__main__":
    main()
