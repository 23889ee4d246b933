import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_datasel import select, select_streaming
from hf_datasel.errors import ColumnError, ConfigError, SelectionError
from hf_datasel.scores import Influence, Loss
from hf_datasel.scoring import ScoreTables, score_table
from hf_datasel.selectors import LESSTop, get_selector
from hf_datasel.testing import contract


@contract(LESSTop(), LESSTop(by="reward"))
def test_contract(check, selector, full):
    check(selector, full)


def test_the_highest_influence_negative_ones_too(gaps):
    values = np.array(gaps["influence"][:], dtype=float)
    values[2] = np.nan
    assert (values < 0).any()
    expected = np.argsort(-values, kind="stable")[:10].tolist()
    assert select(gaps, LESSTop(), size=10).indices.tolist() == expected
    with pytest.raises(SelectionError, match=r"size=11 .*10 of 12 rows .*without influence"):
        select(gaps, LESSTop(), size=11)


def test_all_equal_is_dataset_order(full):
    same = full.remove_columns("influence").add_column("influence", [0.0] * 12)
    assert select(same, LESSTop(), size=3).indices.tolist() == [0, 1, 2]


def test_computes_influence_with_settings(full, monkeypatch, tmp_path, caplog):
    values = {"influence": pa.array(full["influence"][:], pa.float32()), "influence_reason": pa.array([""] * 12)}
    monkeypatch.setattr(Influence, "compute", lambda self, rows, runner: values)
    monkeypatch.setattr(Influence, "spec", lambda self: {"score": "influence", **self.settings()})
    path = tmp_path / "bbh.jsonl"
    path.write_text(json.dumps({"prompt": full["instruction"][4], "completion": "Rain, rain."}))  # no other answer
    influence = Influence(checkpoints=("out/checkpoint-9",), validation=str(path))
    selected = select(full.remove_columns("influence"), LESSTop(by=influence), size=5)
    assert selected.indices.tolist() == select(full, LESSTop(), size=5).indices.tolist()
    (spec,) = selected.provenance["scores"]
    assert [file["path"] for file in spec.pop("resolved_files")] == [str(path)]
    assert spec == influence.spec()
    assert "LESSTop: the prompt of 1 row repeats a target row (4). Since it can be selected, do not" in caplog.text
    assert selected.provenance["notes"]["target"]["copies"] == 1


def test_a_count_of_copies_fails_no_selection(full, monkeypatch, tmp_path, caplog):
    values = {"influence": pa.array(full["influence"][:], pa.float32()), "influence_reason": pa.array([""] * 12)}
    monkeypatch.setattr(Influence, "check", lambda self, rows: None)
    monkeypatch.setattr(Influence, "compute", lambda self, rows, runner: values)
    monkeypatch.setattr(Influence, "spec", lambda self: {"score": "influence", **self.settings()})
    path = tmp_path / "bbh.jsonl"
    path.write_text(json.dumps({"prompt": full["instruction"][4], "completion": "Rain, rain."}))
    method = LESSTop(by=Influence(checkpoints=("out/checkpoint-9",), validation=str(path)))
    expected = select(full, LESSTop(), size=5).indices.tolist()
    pq.write_table(score_table(full.remove_columns("influence"), method.by), tmp_path / "scores.parquet")
    tables = ScoreTables(tmp_path / "scores.parquet")
    selection = select(tables, method, size=5)
    assert selection.indices.tolist() == expected
    assert selection.provenance["notes"]["target"]["copies"] is None
    assert "LESSTop: rows that repeat target rows are not found, because there is no text to compare" in caplog.text
    path.unlink()
    assert select(tables, method, size=5).indices.tolist() == expected
    assert "LESSTop: rows that repeat target rows are not counted. Influence(validation=" in caplog.text
    streamed = select_streaming(full.to_iterable_dataset(), LESSTop(), 5)
    assert streamed["selection_row"][:] == expected


def test_the_column_that_is_missing_is_named_with_its_score(rows):
    with pytest.raises(ColumnError, match=r"LESSTop needs column 'influence', .*Influence"):
        select(rows, LESSTop(), size=3)


def test_another_score_is_refused_at_once():
    with pytest.raises(ConfigError, match=r"LESSTop\(by=Loss.*the name of a column, or Influence\(\.\.\.\)"):
        LESSTop(by=Loss())


def test_in_a_recipe():
    settings = {"score": "influence", "checkpoints": ["a/checkpoint-3", "a/checkpoint-6"], "validation": "bbh.jsonl"}
    made = get_selector("less_top", {"by": settings})
    assert made.by.checkpoints == ("a/checkpoint-3", "a/checkpoint-6")
    spec = made.spec()
    assert get_selector(spec.pop("selector"), spec) == made
