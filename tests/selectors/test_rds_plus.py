"""RDS+: picks by plain loops, subtasks, copies of target rows, errors, cards, and in a trainer."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from hf_datasel import Selection, SelectiveSFTConfig, SelectiveSFTTrainer, score, select
from hf_datasel.cards.build import gather
from hf_datasel.cards.card import page
from hf_datasel.errors import ColumnError, ConfigError, FormatError, ScoreError, SelectionError
from hf_datasel.rounds.target_selector import check_copies
from hf_datasel.scores import Similarity
from hf_datasel.scoring import ScoreTables, score_table
from hf_datasel.scoring.distributed import Processes
from hf_datasel.selection.explanation import explain
from hf_datasel.selectors import BM25, Chain, InRange, MostSimilar, RDSPlus, get_selector, within_clusters
from hf_datasel.testing import contract
from tests.strategies.test_round_robin import by_popping


@pytest.fixture(scope="module")
def validation(tmp_path_factory, pool_rows):
    """Give the path of five rows of two subtasks, none of them in the pool."""
    rows = pool_rows.select(range(16, 21)).add_column("task", ["b", "a", "b", "a", "b"])
    path = tmp_path_factory.mktemp("validation") / "rows.jsonl"
    rows.to_json(path)
    return str(path)


@contract(RDSPlus(validation="to be named", subtask="task"))
def test_contract(check, selector, full, tiny_model_dir, validation):
    check(replace(selector, validation=validation), full.select(range(6)), tiny_model_dir)


@pytest.fixture(scope="module")
def similarities(tiny_model_dir, rows, validation):
    """The cosines with each target row."""
    subject = Similarity(
        str(tiny_model_dir), validation=validation, as_trained=True, pooling="weighted_mean", by_target=True
    )
    return np.array(score(rows, [subject])["similarity_by_target"][:])


def test_target_rows_in_turn(tiny_model_dir, rows, validation, similarities):
    subject = RDSPlus(validation=validation)
    for size in (1, 4, 7, 12):
        selection = select(rows, subject, size=size, model=str(tiny_model_dir))
        assert selection.indices.tolist() == by_popping(similarities.T, size)
    highest = np.argsort(-similarities.max(axis=1), kind="stable")
    assert by_popping(similarities.T, 7) != highest[:7].tolist()
    np.testing.assert_allclose(selection.scores("similarity"), similarities.max(axis=1), atol=1e-6)
    assert selection.provenance["selector"]["validation"] == validation
    named = MostSimilar(by=replace(subject.similarity, model=str(tiny_model_dir)))
    assert select(rows, named, size=7).indices.tolist() == by_popping(similarities.T, 7)


def test_subtasks_in_turn(tiny_model_dir, rows, validation, similarities):
    lists = [similarities[:, [1, 3]].max(axis=1), similarities[:, [0, 2, 4]].max(axis=1)]
    selected = select(rows, RDSPlus(str(tiny_model_dir), validation=validation, subtask="task"), size=7).indices
    assert selected.tolist() == by_popping(lists, 7) != by_popping(similarities.T, 7)


def test_in_clusters_and_explained(tiny_model_dir, full, validation, similarities):
    subject = RDSPlus(str(tiny_model_dir), validation=validation)
    selected = select(full, within_clusters(subject), size=6).indices
    ids = np.array(full["cluster_id"][:])
    for cluster in range(3):
        own = np.flatnonzero(ids == cluster)
        count = int((ids[selected] == cluster).sum())
        expected = own[by_popping(similarities[own].T, count)]
        assert selected[ids[selected] == cluster].tolist() == expected.tolist()
    match, cosine = similarities[3].argmax(), similarities[3].max()
    said = explain(select(full, subject, size=3), full, 3)["decided"]
    assert said == [f"Of the target rows, {match} is most similar to it, with a cosine of {cosine:.4g}."]


# -- copies of target rows --------------------------------------------------------------------------------------------
@pytest.fixture
def leaking(tmp_path, rows):
    """Give the path of three target rows, the last two of which are rows 4 and 9 of the pool, in other words."""
    path = tmp_path / "leaking.jsonl"
    data = [{"instruction": "Name a fruit that is blue.", "input": "", "output": "A plum."}]
    data += [{**rows[number], "instruction": rows[number]["instruction"].upper()} for number in (4, 9)]
    keys = ("instruction", "input", "output")
    path.write_text("".join(json.dumps({key: row[key] for key in keys}) + "\n" for row in data))
    return str(path)


def test_copies_are_excluded_and_counted(tiny_model_dir, rows, leaking, caplog, tmp_path):
    subject = RDSPlus(str(tiny_model_dir), validation=leaking)
    with caplog.at_level(logging.WARNING):
        selection = select(rows, subject, size=10)
    assert "RDSPlus: the prompts of 2 rows repeat target rows (4, 9). With copies='exclude' they" in caplog.text
    assert "set it to 'keep' otherwise" in caplog.text
    assert set(range(12)) - set(selection.indices.tolist()) == {4, 9}
    assert selection.provenance["exclusions"] == {"copies of target rows": 2}
    with pytest.raises(SelectionError, match=r"size=11 .*10 of 12 rows.*copies of target rows"):
        select(rows, subject, size=11)
    assert (
        explain(selection, rows, 9)["decided"][1]
        == "Its prompt repeats row 2 of the target rows, so it is never selected."
    )
    selection.save(tmp_path / "saved")
    text = page(gather([Selection.load(tmp_path / "saved")], rows, title="x"))
    assert "2 rows repeat one of the 3 target rows: with the words of its prompt" in text
    assert "| 2 | `copies of target rows` | a test on the target would be trained on |" in text


def test_copies_are_kept_and_counted(tiny_model_dir, rows, leaking, caplog):
    subject = RDSPlus(str(tiny_model_dir), validation=leaking, copies="keep")
    with caplog.at_level(logging.WARNING):
        selection = select(rows, subject, size=5)
    assert "repeat target rows (4, 9). Since they can be selected, do not test on the target." in caplog.text
    assert {4, 9} <= set(selection.indices[:3].tolist())
    assert selection.provenance["notes"]["target"] | {"sha256": ""} == {
        "rows": 3, "sha256": "", "copies": 2, "kept": True,
    }  # fmt: skip
    assert "2 rows repeat one of the 3 target rows" in page(gather([selection], rows, title="x"))
    assert "They could be selected." in page(gather([selection], rows, title="x"))


@pytest.mark.parametrize("wrap", [lambda own: own, lambda own: Chain([InRange("cluster_id", low=0)], own)])
def test_copies_are_counted_once_in_groups_that_run_again(tiny_model_dir, full, leaking, caplog, wrap):
    within = within_clusters(wrap(RDSPlus(str(tiny_model_dir), validation=leaking)))
    selection = select(full, within, size=10)
    assert set(range(12)) - set(selection.indices.tolist()) == {4, 9}
    assert selection.provenance["exclusions"] == {"copies of target rows": 2}
    assert selection.provenance["notes"]["target"]["copies"] == 2
    named = re.findall(r"target rows? \((.*?)\)", caplog.text)
    assert sorted(", ".join(named).split(", ")) == ["4", "9"]


def test_only_the_main_process_warns_of_copies(make_round, full, leaking, caplog, monkeypatch):
    monkeypatch.setattr(Processes, "is_main_process", property(lambda self: False))
    target = RDSPlus(validation=leaking).target()
    context = make_round(full, 5)
    assert check_copies(context, target, np.arange(12), "keep").tolist() == list(range(12))
    assert context.record.notes["target"]["copies"] == 2
    assert "repeat" not in caplog.text


def test_from_score_tables_copies_cannot_be_looked_for(tiny_model_dir, rows, leaking, caplog, tmp_path):
    subject = RDSPlus(str(tiny_model_dir), validation=leaking, copies="keep")
    pq.write_table(score_table(rows, replace(subject.similarity, by_target=True)), tmp_path / "scores.parquet")
    tables = ScoreTables(tmp_path / "scores.parquet")
    selection = select(tables, subject, size=5)
    assert selection.indices.tolist() == select(rows, subject, size=5).indices.tolist()
    assert selection.provenance["notes"]["target"]["copies"] is None
    assert "RDSPlus: rows that repeat target rows are not found, because there is no text to compare" in caplog.text
    with pytest.raises(FormatError, match=r"BM25 reads the text of rows\. The score tables in .* have no text"):
        select(tables, BM25(validation=leaking), size=5)
    with pytest.raises(ScoreError, match="similarity with these settings is not in the score tables"):
        select(tables, MostSimilar(by=Similarity(str(tiny_model_dir), validation=leaking)), size=5)


# -- settings ---------------------------------------------------------------------------------------------------------
def test_errors(tiny_model_dir, rows, validation):
    with pytest.raises(FormatError, match=r"RDSPlus\(validation='nothing\.jsonl'\): There is no file or folder"):
        select(rows, RDSPlus(str(tiny_model_dir), validation="nothing.jsonl"), size=3)
    with pytest.raises(ColumnError, match=r"RDSPlus\(subtask='tasks'\).*Did you mean 'task'\?"):
        select(rows, RDSPlus(str(tiny_model_dir), validation=validation, subtask="tasks"), size=3)
    with pytest.raises(ScoreError, match="Similarity has no model to run"):
        select(rows, RDSPlus(validation=validation), size=3)
    with pytest.raises(ConfigError, match=r"RDSPlus\(copies='drop'\): it has to be 'exclude' or 'keep'"):
        RDSPlus(validation=validation, copies="drop")
    with pytest.raises(ConfigError, match=r"RDSPlus\(validation=''\): it has to be a text"):
        RDSPlus(validation="")


def test_in_a_recipe(validation):
    spec = RDSPlus("a/b", validation=validation, validation_columns={"prompt": "q"}, subtask="task").spec()
    assert get_selector(spec.pop("selector"), spec).similarity.validation_columns == {"prompt": "q"}


def test_in_a_trainer(tiny_model_dir, rows, validation, tmp_path):
    config = SelectiveSFTConfig(
        output_dir=str(tmp_path), num_train_epochs=2, selection_size=3, per_device_train_batch_size=3,
        report_to="none", learning_rate=1e-2, use_cpu=True, bf16=False, disable_tqdm=True, save_strategy="no",
        selector="rds_plus", selector_kwargs={"validation": validation},
    )  # fmt: skip
    trainer = SelectiveSFTTrainer(model=str(tiny_model_dir), args=config, train_dataset=rows)
    trainer.train()
    expected = select(rows, RDSPlus(validation=validation), size=3, model=str(tiny_model_dir)).indices
    assert [each.indices.tolist() for each in trainer.selections] == [expected.tolist()]
