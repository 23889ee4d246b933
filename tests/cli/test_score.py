"""`hf-datasel score`: several scores in one command, interruptions, files and the Hub."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from datasets import Dataset, load_dataset
from huggingface_hub import HfApi

from hf_datasel import load_pool, score
from hf_datasel.cli import main
from hf_datasel.cli.tables import column_table
from hf_datasel.scores import IFD
from hf_datasel.scoring import logprobs as forward


@pytest.fixture
def rows_file(tmp_path: Path, pool_rows: Any) -> Path:
    """Give a jsonl file of the small pool and one row with an empty output."""
    path = tmp_path / "rows.jsonl"
    empty = {"instruction": "Say nothing.", "input": "", "output": ""}
    path.write_text("".join(json.dumps(row) + "\n" for row in [*pool_rows, empty]))
    return path


@pytest.fixture
def command(rows_file, tiny_model_dir, tmp_path):
    data = ["--dataset_name", str(rows_file), "--model_name_or_path", str(tiny_model_dir)]
    return ["score", *data, "--output_dir", str(tmp_path / "out")]


@pytest.fixture(autouse=True)
def _histograms(request):
    """Draw histograms in the tests of histograms only."""
    if "histograms" not in request.node.name:
        request.getfixturevalue("without_histograms")


def test_score(command, tmp_path, capsys):
    flags = ["--scores", "ifd", "length", "--scores_kwargs", '{"ifd": {"convention": "superfiltering"}}']
    assert main([*command, *flags]) == 0
    printed = capsys.readouterr().out
    assert "ifd: 24 of 25 rows scored, 1 without: 1 empty_response" in printed
    scored = load_pool(str(tmp_path / "out" / "scored.parquet"))
    assert scored.features["ifd"].dtype == "float32"
    assert scored["ifd"][24] is None
    assert min(scored["response_words"][:24]) == 1


def test_config_with_several_scores(command, tmp_path, tiny_model_dir, pool_rows, capsys):
    config = tmp_path / "scores.yaml"
    scores = ["loss", {"ifd": {"convention": "iterit", "column_prefix": "iterit_"}}, "cluster", "embedding"]
    scores += [{"loss": {"reduction": "sum", "over": "pair"}}, {"length": {"unit": "tokens"}}, "ifd"]
    settings = {"cluster": {"k": 3}, "embedding": {"as_trained": True}}
    config.write_text(yaml.safe_dump({"scores": scores, "scores_kwargs": settings}))
    assert main([*command, "--config", str(config)]) == 0
    scored = load_pool(str(tmp_path / "out" / "scored.parquet"))
    names = ["loss", "iterit_ifd", "cluster_id", "embedding", "loss_pair_sum", "num_tokens", "ifd"]
    assert [name for name in scored.column_names if name in names] == names
    assert set(scored["cluster_id"][:24]) == {0, 1, 2}
    assert len(scored["embedding"][0]) == 32
    expected = score(pool_rows, [IFD(convention="iterit")], model=tiny_model_dir)["ifd"][:]
    np.testing.assert_allclose(scored["iterit_ifd"][:24], expected, rtol=1e-6)


def test_table_and_histograms(command, tmp_path, pool_rows, capsys):
    assert main([*command, "--scores", "length", "loss", "refusal", "duplicates"]) == 0
    table = capsys.readouterr().out.split("column", 1)[1].splitlines()
    words = next(line for line in table if line.startswith("response_words"))
    counts = sorted(len(text.split()) for text in pool_rows["output"])
    median = (counts[11] + counts[12]) / 2
    assert [words.split()[index] for index in (1, 2, 4, 6)] == ["1", str(counts[0]), f"{median:g}", str(counts[-1])]
    refusals = next(line for line in table if line.startswith("refusal"))
    assert refusals.split()[1:] == ["1", *["0"] * 5, "0", "(24)"]
    assert "duplicate_rows" in [line.split()[0] for line in table[1:-1]]
    assert "duplicate_of" not in [line.split()[0] for line in table[1:-1]], "numbers of rows"
    drawn = json.loads((tmp_path / "out" / "histograms.json").read_text())
    assert sum(drawn["loss"]["groups"][0]["counts"]) >= 22  # without the last hundredth at either end
    pictures = sorted(path.name for path in (tmp_path / "out" / "histograms").iterdir())
    assert pictures == ["loss.png", "response_words.png"]


def test_table_of_null_and_constant_columns():
    data = Dataset.from_dict({"none": [None, None], "one": [2.0, 2.0], "text": ["a", "b"]})
    data = data.cast_column("none", data.features["one"])
    lines = column_table(data, ["none", "one", "text"]).splitlines()
    assert lines[1].split() == ["none", "2", "nan", "nan", "nan", "nan", "nan"]
    assert lines[2].split() == ["one", "0", "2", "2", "2", "2", "2", "2", "(2)"]
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0.0] * 150 + [1.0, 0.0, 1.0], "0 (151), 1 (2)"),
        ([0.0] * 990 + [0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.5, 0.6], "0 (990), others (8)"),
        ([0.0, 1.0, 2.0, 3.0, 4.0], "█" + "    █" * 4),
    ],
)
def test_table_lists_few_values(values, shown):
    [_, line] = column_table(Dataset.from_dict({"one": values}), ["one"]).splitlines()
    assert line.endswith(f"  {shown}")


def test_second_run_computes_nothing(command, tmp_path, monkeypatch):
    flags = ["--scores", "ifd", "selectit", "--scores_kwargs", '{"selectit": {"level": "token"}}']
    assert main([*command, *flags]) == 0
    first = (tmp_path / "out" / "scored.parquet").read_bytes()
    monkeypatch.setattr(forward.LogprobRunner, "hidden", None)  # no pass can be run
    assert main([*command, *flags]) == 0
    assert (tmp_path / "out" / "scored.parquet").read_bytes() == first


def test_shards(command, tmp_path, monkeypatch, capsys):
    flags = ["--scores", "loss", "length", "--store", str(tmp_path / "store")]
    for index in (1, 0):
        assert main([*command, *flags, "--shard", f"{index}/2"]) == 0
    printed = capsys.readouterr().out
    assert "shard-00001-of-00002.parquet (rows 13 to 24 of 25)" in printed
    assert "without --shard to write scored.parquet" in printed
    assert not (tmp_path / "out" / "scored.parquet").exists()
    monkeypatch.setattr(forward.LogprobRunner, "hidden", None)  # no pass can be run
    assert main([*command, *flags, "--shard", "0/2"]) == 0
    assert "Nothing to compute: the scores are in" in capsys.readouterr().out
    assert main([*command, *flags]) == 0
    assert "loss: 24 of 25 rows scored, 1 without: 1 empty_response" in capsys.readouterr().out
    one = [*command[:-1], str(tmp_path / "one"), *flags]  # the same store, and no shards
    assert main(one) == 0
    for name in ("scored.parquet", "scored.origins.json", "histograms.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--shard", "3/3"], "There is no shard 3/3: shards are counted from 0, so that the last of 3 is 2/3."),
        (["--shard", "0/2", "--repo_id", "a/b"], "Pass --repo_id without --shard, once all shards are scored."),
        (["--shard", "0/2", "--scores", "cluster", "embedding"], "and then run hf-datasel score for it without"),
    ],
)
def test_shard_that_cannot_be_scored(command, flags, message, capsys):
    assert main([*command, *flags]) != 0
    assert message in capsys.readouterr().err


def test_only_new_rows_are_computed(command, rows_file, monkeypatch, tmp_path):
    assert main([*command, "--scores", "loss"]) == 0
    with rows_file.open("a") as file:
        file.write(json.dumps({"instruction": "Is it new?", "input": "", "output": "Yes."}) + "\n")
    seen, original = [], forward.LogprobRunner.hidden

    def counted(self, batch):
        seen.append(len(batch))
        return original(self, batch)

    monkeypatch.setattr(forward.LogprobRunner, "hidden", counted)
    assert main([*command, "--scores", "loss"]) == 0
    assert sum(seen) <= 2  # and once more for the trial of the head
    assert load_pool(str(tmp_path / "out" / "scored.parquet"))["loss"][25] > 0


@pytest.mark.usefixtures("warm_python")
def test_killed_run_continues(command, tmp_path):
    slow = "import time; from hf_datasel.scoring.store.segment_log import SegmentWriter as S; append = S.append\n"
    slow += "S.append = lambda self, *args: (append(self, *args), time.sleep(0.2))[0]\n"
    slow += "import sys; from hf_datasel.cli import main; main(sys.argv[1:])"
    flags = [*command[1:], "--scores", "ifd", "--scoring_tokens_per_batch", "100"]
    with subprocess.Popen(
        [sys.executable, "-c", slow, "score", *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=dict(os.environ),
    ) as process:
        deadline = time.monotonic() + 120
        while not any(path.stat().st_size > 400 for path in (tmp_path / "out").glob("store/*/*.segment")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "out" / "scored.parquet").exists()
    assert main([command[0], *flags]) == 0
    assert len(load_pool(str(tmp_path / "out" / "scored.parquet"))) == 25


def test_store_folder(command, tmp_path):
    assert main([*command, "--scores", "loss", "--store", str(tmp_path / "shared")]) == 0
    assert list((tmp_path / "shared").glob("nll-*/*.parquet"))
    assert not (tmp_path / "out" / "store").exists()


@pytest.mark.filterwarnings("ignore:_check_is_size will be removed:FutureWarning")  # bitsandbytes 0.49 on torch 2.13
def test_model_loading(command, tmp_path):
    assert main([*command, "--scores", "loss", "--dtype", "bfloat16"]) == 0
    four_bit = (
        '{"quantization_config": {"load_in_4bit": true, "bnb_4bit_quant_type": "nf4"}, "device_map": {"": "cpu"}}'
    )
    assert main([*command, "--scores", "loss", "--model_init_kwargs", four_bit]) == 0
    specs = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("store/*/spec.json")]
    assert {item["weights_dtype"] for item in specs} == {"torch.bfloat16", "torch.float32"}
    loaded = [item["model"]["init_kwargs"] for item in specs]
    assert {"quantization_config": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}} in loaded


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--scores", "lss"], "There is no score 'lss'. Did you mean 'loss'?"),
        (["--scores", "judge"], "judge needs the setting 'model'"),
        (["--scores", "ifd", "--scores_kwargs", '{"loss": {}}'], "scores_kwargs names 'loss', which is not among"),
        (["--scores", "loss", "--scores_kwargs", '{"lss": {}}'], "Did you mean 'loss'?"),
        (["--scores", "ifd", "--scores_kwargs", '{"ifd": {"convntion": "sft"}}'], "Did you mean 'convention'?"),
        (["--scores", "loss", "--model_name_or_path", "/no/model"], "No model '/no/model'"),
        (["--scors", "loss"], "Unknown flag --scors. Did you mean '--scores'?"),
    ],
)
def test_typos(command, flags, message, capsys):
    assert main([*command, *flags]) != 0
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("scores", ["loss", [], [3], [{"loss": {}, "ifd": {}}], [{"loss": 3}]])
def test_invalid_lists_of_scores(command, tmp_path, scores, capsys):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"scores": scores}))
    assert main([*command, "--config", str(tmp_path / "c.yaml")]) != 0
    assert "scores" in capsys.readouterr().err


def test_push_to_the_hub(local_hub, command, tmp_path, tiny_model_dir, capsys):
    for _ in range(2):
        assert main([*command, "--scores", "loss", "length", "--repo_id", "tester/scored"]) == 0
        assert "Published: " in capsys.readouterr().out
    pushed = load_dataset("tester/scored", split="train", cache_dir=str(tmp_path / "cache"))
    assert pushed["loss"][:] == load_pool(str(tmp_path / "out" / "scored.parquet"))["loss"][:]
    api = HfApi()
    card = Path(api.hf_hub_download("tester/scored", "README.md", repo_type="dataset")).read_text()
    assert card.count("## Scores") == 1
    assert "### `loss`" in card
    assert "| `reduction` | `mean` |" in card
    assert "| `loss` | 1 | " in card
    assert str(tiny_model_dir) not in card
    assert "](histograms/loss.png)" in card
    assert "histograms/response_words.png" in api.list_repo_files("tester/scored", repo_type="dataset")
    assert load_dataset("tester/scored", split="train").features["loss"].dtype == "float32"


def test_existing_card_text_is_preserved(local_hub, command):
    api = HfApi()
    api.create_repo("tester/scored", repo_type="dataset")
    text = b"# Mine\n\nWords of a person.\n"
    api.upload_file(path_or_fileobj=text, path_in_repo="README.md", repo_id="tester/scored", repo_type="dataset")
    assert main([*command, "--scores", "length", "--repo_id", "tester/scored", "--public"]) == 0
    card = Path(api.hf_hub_download("tester/scored", "README.md", repo_type="dataset")).read_text()
    assert "Words of a person." in card
    assert "## Scores" in card


def test_repository_is_checked_first(local_hub, command, tmp_path, capsys):
    assert main([*command, "--scores", "loss", "--repo_id", "stranger/scored"]) == 2
    assert "tester cannot publish under 'stranger'" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("store/*"))


def test_keyboard_interrupt(command, tmp_path, monkeypatch, capsys):
    original, seen = forward.LogprobRunner.hidden, []

    def stopped(self, batch):
        seen.append(len(batch))
        if len(seen) == 6:
            raise KeyboardInterrupt
        return original(self, batch)

    flags = ["--scores", "loss", "--scoring_tokens_per_batch", "100"]
    with monkeypatch.context() as patch:
        patch.setattr(forward.LogprobRunner, "hidden", stopped)
        assert main([*command, *flags]) == 130
    printed = capsys.readouterr()
    assert (
        f"Computed batches are in {tmp_path / 'out' / 'store'}: run the same command again to continue." in printed.err
    )
    assert printed.err.endswith("hf-datasel score: interrupted.\n")
    assert main([*command, *flags]) == 0


def test_no_progress_bars_in_a_log_file(command, capfd):
    assert main([*command, "--scores", "loss", "ifd"]) == 0
    printed = capfd.readouterr()
    assert "loss: 24 of 25 rows scored" in printed.out
    assert "%|" not in printed.err


def test_output_folder_is_checked_first(command, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([*command, "--scores", "loss", "--output_dir", str(tmp_path / "file" / "out")]) == 2
    assert "cannot be created or written to" in capsys.readouterr().err


def test_unrelated_json_file(pool_rows, tmp_path, capsys):
    pool_rows.to_parquet(tmp_path / "train.parquet")
    pool_rows.to_json(tmp_path / "train.json")
    data = ["--dataset_name", str(tmp_path / "train.parquet"), "--output_dir", str(tmp_path / "out")]
    assert main(["score", *data, "--scores", "length"]) == 0
    assert "counts as unverified" not in capsys.readouterr().err


def test_replaced_columns_are_printed(command, capsys):
    assert main([*command, "--scores", "length", "compressibility"]) == 0
    assert "Replaces" not in capsys.readouterr().out
    assert main([*command, "--scores", "length"]) == 0
    assert "of an earlier run, which also had compressibility, compressibility_reason." in capsys.readouterr().out


def test_stale_histograms_are_removed(command, tmp_path):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "out" / "histograms"
    folder.mkdir(parents=True)
    (folder / "mine.png").write_bytes(b"mine")
    assert main([*command, "--scores", "length", "compressibility"]) == 0
    assert {path.name for path in folder.iterdir()} == {"mine.png", "response_words.png", "compressibility.png"}
    assert main([*command, "--scores", "length"]) == 0
    assert {path.name for path in folder.iterdir()} == {"mine.png", "response_words.png"}


@pytest.mark.parametrize("text", ["[", "[1]", '{"../mine": {}}'])
def test_unrelated_histograms_json(text, command, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.png").write_bytes(b"mine")
    (tmp_path / "out" / "histograms.json").write_text(text)
    assert main([*command, "--scores", "length"]) == 0
    assert (tmp_path / "out" / "mine.png").is_file()
