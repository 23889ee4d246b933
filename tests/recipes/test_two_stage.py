"""The recipe that selects in two stages: from score tables, and then from the text of the rows."""

from __future__ import annotations

import numpy as np

from hf_datasel import Selection, load_pool
from hf_datasel.cli import main
from tests.recipes.conftest import run_script
from tests.recipes.toys import FOLDER, ROWS


def test_two_stages(toy_files, models, tmp_path, monkeypatch, capsys):
    file, scored = str(toy_files["alpaca"]), tmp_path / "scored"
    scoring = ["score", "--dataset_name", file, "--scores", "ifd", "--output_dir", str(scored)]
    scoring += ["--model_name_or_path", models["Qwen/Qwen3-0.6B"]]
    for shard in ("0/2", "1/2"):
        assert main([*scoring, "--shard", shard]) == 0
    assert main(scoring) == 0
    words = ["two_stage.py", "--dataset_name", file, "--tables", str(scored / "scores"), "--share_size", "40"]
    words += ["--selection_size", "6", "--clusters", "3", "--output_dir", str(tmp_path / "out")]
    words += ["--encoder", models["sentence-transformers/all-MiniLM-L6-v2"]]
    run_script(FOLDER / "scale" / "two_stage.py", words, monkeypatch)
    assert f"6 of 40 of {ROWS} rows" in capsys.readouterr().out

    ifd = np.array(load_pool(str(scored / "scored.parquet")).with_format("numpy")["ifd"][:], dtype=np.float64)
    share, rows = load_pool(str(tmp_path / "out" / "share.parquet")), load_pool(file)
    below = np.sort(ifd[ifd < 1])[::-1]
    assert share["ifd"][:] == below[:40].tolist(), "those with the highest IFD below 1"
    assert share["output"][:] == [rows[row]["output"] for row in share["row"]]
    subset = load_pool(str(tmp_path / "out" / "subset.parquet"))
    selection = Selection.load(tmp_path / "out")
    assert subset["row"][:] == [share["row"][int(number)] for number in selection.indices]
    assert selection.provenance["selector"]["selector"] == "chain"
    assert {"cluster_id", "ifd"} <= set(subset.column_names)
