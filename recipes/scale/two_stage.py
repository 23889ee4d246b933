"""Select from millions of rows in two stages: the highest IFD from score tables, then an exact method on these rows.

    hf-datasel score --dataset_name rows.parquet --scores ifd --model_name_or_path Qwen/Qwen3-0.6B --shard 0/1
    python recipes/scale/two_stage.py --dataset_name rows.parquet --tables outputs/score/scores

The first stage reads one column of the tables as a stream, with memory for the rows that it keeps. The second reads
the text of these rows only: it excludes near-duplicates, embeds and clusters the others, and runs GraphFilter in each
cluster. `share.parquet` has the rows of the first stage, with their number in the dataset as `row`. The selection is
one of these rows, and `subset.parquet` has the selected ones.
"""

import argparse
from pathlib import Path

from hf_datasel import load_pool, select, select_streaming
from hf_datasel.hub.parents import write_parquet
from hf_datasel.scores import Cluster, Embedding
from hf_datasel.scoring import ScoreTables
from hf_datasel.selectors import Chain, GraphFilter, NoTextDuplicates, Superfiltering, within_clusters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--dataset_name", required=True, help="The dataset that was scored.")
    parser.add_argument("--tables", required=True, help="Folder of its score tables, with IFD.")
    parser.add_argument("--share_size", type=int, default=200_000, help="Rows that the first stage keeps.")
    parser.add_argument("--selection_size", type=int, default=10_000, help="Rows to select.")
    parser.add_argument("--clusters", type=int, default=100, help="Number of clusters.")
    parser.add_argument("--encoder", default="sentence-transformers/all-MiniLM-L6-v2", help="Model of the embeddings.")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/two-stage"))
    args = parser.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)

    tables = ScoreTables(args.tables)
    highest = select_streaming(tables, Superfiltering(quality="ifd"), args.share_size)
    rows = tables.rows_of(load_pool(args.dataset_name), highest)  # compares the rows with the ids in the tables
    write_parquet(rows.remove_columns(["selection_rank", "selection_row"]), args.output_dir / "share.parquet")

    share = load_pool(args.output_dir / "share.parquet")
    in_clusters = within_clusters(
        GraphFilter(quality="ifd"), Cluster(k=args.clusters), vectors=Embedding(args.encoder, max_length=256)
    )
    selector = Chain([NoTextDuplicates(by="ifd")], in_clusters)
    selection = select(share, selector, args.selection_size, columns=tables.mapping)
    selection.save(args.output_dir)
    write_parquet(selection.apply(share), args.output_dir / "subset.parquet")
    print(f"{len(selection.indices):,} of {len(share):,} of {len(tables):,} rows in {args.output_dir}")


if __name__ == "__main__":
    main()
