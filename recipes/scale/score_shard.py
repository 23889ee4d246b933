# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-datasel"]
#
# [tool.hf-jobs]
# flavor = "l4x1"
# timeout = "2h"
# secrets = ["HF_TOKEN"]
# ///
"""Score one shard of a dataset in a job of Hugging Face, and add the results to a score store on the Hub.

    hf jobs uv run --detach recipes/scale/score_shard.py tatsu-lab/alpaca 0/8 me/alpaca-scores

for each of the shards 0/8 to 7/8, at any time and in any order. A shard whose results are in the store is not computed
again. Then, on any machine and without a GPU:

    from hf_datasel import load_pool, score
    from hf_datasel.scoring import ScoreStore

    store = ScoreStore.from_hub("me/alpaca-scores", "scores")
    scored = score(load_pool("tatsu-lab/alpaca"), ["loss", "ifd"], model="Qwen/Qwen3-0.6B", store=store)

The store has no text of the rows. With fewer options than hf_jobs.py, it needs no bucket and no machine that waits.
"""

import argparse
import tempfile

from huggingface_hub import repo_exists

from hf_datasel import load_pool, score
from hf_datasel.scoring import ScoreStore, Shard


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("dataset_name", help="Hub id of the dataset.")
    parser.add_argument("shard", help="INDEX/NUMBER, such as 0/8 for the first of eight shards.")
    parser.add_argument("repo_id", help="Dataset repository of the score store; it is created if it does not exist.")
    parser.add_argument("--dataset_train_split", default="train", help="Split of the dataset.")
    parser.add_argument("--scores", nargs="+", default=["loss", "ifd"], help="Names of scores.")
    parser.add_argument("--model_name_or_path", default="Qwen/Qwen3-0.6B", help="Model of the scores.")
    args = parser.parse_args()

    rows = load_pool(args.dataset_name, args.dataset_train_split)
    rows = rows.select(Shard.parse(args.shard).rows(len(rows)))
    with tempfile.TemporaryDirectory() as folder:
        exists = repo_exists(args.repo_id, repo_type="dataset")
        store = ScoreStore.from_hub(args.repo_id, folder) if exists else ScoreStore(folder)
        score(rows, args.scores, args.model_name_or_path, store=store)
        store.push_to_hub(args.repo_id)


if __name__ == "__main__":
    main()
