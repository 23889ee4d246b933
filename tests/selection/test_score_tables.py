"""Selections from score tables, read by column: those of the whole scored dataset, tied to it by row ids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import concatenate_datasets

from hf_datasel import Selection, load_pool, select, select_streaming
from hf_datasel.cli import main
from hf_datasel.errors import ColumnError, DatasetMismatchError, FormatError, ScoreError, SelectionError
from hf_datasel.rounds.selector import Selector
from hf_datasel.scores import IFD, Cluster, Compressibility, Length, Loss
from hf_datasel.scoring import ScoreTables, Shard, ShardedScores, score_table
from hf_datasel.scoring.score_tables import table_record, with_record
from hf_datasel.selection.provenance import without_measurements
from hf_datasel.selectors import (
    Chain,
    InRange,
    IterIT,
    KCenter,
    KMClosest,
    Longest,
    NoTextDuplicates,
    Random,
    Superfiltering,
    Top,
    Within,
    per_source,
)

ROWS = 96
SCORES = [IFD(), Length(), Length("tokens", column_prefix="t_")]


@pytest.fixture(scope="module")
def rows(pool_rows):
    data = concatenate_datasets([pool_rows] * 4)
    outputs = [f"{text} {number % 17}" if number % 13 else "" for number, text in enumerate(data["output"])]
    data = data.remove_columns("output").add_column("output", outputs)
    return data.add_column("source", ["abc"[number % 3] for number in range(ROWS)])


@pytest.fixture(scope="module")
def folder(rows, tiny_model_dir, tmp_path_factory):
    """Return the output folder of scores in three shards."""
    folder = tmp_path_factory.mktemp("scored")
    job = ShardedScores(rows, SCORES, folder, tiny_model_dir, store=folder / "store")
    for index in range(3):
        job.score(Shard(index, 3))
    return folder


@pytest.fixture(scope="module")
def gathered(rows, folder, tiny_model_dir):
    """Return the whole scored dataset, of the same tables."""
    job = ShardedScores(rows, SCORES, folder, tiny_model_dir, store=folder / "store")
    return job.gather()


@pytest.fixture
def columns_read(monkeypatch):
    """Return the columns that are read from the tables, in the order of reading."""
    names = []
    read = ScoreTables.dataset

    def recorded(self, columns):
        names.extend(columns)
        return read(self, columns)

    monkeypatch.setattr(ScoreTables, "dataset", recorded)
    return names


# -- the same selection -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("selector", "columns"),
    [
        (Random(), []),
        (Top(by="t_response_tokens"), ["t_response_tokens"]),
        (Superfiltering(), ["ifd"]),
        (Superfiltering(quality="ifd"), ["ifd"]),
        (IterIT(diversity="none"), ["ifd"]),
        (Chain([InRange("response_words", 2, 9)], Within(Top("ifd"), "t_response_tokens")), None),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [{"size": 8}, {"ratio": 0.1}])
def test_equals_select(selector, columns, size, gathered, folder, columns_read):
    selection = select(ScoreTables(folder / "scores"), selector, **size)
    expected = select(gathered, selector, **size)
    assert selection.indices.tolist() == expected.indices.tolist()
    assert selection == expected
    if columns is not None:
        assert columns_read == columns
    assert selection.provenance["not_eligible"] == {"empty_response": 8}


def test_budget_of_tokens(rows, tiny_model_dir, tmp_path, columns_read):
    job = ShardedScores(rows, [Length("tokens")], tmp_path, tiny_model_dir)
    job.score(Shard(0, 1))
    selection = select(ScoreTables(tmp_path / "scores"), Top("response_tokens"), tokens=300)
    assert selection == select(job.gather(), Top("response_tokens"), tokens=300)
    assert columns_read == ["response_tokens", "num_tokens"]


def test_score_that_the_tables_have_is_read(gathered, folder):
    """A score of the same settings is read from its column, where the whole dataset has to be scored again."""
    tables = ScoreTables(folder / "scores")
    for selector in (Longest(), Top(Length())):
        selection, expected = select(tables, selector, size=9), select(gathered, selector, size=9)
        assert selection.indices.tolist() == expected.indices.tolist()
        names = ["row_id", "response_words"]
        assert selection.table.select(names).to_pylist() == expected.table.select(names).to_pylist()
        assert selection.provenance["exclusions"] == expected.provenance["exclusions"]
        assert selection.provenance["columns_verified"] == ["response_words"]
        assert selection.provenance["rows_scored"] == 0


def test_applied_to_the_dataset(rows, folder, tmp_path):
    selection = select(ScoreTables(folder / "scores"), Superfiltering(), size=9)
    selection.save(tmp_path)
    subset = Selection.load(tmp_path).apply(rows)
    assert subset["output"][:] == [rows[int(row)]["output"] for row in selection.indices]
    assert subset["ifd"][:] == sorted(subset["ifd"][:], reverse=True)
    with pytest.raises(DatasetMismatchError, match="of 96 rows differ"):
        selection.apply(rows.select(range(ROWS - 1, -1, -1)))
    with pytest.raises(Exception, match="does not contain the dataset that it was made from"):
        selection.push_to_hub("me/rows")


def test_names_of_columns_are_those_of_the_tables(rows, tmp_path):
    renamed = rows.remove_columns("input").rename_columns({"instruction": "q", "output": "a"})
    columns = {"prompt": "q", "completion": "a"}
    job = ShardedScores(renamed, [Length()], tmp_path, columns=columns)
    job.score(Shard(0, 1))
    tables = ScoreTables(tmp_path / "scores")
    selection = select(tables, Top("response_words"), size=5)
    assert selection == select(job.gather(), Top("response_words"), size=5, columns=columns)
    assert selection == select(tables, Top("response_words"), size=5, columns=columns)
    assert len(selection.apply(renamed)) == 5
    with pytest.raises(SelectionError, match=r"were read with columns={'prompt': 'q', 'completion': 'a'}, and not"):
        select(tables, Top("response_words"), size=5, columns={"prompt": "a", "completion": "q"})


@dataclass(frozen=True)
class Hidden(Selector):
    """A selector that no setting tells which column it reads."""

    def select(self, context):
        values = context.column("response_" + "words")
        rows = np.flatnonzero(context.eligible)
        return rows[np.argsort(-values[rows], kind="stable")][: context.budget]


def test_selector_of_another_package_may_read_any_column(gathered, folder):
    tables = ScoreTables(folder / "scores")
    assert select(tables, Hidden(), size=6) == select(gathered, Hidden(), size=6)


# -- what the tables do not have --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("selector", "error", "message"),
    [
        (IterIT(quality="ifd"), FormatError, r"IterIT reads the text of rows\. The score tables in .* have no text"),
        (
            Chain([InRange("ifd"), NoTextDuplicates()], Random()),
            FormatError,
            r"Chain reads the text of rows\. The score tables in .* have no text",
        ),
        (Top(Loss("some/model")), ScoreError, "loss with these settings is not in the score tables in"),
        (Superfiltering(model="some/model"), ScoreError, "which have no text to compute it from"),
        (Top(Compressibility()), ScoreError, "They have ifd, loss, loss_prior, ifd_reason"),
        (KCenter(), ColumnError, r"KCenter needs column 'embedding', but the dataset has \['ifd', 'loss', "),
        (Top("idf"), ColumnError, "Did you mean 'ifd'"),
        (per_source(Random(), "source"), ColumnError, "needs column 'source'"),
    ],
    ids=str,
)
def test_missing_text_or_score(selector, error, message, folder, columns_read, monkeypatch):
    monkeypatch.setattr("hf_datasel.scoring.models.model_identity", lambda *arguments: "weights")
    monkeypatch.setattr("hf_datasel.scoring.base.model_identity", lambda *arguments: "weights")
    with pytest.raises(error, match=message):
        select(ScoreTables(folder / "scores"), selector, size=3)
    if error is not ColumnError:
        assert columns_read == []


def test_model_has_nothing_to_read(folder, tiny_model_dir):
    with pytest.raises(SelectionError, match="Score tables have no text that a model could read"):
        select(ScoreTables(folder / "scores"), Superfiltering(), size=3, model=tiny_model_dir)


# -- which tables belong together -------------------------------------------------------------------------------------
def shards(rows, folder, *names, scores=(Length(),)):
    for name in names:
        ShardedScores(rows, list(scores), folder).score(Shard.parse(name))
    return folder / "scores"


def test_tables_that_do_not_cover_the_dataset(rows, tmp_path):
    first = shards(rows, tmp_path / "a", "0/3", "1/3")
    with pytest.raises(ScoreError, match="lack rows 64 to 95 of the 96 rows"):
        ScoreTables(first)
    with pytest.raises(ScoreError, match="lack rows 0 to 31 of the 96 rows"):
        ScoreTables(shards(rows, tmp_path / "b", "1/3", "2/3"))
    with pytest.raises(ScoreError, match=r"both have row 48: keep the tables of one number of shards"):
        ScoreTables(shards(rows, tmp_path / "a", "2/3", "1/2"))
    with pytest.raises(ScoreError, match="differ in scores"):
        ScoreTables(shards(rows, tmp_path / "b", "0/3", scores=[Length(column_prefix="my_")]))
    with pytest.raises(ScoreError, match="differ in dataset_rows"):
        shards(rows, tmp_path / "c", "0/2")
        ScoreTables(shards(rows.select(range(ROWS - 2)), tmp_path / "c", "1/2"))
    with pytest.raises(ScoreError, match="holds no score tables"):
        ScoreTables(tmp_path)


def test_tables_of_an_earlier_version(rows, tmp_path):
    folder = shards(rows, tmp_path, "0/1")
    (path,) = folder.iterdir()
    table = pq.read_table(path)
    earlier = table.drop_columns("row_reason").replace_schema_metadata(
        {"hf_datasel": '{"specs": {}, "rows": [0, 96]}'}
    )
    pq.write_table(earlier, path)
    with pytest.raises(ScoreError, match="written by another version of hf_datasel"):
        ScoreTables(folder)
    assert ScoreTables(shards(rows, tmp_path, "0/1")).columns == ["response_words", "length_reason"]


# -- streaming --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("selector", [Top("ifd"), Superfiltering(quality="ifd"), Longest()])
def test_streamed(selector, rows, gathered, folder):
    tables = ScoreTables(folder / "scores")
    selected = select_streaming(tables, selector, 11, batch_size=10)
    expected = select(gathered, selector, size=11).indices.tolist()
    assert selected["row"][:] == selected["selection_row"][:] == expected
    subset = tables.rows_of(rows, selected)
    assert subset["output"][:] == [rows[row]["output"] for row in expected]
    assert subset[selector.value_column][:] == [gathered[row][selector.value_column] for row in expected]
    assert not {"row_id", "row_reason"} & set(subset.column_names)
    with pytest.raises(DatasetMismatchError, match="is not the one that was scored: 11 of the 11 selected rows"):
        tables.rows_of(rows.select([*range(1, ROWS), 0]), selected)
    with pytest.raises(DatasetMismatchError, match="96 rows were scored, and the dataset has 95"):
        tables.rows_of(rows.select(range(ROWS - 1)), selected)


def test_streamed_at_random(folder):
    selected = select_streaming(ScoreTables(folder / "scores"), Random(), 88)
    assert sorted(selected["row"]) == [row for row in range(ROWS) if row % 13]


def test_stream_without_the_score(folder):
    tables = ScoreTables(folder / "scores")
    with pytest.raises(ColumnError, match="Did you mean 'ifd'"):
        select_streaming(tables, Top("idf"), 3)
    with pytest.raises(ScoreError, match="is not in the score tables"):
        select_streaming(tables, Top(Compressibility()), 3)


# -- command line -----------------------------------------------------------------------------------------------------
def test_command(rows, tiny_model_dir, tmp_path, capsys):
    file, out = tmp_path / "rows.parquet", tmp_path / "scored"
    rows.to_parquet(file)
    scoring = ["score", "--dataset_name", str(file), "--scores", "ifd", "length", "--output_dir", str(out)]
    scoring += ["--model_name_or_path", str(tiny_model_dir)]
    for shard in ("1/2", "0/2"):
        assert main([*scoring, "--shard", shard]) == 0
    assert main(scoring) == 0
    choosing = ["select", "--selector", "superfiltering", "--selection_size", "7", "--output_dir"]
    by_column = [*choosing, str(tmp_path / "a"), "--dataset_name", str(out / "scores")]
    assert main(by_column) == 0
    assert "7 of 96 rows" in capsys.readouterr().out
    assert main([*choosing, str(tmp_path / "b"), "--dataset_name", str(out / "scored.parquet")]) == 0
    first, second = Selection.load(tmp_path / "a"), Selection.load(tmp_path / "b")
    assert without_measurements(first.provenance) == without_measurements(second.provenance)
    assert first == second
    assert first.apply(load_pool(file))["output"][:] == second.apply(load_pool(file))["output"][:]
    by_column.append("--overwrite")
    assert main([*by_column, "--save_subset", "true"]) == 2
    assert "Score tables have no rows that could be saved" in capsys.readouterr().err
    assert main([*by_column, "--dataset_train_split", "train[:5]"]) == 2
    assert "Omit --dataset_train_split" in capsys.readouterr().err
    assert main([*by_column, "--model_name_or_path", str(tiny_model_dir)]) == 2
    assert "Omit --model_name_or_path" in capsys.readouterr().err


def test_other_settings_of_a_score_are_refused(folder):
    for other in (IFD(convention="cherry"), IFD(end_token=False)):
        for choose in (select, select_streaming):
            with pytest.raises(ScoreError, match="ifd with these settings is not in the score tables"):
                choose(ScoreTables(folder / "scores"), Top(by=other), 5)


def test_tables_of_different_settings_do_not_belong_together(rows, tmp_path):
    for first_row, level in ((0, 1), (48, 9)):
        part = rows.select(range(first_row, first_row + 48))
        pq.write_table(
            score_table(part, [Compressibility(level=level)], first_row=first_row), tmp_path / f"{level}.parquet"
        )
    with pytest.raises(ScoreError, match="compressibility was computed with other settings"):
        ScoreTables(tmp_path)


def test_tables_of_different_revisions_do_not_belong_together(rows, tmp_path):
    for first_row, revision in ((0, "a1"), (48, "b2")):
        table = score_table(rows.select(range(first_row, first_row + 48)), [Length()], first_row=first_row)
        record = {**table_record(table.schema), "parents": {"name": "a/b", "revision": revision}}
        pq.write_table(with_record(table, record), tmp_path / f"{revision}.parquet")
    with pytest.raises(ScoreError, match=r"rows are those of a/b at a1 and a/b at b2\. Pass --dataset_revision"):
        ScoreTables(tmp_path)


def test_clusters_are_read_from_the_tables(rows, tmp_path):
    vectors = np.random.default_rng(0).standard_normal((ROWS, 4)).tolist()
    data = rows.add_column("embedding", vectors)
    clusters = Cluster(k=3, column="embedding").fit(data, tmp_path / "centroids.npy")
    job = ShardedScores(data, [clusters, Length()], tmp_path)
    for index in range(2):
        job.score(Shard(index, 2))
    selector = KMClosest(clusters=clusters)
    selected = select(ScoreTables(tmp_path / "scores"), selector, size=9)
    assert selected.indices.tolist() == select(data, selector, size=9).indices.tolist()


def test_own_column_of_the_dataset_is_kept(rows, folder):
    tables = ScoreTables(folder / "scores")
    own = rows.add_column("row", [1000 + number for number in range(ROWS)])
    selected = select_streaming(tables, Top("ifd"), 5)
    found = tables.rows_of(own, selected)
    assert found["row"][:] == [1000 + number for number in found["selection_row"]]
    with pytest.raises(ScoreError, match=r"this is Selection\. For a Selection, use selection\.apply"):
        tables.rows_of(own, select(tables, Top("ifd"), size=5))


def test_stream_with_other_columns(folder):
    with pytest.raises(SelectionError, match="Do not pass columns"):
        select_streaming(ScoreTables(folder / "scores"), Top("ifd"), 5, columns={"prompt": "instruction"})


def test_output_folder_instead_of_its_tables(folder, tmp_path, capsys):
    assert main(["select", "--dataset_name", str(folder), "--selector", "random", "--output_dir", str(tmp_path)]) != 0
    assert f"Name the score tables in it, '{folder / 'scores'}'" in capsys.readouterr().err
    with pytest.raises(ScoreError, match=f"Name '{folder / 'scores'}'"):
        ScoreTables(folder)


def test_warnings_before_tables_are_scored_or_replaced(rows, tmp_path, caplog):
    job = ShardedScores(rows, [Length()], tmp_path)
    for index in range(2):
        job.score(Shard(index, 3))
    assert "shards" not in caplog.text
    assert "replaced" not in caplog.text
    job.gather()
    assert "1 of 3 shards have no table with these scores and are scored here: 2/3." in caplog.text
    ShardedScores(rows, [Compressibility()], tmp_path).score(Shard(0, 3))
    assert "shard-00000-of-00003.parquet has other scores, settings or rows, and is replaced." in caplog.text
    job.score(Shard(0, 2))
    assert "also has tables of 3 shards" in caplog.text
