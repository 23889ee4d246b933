"""`hf-datasel push` as a user types it, to a Hub on the loopback."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from datasets import load_dataset
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from hf_datasel import Selection, select
from hf_datasel.cli import main
from hf_datasel.selectors import Random


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch):
    monkeypatch.setattr("hf_datasel.cards.repository_files.png", lambda facts, name, dark: f"{name} {dark}".encode())


def test_push(local_hub, selection, rows_file, tmp_path, capsys):
    result = {"trained_on": "this selection", "metric": "exact match", "dataset": "sums", "value": 0.75}
    (tmp_path / "results.json").write_text(json.dumps([result]))
    config = tmp_path / "push.yaml"
    config.write_text(f"selection: {selection}\nrepo_id: tester/longest\nprivate: true\n")
    command = ["push", "--config", str(config), "--dataset_name", str(rows_file)]
    command += ["--results", str(tmp_path / "results.json"), "--commit_message", "Six rows"]
    assert main(command) == 0
    commit = local_hub.commits("tester/longest")[-1]
    url = f"{local_hub.url}/datasets/tester/longest"
    assert capsys.readouterr().out.strip() == f"Published: {url} (commit {commit.oid[:12]})"
    assert commit.title == "Six rows"
    assert local_hub.repo("tester/longest").private
    assert "exact match" in local_hub.files("tester/longest")["README.md"].decode()
    assert Selection.from_hub("tester/longest").indices.tolist() == Selection.load(selection).indices.tolist()

    assert main(command) == 0
    assert capsys.readouterr().out.strip() == f"Nothing has changed, and nothing was uploaded: {url}"
    assert local_hub.commits("tester/longest")[-1] == commit


def test_dry_run_uploads_nothing_and_prints_what_would_go_where(local_hub, selection, rows_file, capsys):
    command = ["push", "--selection", str(selection), "--dataset_name", str(rows_file), "--repo_id", "tester/longest"]
    assert main([*command, "--public", "--dry_run"]) == 0
    printed = capsys.readouterr().out
    url = f"{local_hub.url}/datasets/tester/longest"
    assert printed.startswith(f"Would publish in {url} (new, public), branch main:\n")
    assert printed.endswith("bytes. Nothing was uploaded.\n")
    assert ("dataset", "tester/longest") not in local_hub.repos
    assert main([*command, "--public"]) == 0
    files = local_hub.files("tester/longest")
    planned = re.findall(r"^  (\S+) +([\d,]+) bytes  new$", printed, re.MULTILINE)
    assert {path: int(size.replace(",", "")) for path, size in planned} == {
        path: len(content) for path, content in files.items()
    }
    capsys.readouterr()
    assert main([*command, "--public", "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"Would publish in {url} (public), branch main:\n")
    assert printed.count("  unchanged\n") == len(planned)
    assert printed.endswith("\n0 files to upload, 0 bytes. Nothing was uploaded.\n")


def test_push_rounds_of_a_run(local_hub, rows_file, pool_rows, tmp_path):
    for index in range(2):
        selected = select(pool_rows, Random(), size=6, seed=index)
        selected.provenance |= {"round": index, "seed": 0}
        selected.save(tmp_path / "run" / "selections" / f"round-{index}")
    command = ["push", "--selection", str(tmp_path / "run"), "--repo_id", "rounds", "--dataset_name", str(rows_file)]
    assert main([*command, "--revision", "trial"]) == 0
    last = Selection.load(tmp_path / "run" / "selections" / "round-1")
    rows = load_dataset("tester/rounds", split="train", revision="trial")
    assert rows["output"][:] == [pool_rows["output"][index] for index in last.indices]
    assert Selection.from_hub("tester/rounds", config_name="round-0", revision="trial").provenance["round"] == 0


def test_help_names_the_login(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["push", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "The token is that of `hf auth login`, or HF_TOKEN in the environment" in printed
    assert "--token" not in printed


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("--token hf_x", "Unknown flag --token."),
        ("--selektion SELECTION", "Unknown flag --selektion. Did you mean '--selection'?"),
        ("--repo_id tester/x", "No selection is named"),
        ("--selection SELECTION --dataset_name ROWS", "No repository is named. Pass --repo_id NAMESPACE/NAME"),
        ("--selection SELECTION --repo_id tester/x", "No dataset is named"),
        ("--selection NOWHERE --repo_id tester/x --dataset_name ROWS", "nowhere"),
        ("--selection SELECTION --repo_id tester/x --dataset_name SHORT", "this dataset has 23"),
        ("--selection SELECTION --repo_id else/x --dataset_name ROWS", "tester cannot publish under 'else'"),
        ("--selection SELECTION --repo_id tester/x/y --dataset_name ROWS", "is not a valid repository name"),
        ("--selection SELECTION --repo_id tester/x --dataset_name ROWS --config_name scores", "config_name='scores'"),
        ("--selection SELECTION --repo_id tester/x --dataset_name ROWS --private maybe", "private"),
    ],
)
def test_errors_are_one_line(command, message, local_hub, selection, rows_file, tmp_path, capsys):
    (tmp_path / "short.jsonl").write_text("\n".join(rows_file.read_text().splitlines()[:-1]))
    places = {"SELECTION": selection, "ROWS": rows_file, "SHORT": tmp_path / "short.jsonl"}
    places["NOWHERE"] = tmp_path / "nowhere"
    assert main(["push", *(str(places.get(word, word)) for word in command.split())]) == 2
    printed = capsys.readouterr()
    assert message in printed.err.strip().splitlines()[-1]
    assert printed.err.strip().splitlines()[-1].startswith("hf-datasel push: error: ")
    assert printed.out == ""
    assert not local_hub.repos


def test_not_logged_in(local_hub, selection, rows_file, capsys):
    local_hub.accounts.clear()
    command = ["push", "--selection", str(selection), "--repo_id", "tester/x", "--dataset_name", str(rows_file)]
    assert main(command) == 2
    assert "The Hub rejects this token." in capsys.readouterr().err.strip().splitlines()[-1]


def test_unreachable_hub(local_hub, selection, rows_file, monkeypatch, capsys):
    transport = HfHubHTTPError.__bases__[0]

    def refuse(self):
        raise transport("Connection refused\nand more")

    monkeypatch.setattr("hf_datasel.hub.retry.WAIT", 0.0)
    monkeypatch.setattr("huggingface_hub.HfApi.whoami", refuse)
    command = ["push", "--selection", str(selection), "--repo_id", "tester/x", "--dataset_name", str(rows_file)]
    assert main(command) == 2
    printed = capsys.readouterr().err.strip().splitlines()
    assert printed[-1].startswith("hf-datasel push: error: The Hub cannot be reached")
    assert printed[-1].endswith("Connection refused")


def test_replaced_selection_is_printed(local_hub, selection, rows_file, pool_rows, tmp_path, capsys):
    command = ["push", "--repo_id", "tester/x", "--dataset_name", str(rows_file), "--selection"]
    assert main([*command, str(selection)]) == 0
    assert "Replaces" not in capsys.readouterr().out
    select(pool_rows, Random(), size=4).save(tmp_path / "random")
    assert main([*command, str(tmp_path / "random"), "--config_name", "random"]) == 0
    assert "Replaces" not in capsys.readouterr().out
    assert main([*command, str(tmp_path / "random")]) == 0
    output = capsys.readouterr().out.splitlines()[0]
    assert output == "Replaces Longest, 6 rows, in tester/x; pass another --config_name to keep both."
    assert main([*command, str(selection), "--revision", "trial"]) == 0
    assert "Replaces" not in capsys.readouterr().out, "the branch is new"
    result = {"trained_on": "this selection", "metric": "exact match", "dataset": "sums", "value": 0.75}
    (tmp_path / "results.json").write_text(json.dumps([result]))
    assert main([*command, str(tmp_path / "random"), "--results", str(tmp_path / "results.json")]) == 0
    assert capsys.readouterr().out.startswith("Published: "), "the same rows with more on the card replace nothing"


def test_results_of_questions(local_hub, selection, rows_file, tmp_path, capsys):
    from hf_datasel.evaluation import MatchedAnswers

    texts = np.array([""], dtype=object)
    answers = MatchedAnswers(
        row_ids=np.zeros((1, 32), dtype=np.uint8),
        reasons=texts.astype(str),
        groups=texts.astype(str),
        settings={"group_by": None},
        correct=np.ones(1),
        truncated=np.zeros(1, dtype=bool),
        answers=texts,
        references=texts,
    )
    answers.save(tmp_path / "items" / "seed-0.parquet")
    command = ["push", "--selection", str(selection), "--repo_id", "tester/x", "--dataset_name", str(rows_file)]
    command += ["--items", str(tmp_path / "items")]
    assert main(command) == 2
    assert "together with the results computed from them. Pass --results, too." in capsys.readouterr().err
    result = {"trained_on": "this selection", "metric": "exact match", "dataset": "sums", "value": 1.0}
    (tmp_path / "results.json").write_text(json.dumps([result]))
    assert main([*command, "--results", str(tmp_path / "results.json")]) == 0
    files = local_hub.files("tester/x")
    assert files["evaluation/default/seed-0.parquet"] == (tmp_path / "items" / "seed-0.parquet").read_bytes()
    assert json.loads(files["evaluation/default/results.json"]) == [{**result, "note": ""}]


def test_results_of_the_model(local_hub, selection, rows_file, tmp_path, capsys):
    result = {"trained_on": "this selection", "metric": "exact match", "dataset": "openai/gsm8k", "value": 41.0,
              "runs": 2, "values": [40.0, 42.0], "task": {"name": "gsm8k_cot"}}  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps([result]))
    local_hub.commit("tester/model", {"README.md": b"# A model"}, repo_type="model")
    command = ["push", "--selection", str(selection), "--repo_id", "tester/x", "--dataset_name", str(rows_file)]
    command += ["--results", str(tmp_path / "results.json"), "--hub_model_id", "tester/model"]
    before = len(local_hub.requests)
    assert main(command) == 2
    assert "that of one of them. Pass --model_run, from 0 to 1." in capsys.readouterr().err
    assert len(local_hub.requests) == before, "nothing is published"
    assert main([*command, "--model_run", "1"]) == 0
    commit = local_hub.commits("tester/model", "model")[-1]
    assert f"Results of the model: {local_hub.url}/tester/model/commit/{commit.oid}" in capsys.readouterr().out
    files = local_hub.files("tester/model", "model")
    assert "value: 42.0" in files["README.md"].decode() and files["README.md"].endswith(b"# A model")
    assert "task_id: gsm8k_cot" in files[".eval_results/hf_datasel.yaml"].decode()
    assert "exact match" in local_hub.files("tester/x")["README.md"].decode()


def test_replaced_rounds_are_counted(local_hub, selection, rows_file, pool_rows, tmp_path, capsys):
    for index in range(2):
        selected = select(pool_rows, Random(), size=4 + index, seed=index)
        selected.provenance |= {"round": index, "seed": 0}
        selected.save(tmp_path / "run" / "selections" / f"round-{index}")
    command = ["push", "--repo_id", "tester/x", "--dataset_name", str(rows_file), "--selection"]
    assert main([*command, str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert main([*command, str(selection)]) == 0
    assert capsys.readouterr().out.startswith("Replaces Random, 2 rounds, the last of 5 rows, in tester/x;")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--repo_id", "tester/x/y"], "repo_id='tester/x/y' is not a valid repository name"),
        (["--repo_id", "tester/x", "--dataset_name", "SHORT"], "this dataset has 23"),
        (["--repo_id", "tester/x"], "Not logged in to the Hub. Run `hf auth login`, or set HF_TOKEN."),
    ],
)
def test_name_and_rows_are_checked_before_the_login(
    words, message, local_hub, selection, rows_file, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("huggingface_hub.HfApi.whoami", _nobody)
    (tmp_path / "short.jsonl").write_text("\n".join(rows_file.read_text().splitlines()[:-1]))
    command = ["push", "--selection", str(selection), "--dataset_name", str(rows_file)]
    assert main([*command, *(str(tmp_path / "short.jsonl") if word == "SHORT" else word for word in words)]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def _nobody(self):
    raise LocalTokenNotFoundError("Token is required, but no token found.")


@pytest.mark.parametrize(("name", "content"), [("indices.npy", b"no array"), ("selection.json", b"[1]")])
def test_damaged_selection_is_replaced(local_hub, selection, rows_file, capsys, name, content):
    command = ["push", "--repo_id", "tester/x", "--dataset_name", str(rows_file), "--selection", str(selection)]
    assert main(command) == 0
    local_hub.commit("tester/x", {f"selections/default/{name}": content})
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().out.startswith("Replaces a selection whose files are damaged, in tester/x;")
    assert Selection.from_hub("tester/x") == Selection.load(selection)
