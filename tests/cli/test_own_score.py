"""A score in a file of the current folder, of the same name as one of ours, from scoring to the published card."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from datasets import load_dataset

from hf_datasel import Selection
from hf_datasel.cli import main
from hf_datasel.scores import Loss

MINE = '''
from dataclasses import dataclass
import pyarrow as pa
from hf_datasel.scores import Score

@dataclass(frozen=True)
class Loss(Score):
    """Characters of the response, as our laboratory counts them."""

    factor: int = 1
    citation = "@misc{laboratory2026, title={Counting}}"

    def columns(self):
        return {"characters": pa.int32()}

    def compute(self, rows, runner):
        texts = [row.text("response") for row in rows.pool.rows(rows.indices)]
        return {"characters": pa.array([self.factor * len(text) for text in texts], pa.int32())}
'''
BY_MINE = '{"by": {"score": "my_scores:Loss", "factor": 2}}'


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch):
    monkeypatch.setattr("hf_datasel.cards.report.png", lambda *_: b"")
    monkeypatch.setattr("hf_datasel.cards.repository_files.png", lambda *_: b"")


@pytest.fixture
def here(tmp_path: Path, rows_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a current folder with `my_scores.py` in it that Python does not look in, as for a console script."""
    (tmp_path / "my_scores.py").write_text(MINE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    monkeypatch.setattr("hf_datasel.scoring.column_provenance._specs", {})
    yield tmp_path
    forget()


def forget() -> None:
    """Make the next command import the module again, or not at all."""
    sys.modules.pop("my_scores", None)


def run(command: str, *more: str) -> int:
    return main([*command.split(), *more])


def select(*more: str) -> int:
    return run("select --dataset_name rows.jsonl --selection_size 5 --selector top --selector_kwargs", BY_MINE, *more)


def responses(here: Path) -> list[int]:
    rows = [json.loads(line) for line in (here / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    return [len(row["output"]) for row in rows]


def reproduce_command(folder: Path) -> list[str]:
    """Return the arguments of the command that a report shows."""
    text = (folder / "report.md").read_text(encoding="utf-8")
    [command] = re.findall(r"hf-datasel select \\\n.*?(?=\n```)", text, re.DOTALL)
    return shlex.split(command.replace("\\\n", " "))[1:]


def check_described(text: str) -> None:
    """Check that a card describes the laboratory's score, and not ours of the same class name."""
    assert "`my_scores:Loss`: Characters of the response, as our laboratory counts them." in text
    assert "laboratory2026" in text or "## Citation" not in text
    assert Loss.__doc__ is not None
    assert " ".join(Loss.__doc__.split("\n\n")[0].split()) not in text
    assert Loss.citation not in text


def test_score(here, capsys):
    assert run("score --dataset_name rows.jsonl --scores my_scores:Loss") == 2
    assert "Score 'my_scores:Loss' is code outside hf_datasel. Permit it with --allow_" in capsys.readouterr().err
    assert "my_scores" not in sys.modules
    assert run("score --dataset_name rows.jsonl --scores my_scores:Loss length --allow_imports") == 0
    scored = load_dataset("parquet", data_files=str(here / "outputs/score/scored.parquet"), split="train")
    assert scored["characters"][:] == responses(here)


def test_score_in_a_config_file(here, capsys):
    (here / "score.yaml").write_text(
        "dataset_name: rows.jsonl\nscores: [my_scores:Loss]\nscores_kwargs: {my_scores:Loss: {factor: 3}}\n"
        "allow_imports: true\noutput_dir: out\n",
        encoding="utf-8",
    )
    assert run("score --config score.yaml") == 2
    message = "score.yaml imports classes outside hf_datasel: my_scores:Loss (allow_imports). If you trust the file, "
    assert message in capsys.readouterr().err
    assert "my_scores" not in sys.modules
    assert run("score --config score.yaml --trust_config") == 0
    scored = load_dataset("parquet", data_files=str(here / "out/scored.parquet"), split="train")
    assert scored["characters"][:] == [3 * length for length in responses(here)]


def test_misspelt(here, capsys):
    assert run("score --dataset_name rows.jsonl --scores my_scores:Los --allow_imports") == 2
    assert "my_scores.py has no 'Los'. Did you mean 'Loss'?" in capsys.readouterr().err
    kwargs = '{"my_scores:Loss": {"factr": 2}}'
    command = "score --dataset_name rows.jsonl --scores my_scores:Loss --allow_imports --scores_kwargs"
    assert run(command, kwargs) == 2
    assert "my_scores:Loss has no setting 'factr'. Did you mean 'factor'?" in capsys.readouterr().err


def test_select_report_and_reproduce(here, capsys):
    assert select("--output_dir", "out") == 2
    assert select("--output_dir", "out", "--allow_imports") == 0
    selection = Selection.load(here / "out")
    assert selection.provenance["selector"]["by"] == {"score": "my_scores:Loss", "factor": 2}
    assert [spec["score"] for spec in selection.provenance["scores"]] == ["my_scores:Loss"]

    forget()
    assert run("report --selection out --dataset_name rows.jsonl --output_dir report") == 0
    assert "my_scores" not in sys.modules
    text = (here / "report" / "report.md").read_text(encoding="utf-8")
    check_described(text)
    assert "laboratory2026" in text.split("## Citation")[1]
    assert "my_scores:Loss is code outside hf_datasel" in text.replace("`", "")

    command = ["rows.jsonl" if part == "PATH" else part for part in reproduce_command(here / "report")]
    assert "--allow_imports" in command
    assert main([*command, "--output_dir", "again"]) == 0
    assert Selection.load(here / "again").indices.tolist() == selection.indices.tolist()


def test_select_by_its_column(here):
    assert run("score --dataset_name rows.jsonl --scores my_scores:Loss --allow_imports --output_dir scored") == 0
    forget()
    file = "scored/scored.parquet"
    more = ["--selector", "top", "--selector_kwargs", '{"by": "characters"}', "--selection_size", "5"]
    assert run(f"select --dataset_name {file} --output_dir out", *more) == 0
    assert run(f"report --selection out --dataset_name {file} --output_dir report") == 0
    assert "my_scores" not in sys.modules
    text = (here / "report" / "report.md").read_text(encoding="utf-8")
    check_described(text)
    assert "hf-datasel score --scores my_scores:Loss --allow_imports" in text


def test_published_card(here, local_hub):
    assert select("--output_dir", "out", "--allow_imports") == 0
    forget()
    assert run("push --selection out --dataset_name rows.jsonl --repo_id tester/selected") == 0
    text = local_hub.files("tester/selected")["README.md"].decode()
    check_described(text)
    assert "laboratory2026" in text.split("## Citation")[1]
    published = Selection.from_hub("tester/selected")
    assert published.provenance["selector"]["by"]["score"] == "my_scores:Loss"


def test_published_scores(here, local_hub):
    command = "score --dataset_name rows.jsonl --scores my_scores:Loss --allow_imports --repo_id tester/scored"
    assert run(command) == 0
    check_described(local_hub.files("tester/scored")["README.md"].decode())
