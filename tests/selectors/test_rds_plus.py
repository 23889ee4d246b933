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
from hf_datasel.cli import main
from hf_datasel.errors import ColumnError, ConfigError, FormatError, ScoreError, SelectionError
from hf_datasel.rounds.target_selector import check_copies
from hf_datasel.scores import Similarity
from hf_datasel.scoring import ScoreTables, column_provenance, score_table
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


# -- columns of a scored dataset --------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def by_target(validation):
    """The score that RDS+ reads from columns."""
    return Similarity(validation=validation, as_trained=True, pooling="weighted_mean", by_target=True)


@pytest.fixture(scope="module")
def scored(tiny_model_dir, full, by_target):
    return score(full, [by_target], model=str(tiny_model_dir))


def test_from_columns_as_with_the_model(tiny_model_dir, full, scored, validation):
    subject, model = RDSPlus(validation=validation), str(tiny_model_dir)
    filtered = Chain([InRange("cluster_id", low=1)], subject)
    for method in (subject, within_clusters(subject), filtered, MostSimilar(by=subject.similarity)):
        selection, expected = select(scored, method, size=4), select(full, method, size=4, model=model)
        assert selection.indices.tolist() == expected.indices.tolist()
        assert {"similarity", "similarity_by_target"} <= set(selection.provenance["columns_verified"])
    selection, expected = select(scored, subject, size=4), select(full, subject, size=4, model=model)
    assert explain(selection, scored, 3)["decided"] == explain(expected, full, 3, model)["decided"][:1]
    text = page(gather([selection], scored, title="x"))
    assert "Column 'similarity' has to be in the dataset: compute it with `hf-datasel score`" in text
    assert "Column 'similarity_by_target' has to be in the dataset" in text


def test_columns_with_the_same_highest_similarities_are_told_apart(tiny_model_dir, rows, by_target, validation):
    """The highest similarity is the same with and without subtasks, and without the lists."""
    own = replace(by_target, subtask="task", column_prefix="my_")
    all_scores = by_target, replace(by_target, subtask="task"), replace(by_target, by_target=False), own
    plain, by_task, _, prefixed = (score(rows, [each], model=str(tiny_model_dir)) for each in all_scores)
    for data, settings in ((plain, {}), (by_task, {"subtask": "task"})):
        subject = RDSPlus(validation=validation, **settings)
        expected = select(rows, subject, size=7, model=str(tiny_model_dir)).indices.tolist()
        selection = select(data, subject, size=7)
        assert selection.indices.tolist() == expected
        assert settings.get("subtask") in [spec["subtask"] for spec in selection.provenance["scores"]]
    for subject in (MostSimilar(by=own), MostSimilar(by="my_similarity")):
        assert select(prefixed, subject, size=7).indices.tolist() == expected
    with pytest.raises(ScoreError, match="with subtask='task', and not None"):
        select(by_task, RDSPlus(validation=validation), size=7)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"pooling": "mean"}, "with pooling='mean', and not 'weighted_mean'"),
        ({"by_target": False}, "with by_target=False, and not True"),
        ({"max_length": 64}, "with max_length=64, and not None"),
    ],
)
def test_columns_of_other_settings_are_not_read(tiny_model_dir, rows, by_target, validation, change, reason):
    data = score(rows, [replace(by_target, **change)], model=str(tiny_model_dir))
    with pytest.raises(
        ScoreError, match=rf"Similarity has no model to run\. .*: column 'simil.*' was computed {reason}\. Pass its"
    ):
        select(data, RDSPlus(validation=validation), size=3)


def test_columns_of_other_target_rows_are_not_read(tiny_model_dir, rows, scored, by_target, leaking, tmp_path):
    with pytest.raises(ScoreError, match=r"with validation='.*/rows\.jsonl', and not '.*/leaking\.jsonl'"):
        select(scored, RDSPlus(validation=leaking), size=3)
    data = score(rows, [replace(by_target, validation=leaking)], model=str(tiny_model_dir))
    copy = tmp_path / "copy.jsonl"
    copy.write_text((tmp_path / "leaking.jsonl").read_text())
    assert set(range(12)) - set(select(data, RDSPlus(validation=str(copy)), size=10).indices.tolist()) == {4, 9}
    (tmp_path / "leaking.jsonl").write_text(copy.read_text().splitlines()[0])
    with pytest.raises(ScoreError, match=r"was computed for other target rows than '.*/leaking\.jsonl' has now"):
        select(data, RDSPlus(validation=leaking), size=3)


def test_columns_of_unknown_origin_are_read_only_if_they_are_named(scored, validation, caplog):
    subject, reordered = RDSPlus(validation=validation), scored.select(range(11, -1, -1))
    with pytest.raises(
        ScoreError, match=r"how column 'similarity_by_target' was computed is not recorded\. Pass its name"
    ):
        select(reordered, subject, size=3)
    selection = select(reordered, MostSimilar(by="similarity"), size=5)
    assert (11 - selection.indices).tolist() == select(scored, subject, size=5).indices.tolist()
    assert selection.provenance["columns_unverified"] == ["similarity", "similarity_by_target"]
    assert caplog.text.count("MostSimilar: rows that repeat target rows are not found, because a column does not") == 1
    text = page(gather([selection], reordered, title="x"))
    assert "not looked for: the column does not tell which rows these are." in text
    assert (
        explain(selection, reordered, 8)["decided"] == explain(select(scored, subject, size=5), scored, 3)["decided"]
    )


def test_columns_of_different_runs_are_refused(scored, validation):
    lists = scored["similarity_by_target"][:]
    mixed = scored.remove_columns("similarity_by_target").add_column("similarity_by_target", [*lists[:9], *lists[:3]])
    with pytest.raises(ScoreError, match="how column 'similarity_by_target' was computed is not recorded"):
        select(mixed, RDSPlus(validation=validation), size=3)
    with pytest.raises(ColumnError, match="are not of one run of Similarity: in row 9 they have"):
        select(mixed, MostSimilar(by="similarity"), size=3)
    with pytest.raises(ColumnError, match="needs column 'similarity_by_target', but the dataset has"):
        select(scored.remove_columns("similarity_by_target"), MostSimilar(by="similarity"), size=3)


def test_on_the_command_line(tiny_model_dir, rows, by_target, validation, tmp_path, capsys, monkeypatch):
    file, out = tmp_path / "rows.parquet", tmp_path / "scored"
    rows.to_parquet(file)
    settings = {"as_trained": True, "pooling": "weighted_mean", "by_target": True, "validation": validation}
    scoring = ["score", "--scores", "similarity", "--scores_kwargs", json.dumps({"similarity": settings})]
    scoring += ["--dataset_name", str(file), "--model_name_or_path", str(tiny_model_dir)]
    assert main([*scoring, "--output_dir", str(out)]) == 0
    assert main([*scoring, "--output_dir", str(out), "--shard", "0/1"]) == 0
    expected = select(rows, RDSPlus(str(tiny_model_dir), validation=validation), size=7).indices
    choosing = ["select", "--selector", "rds_plus", "--selector_kwargs", json.dumps({"validation": validation})]
    for source in ("scored.parquet", "scores"):
        monkeypatch.setattr(column_provenance, "_specs", {})  # as in another process
        folder = str(tmp_path / source)
        assert main([*choosing, "--selection_size=7", f"--dataset_name={out / source}", f"--output_dir={folder}"]) == 0
        assert Selection.load(folder).indices.tolist() == expected.tolist()
        assert "unknown origin" not in capsys.readouterr().out


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
