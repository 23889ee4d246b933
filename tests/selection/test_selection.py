import getpass
import json
import os
import pickle
import socket

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, load_dataset
from datasets.fingerprint import Hasher

import hf_datasel
from hf_datasel import Between, Selection, select
from hf_datasel.errors import ColumnError, DatasetMismatchError, SelectionError
from hf_datasel.hub.parents import parents_of
from hf_datasel.scores import IFD
from hf_datasel.selection.provenance import without_paths
from hf_datasel.selectors import GraphFilter, IterIT, Longest, Random, Superfiltering, Top

FILES = {"selection.json", "indices.npy", "scores.parquet"}


@pytest.fixture(scope="module")
def rows(pool_rows):
    return pool_rows.add_column("loss", [round(0.1 * ((7 * row) % 24), 1) for row in range(24)])


@pytest.fixture(scope="module")
def selection(rows):
    return select(rows, Top(by="loss"), size=5)


# -- files -----------------------------------------------------------------------------------------------------------
def test_save_load_roundtrip(rows, tmp_path):
    for selector in (Random(), Longest(), Top(by="loss")):
        before = select(rows, selector, size=6, seed=3)
        before.save(tmp_path / "new" / "folder")
        after = Selection.load(str(tmp_path / "new" / "folder"))
        assert after == before
        assert after.indices.dtype == np.int64
        assert after.indices.tolist() == before.indices.tolist()
        assert after.provenance == before.provenance
        assert after.apply(rows)[:] == before.apply(rows)[:]
        assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == FILES


def test_equality(rows):
    first, again, other = (select(rows, Random(), size=6, seed=seed) for seed in (0, 0, 1))
    assert first.provenance["cost"] != again.provenance["cost"]  # what was measured is no part of it
    assert first == again
    assert first != other
    assert first != first.indices.tolist()


def test_file_formats(rows, tmp_path):
    selection = select(rows, Longest(), size=4, seed=1)
    selection.save(tmp_path)
    content = json.loads((tmp_path / "selection.json").read_text(encoding="utf-8"))
    indices = np.load(tmp_path / "indices.npy", allow_pickle=False)
    scores = pq.read_table(tmp_path / "scores.parquet")
    assert indices.tolist() == selection.indices.tolist()
    assert content["selector"] == {"selector": "longest", "unit": "words"}
    assert scores.column_names == ["row_id", "response_words", "length_reason"]
    words = scores.column("response_words").to_pylist()
    assert words == [len(text.split()) for text in rows["output"][:]]
    assert len(set(scores.column("row_id").to_pylist())) == 24


def test_same_seed_same_files(rows, tmp_path):
    for name in ("one", "two"):
        select(rows, Random(), size=6, seed=11).save(tmp_path / name)
    for file in FILES - {"selection.json"}:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    one, two = (json.loads((tmp_path / name / "selection.json").read_text()) for name in ("one", "two"))
    assert one.pop("seconds") >= one.pop("cost")["wall_seconds"] >= 0
    del two["seconds"], two["cost"]
    assert one.pop("sha256")["scores"] == two.pop("sha256")["scores"]
    assert one == two


def test_save_replaces_files(rows, tmp_path):
    select(rows, Random(), size=6).save(tmp_path)
    select(rows, Random(), size=2, seed=5).save(tmp_path)
    assert len(Selection.load(tmp_path).indices) == 2


def test_load_from_incomplete_folder(tmp_path, selection):
    with pytest.raises(
        SelectionError, match=r"holds no selection: selection\.json, indices\.npy, scores\.parquet not"
    ):
        Selection.load(tmp_path)
    selection.save(tmp_path)
    (tmp_path / "indices.npy").unlink()
    with pytest.raises(SelectionError, match=r"holds no selection: indices\.npy not found"):
        Selection.load(tmp_path)


# -- apply -----------------------------------------------------------------------------------------------------------
def test_apply_ranks(rows, selection):
    subset = selection.apply(rows)
    assert subset["loss"][:] == sorted(rows["loss"][:], reverse=True)[:5]
    assert subset["instruction"][:] == [rows[int(row)]["instruction"] for row in selection.indices]
    assert subset.column_names == [*rows.column_names, "selection_rank", "selection_round"]
    assert subset["selection_rank"][:] == [0, 1, 2, 3, 4]
    assert subset["selection_round"][:] == [0] * 5


def test_apply_scores(pool_rows):
    selection = select(pool_rows, Longest(), size=5)
    subset = selection.apply(pool_rows)
    assert subset.column_names == [*pool_rows.column_names, "response_words", "selection_rank", "selection_round"]
    assert subset["response_words"][:] == [len(output.split()) for output in subset["output"]]
    assert str(subset.features["response_words"]) == "Value('int32')"


def test_apply_keeps_column_with_name_of_score(pool_rows):
    mine = pool_rows.add_column("response_words", [-1] * 24)
    subset = select(pool_rows, Longest(), size=5).apply(mine)
    assert subset["response_words"][:] == [-1] * 5
    assert subset["selection_response_words"][:] == [len(output.split()) for output in subset["output"]]


def test_apply_replaces_earlier_ranks(rows, selection):
    once = rows.add_column("selection_rank", list(range(24)))
    assert selection.apply(once)["selection_rank"][:] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv"])
def test_apply_to_rows_from_file(rows, selection, tmp_path, ending):
    path = str(tmp_path / f"rows.{ending}")
    getattr(rows, {"jsonl": "to_json", "parquet": "to_parquet", "csv": "to_csv"}[ending])(path)
    kind = {"jsonl": "json"}.get(ending, ending)
    again = load_dataset(kind, data_files=path, split="train")
    assert selection.apply(again)["instruction"][:] == selection.apply(rows)["instruction"][:]


def test_apply_ignores_other_columns(rows, selection):
    more = rows.add_column("note", ["x"] * 24).select_columns(["note", "output", "instruction", "input"])
    assert selection.apply(more)["instruction"][:] == selection.apply(rows)["instruction"][:]


def test_apply_to_other_format_with_same_content(rows, selection):
    chats = [
        [
            {
                "role": "user",
                "content": f"{row['instruction']}\n\n{row['input']}" if row["input"] else row["instruction"],
            },
            {"role": "assistant", "content": row["output"]},
        ]
        for row in rows
    ]
    convert_pool = Dataset.from_dict(
        {"prompt": [chat[:1] for chat in chats], "completion": [chat[1:] for chat in chats]}
    )
    assert selection.apply(convert_pool)["completion"][0][0]["content"] == selection.apply(rows)["output"][0]


def test_apply_to_other_length(rows, selection):
    with pytest.raises(DatasetMismatchError, match="made from 24 rows, and this dataset has 23"):
        selection.apply(rows.select(range(23)))


def test_apply_to_shuffled_rows(rows, selection):
    order = [1, 0, *range(2, 24)]
    with pytest.raises(DatasetMismatchError, match=r"2 of 24 rows differ \(the same rows in another order\)"):
        selection.apply(rows.select(order))


@pytest.mark.parametrize("column", ["instruction", "input", "output"])
def test_apply_to_other_content(rows, selection, tmp_path, column):
    selection.save(tmp_path)
    values = [f"{value} " if row in (7, 9) else value for row, value in enumerate(rows[column][:])]
    changed = rows.remove_columns(column).add_column(column, [*values[:7], "changed", values[8], "too", *values[10:]])
    for item in (selection, Selection.load(tmp_path)):
        with pytest.raises(DatasetMismatchError, match=r"2 of 24 rows differ \(the first that differs is row 7\)"):
            item.apply(changed)


# -- keep ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("options", [{}, {"batched": True, "batch_size": 5}, {"num_proc": 2}])
def test_keep_filters_dataset(rows, selection, options):
    kept_rows = rows.filter(selection.keep, with_indices=True, **options)
    assert kept_rows["instruction"][:] == [rows[row]["instruction"] for row in sorted(selection.indices.tolist())]


@pytest.mark.parametrize("batched", [False, True])
def test_keep_filters_a_stream(rows, selection, batched):
    kept_rows = list(rows.to_iterable_dataset().filter(selection.keep, with_indices=True, batched=batched))
    assert [row["loss"] for row in kept_rows] == [rows[row]["loss"] for row in sorted(selection.indices.tolist())]


def test_keep_has_a_stable_fingerprint(rows, selection, tmp_path):
    selection.save(tmp_path)
    loaded = Selection.load(tmp_path)
    first, again = (rows.filter(item.keep, with_indices=True) for item in (selection, loaded))
    assert first._fingerprint == again._fingerprint
    assert Hasher.hash(selection.keep) == Hasher.hash(loaded.keep)
    other = select(rows, Top(by="loss"), size=4).keep
    assert Hasher.hash(other) != Hasher.hash(selection.keep)


# -- thresholds ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def gaps(rows):
    values = [None, float("nan"), 0.2, 0.5, 1.0, 1.5]
    return rows.select(range(6)).remove_columns("loss").add_column("ifd", values)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("kind", [None, "numpy", "torch", "pandas"])
@pytest.mark.parametrize(
    ("bounds", "expected"),
    [({"high": 1.0}, [2, 3]), ({"low": 0.5}, [3, 4, 5]), ({"low": 0.5, "high": 1.0}, [3]), ({}, [2, 3, 4, 5])],
)
def test_between_bounds(gaps, bounds, expected, batched, kind):
    kept_rows = gaps.with_format(kind).filter(Between("ifd", **bounds), batched=batched).with_format(None)
    assert kept_rows["instruction"][:] == [gaps[row]["instruction"] for row in expected]


@pytest.mark.parametrize("batched", [False, True])
def test_between_filters_a_stream(gaps, batched):
    stream = gaps.to_iterable_dataset().filter(Between("ifd", high=1.0), batched=batched)
    assert [row["ifd"] for row in stream] == [0.2, 0.5]


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("streaming", [False, True])
def test_between_missing_column(gaps, batched, streaming):
    data = gaps.to_iterable_dataset() if streaming else gaps
    with pytest.raises(ColumnError, match=r"Between\('idf'\) needs a column .*Did you mean 'ifd'\? Scores are added"):
        list(data.filter(Between("idf", high=1.0), batched=batched))


def test_between_has_a_stable_fingerprint():
    assert Hasher.hash(Between("ifd", high=1.0)) == Hasher.hash(Between("ifd", high=1.0))
    assert Hasher.hash(Between("ifd", high=1.0)) != Hasher.hash(Between("ifd", high=0.9))


# -- overlap and scores ----------------------------------------------------------------------------------------------
def test_overlap_is_jaccard(rows, selection):
    five, three = selection, select(rows, Top(by="loss"), size=3)
    assert five.overlap(five) == 1.0
    assert five.overlap(three) == three.overlap(five) == 3 / 5
    lowest = rows.add_column("easy", [-value for value in rows["loss"][:]])
    assert five.overlap(select(lowest, Top(by="easy"), size=3)) == 0.0


def test_overlap_of_different_datasets(rows, selection):
    other = select(rows.select(range(20)), Random(), size=5)
    with pytest.raises(DatasetMismatchError, match="made from different datasets"):
        selection.overlap(other)


def test_missing_score(rows):
    selection = select(rows, Longest(), size=2)
    with pytest.raises(SelectionError, match=r"no score 'ifd': it has \['response_words', 'length_reason'\]"):
        selection.scores("ifd")


# -- provenance ------------------------------------------------------------------------------------------------------
def test_provenance(rows, tiny_model_dir):
    broken = rows.remove_columns("output").add_column("output", ["", None, *rows["output"][2:]])
    selection = select(broken, GraphFilter(), size=4, seed=9, model=str(tiny_model_dir))
    provenance = selection.provenance
    assert provenance["seed"] == 9
    assert provenance["selector"]["selector"] == "graphfilter"
    assert provenance["selector"]["decay"] == 0.0
    assert [spec["score"] for spec in provenance["scores"]] == ["ifd"]
    assert provenance["scores"][0]["convention"] == "sft"
    assert provenance["scores"][0]["version"] == IFD.version
    assert provenance["dataset"]["rows"] == 24
    assert len(provenance["dataset"]["id"]) == 64
    assert provenance["not_eligible"] == {"empty_response": 2}
    assert (provenance["budget"], provenance["selected"], provenance["shortfall"]) == (4, 4, 0)
    assert provenance["rows_scored"] == 24
    assert provenance["columns_unverified"] == []
    assert provenance["seconds"] > 0
    assert provenance["versions"]["hf-datasel"] == hf_datasel.__version__
    assert {"python", "datasets", "transformers", "trl", "torch", "numpy"} <= set(provenance["versions"])


def test_used_columns_are_recorded(rows):
    data = rows.add_column("ifd", [None, 1.5, 1.0, *[0.5] * 21])
    provenance = select(data, IterIT(quality="ifd"), size=2).provenance
    assert provenance["columns_unverified"] == ["ifd"]
    assert provenance["exclusions"] == {"without ifd": 1, "with ifd >= 1": 2}
    assert provenance["scores"] == []


def test_nothing_private_is_recorded(rows, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_aSecretOfMine")
    monkeypatch.setenv("WANDB_API_KEY", "anotherSecretOfMine")
    monkeypatch.chdir(tmp_path)
    select(rows, Longest(), size=3).save("out")
    written = (tmp_path / "out" / "selection.json").read_text(encoding="utf-8")
    values = json.dumps(list(leaves(json.loads(written))))
    for private in ("SecretOfMine", str(tmp_path), os.path.expanduser("~") + "/", socket.gethostname()):
        assert private not in values
    assert f'"{getpass.getuser()}"' not in values


def leaves(value):
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def test_rows_are_never_written(rows, selection, tmp_path):
    selection.save(tmp_path)
    copies = [pickle.loads(pickle.dumps(selection)), Selection.load(tmp_path)]
    assert not any(isinstance(value, Dataset) for copy in copies for value in vars(copy).values())
    assert copies == [selection, selection]


def test_origin_on_the_hub(local_hub, pool_rows):
    from datasets import concatenate_datasets

    pool_rows.push_to_hub("tester/parent")
    pool_rows.push_to_hub("tester/other")
    rows = load_dataset("tester/parent", split="train")
    commit = local_hub.commits("tester/parent")[-1].oid
    place = {"name": "tester/parent", "revision": commit, "config": "default", "split": "train", "changed": False}
    assert parents_of(rows).only == place
    assert parents_of(rows.add_column("ifd", [0.5] * 24)).only == place
    assert parents_of(load_dataset("tester/parent", split="train[:10]")).only == {**place, "split": "train[:10]"}
    for changed in (rows.select(range(9)), rows.shuffle(seed=0), rows.filter(lambda row: len(row["output"]) > 20)):
        assert parents_of(changed).only == {**place, "changed": True}
    mixed = concatenate_datasets([rows, load_dataset("tester/other", split="train")])
    assert parents_of(mixed).only == {}
    assert [item["name"] for item in parents_of(mixed).datasets] == ["tester/parent", "tester/other"]
    assert all(item["changed"] for item in parents_of(mixed).datasets)
    assert parents_of(pool_rows).only == {}
    assert not parents_of(pool_rows).datasets


@pytest.mark.parametrize("name", ["OpenHermes-2.5", "Magpie-Pro-300K-Filtered", "MATH-500", "alpaca", "a_b.C"])
def test_origin_name_as_on_the_hub(local_hub, pool_rows, name):
    pool_rows.push_to_hub(f"tester/{name}")
    assert parents_of(load_dataset(f"tester/{name}", split="train")).only["name"] == f"tester/{name}"


@pytest.mark.parametrize("place", ["/home/me/models/tiny", "~/models/tiny", "../models/tiny/", "./tiny"])
def test_without_paths(place):
    result = without_paths(
        {"model": {"name": place}, "scores": [{"model": place}], "seed": 0, "checkpoints": ("me/tiny", place)}
    )
    assert without_paths({"prompt": place}) == {"prompt": place}
    assert result == {
        "model": {"name": "tiny"},
        "scores": [{"model": "tiny"}],
        "seed": 0,
        "checkpoints": ("me/tiny", "tiny"),
    }


def test_keep_refuses_other_rows(pool_rows):
    keep = select(pool_rows, Random(), size=5).keep
    other = pool_rows.shuffle(seed=1)
    with pytest.raises(DatasetMismatchError, match="is not the row that was selected"):
        other.filter(keep, with_indices=True)
    with pytest.raises(DatasetMismatchError, match="is not the row that was selected"):
        other.filter(keep, with_indices=True, batched=True)
    assert len(pool_rows.remove_columns(["output"]).filter(keep, with_indices=True)) == 5


def test_apply_keeps_used_column(pool_rows):
    scored = pool_rows.add_column("ifd", np.linspace(0.1, 0.9, len(pool_rows)))
    selection = select(scored, Superfiltering(quality="ifd"), size=3)
    assert selection.provenance["columns_unverified"] == ["ifd"]
    assert selection.provenance["rows_scored"] == 0
    np.testing.assert_allclose(selection.scores("ifd"), scored["ifd"][:])


def test_repr(pool_rows):
    assert repr(select(pool_rows, Random(), size=5)) == "Selection(5 of 24 rows by random, round 0)"


# -- in Python and in notebooks --------------------------------------------------------------------------------------
def test_sequence_of_row_numbers(selection):
    rows = selection.indices.tolist()
    assert (len(selection), list(selection), selection[0], selection[-1]) == (5, rows, rows[0], rows[-1])
    assert selection[:2].tolist() == rows[:2]
    assert all(type(row) is int for row in (*selection, selection[0]))
    with pytest.raises(IndexError, match="out of bounds"):
        selection[5]


def test_summary(rows, selection):
    mean, whole = np.mean(sorted(rows["loss"])[-5:]), np.mean(rows["loss"])
    assert selection.summary().splitlines() == [
        "Top by loss (by=loss): 5 of 24 rows.",
        "Columns of unknown origin, used as they are: loss.",
        f"loss: mean {mean:.5g}, of all rows {whole:.5g}.",
    ]
    kept = select(rows.select(range(4)).add_column("<b>", [1.0, None, 2.0, 3.0]), Top(by="<b>"), size=2)
    assert "Excluded: 1 without <b>." in kept.summary()
    html = kept._repr_html_()
    assert "<th>&lt;b&gt;</th><td>2.5</td><td>2</td>" in html
    assert "Rows, best first: 3, 2</p>" in html
    assert "<b><b>" not in html


def test_explain_and_report_of_a_selection(rows, selection, tmp_path):
    assert selection.explain(int(selection[0])) == hf_datasel.selection.explain(selection, rows, int(selection[0]))
    selection.save(tmp_path / "saved")
    loaded = Selection.load(tmp_path / "saved")
    with pytest.raises(SelectionError, match=r"Pass the dataset.* selection.explain\(..., dataset=dataset\)"):
        loaded.explain(0)
    assert loaded.explain(0, rows)["selected"] == (0 in loaded)
    page = loaded.report(tmp_path / "report", rows)
    assert page == tmp_path / "report" / "report.html"
    assert "<h1>Top by loss on 24 rows</h1>" in page.read_text(encoding="utf-8")
    with pytest.raises(DatasetMismatchError, match="24 rows, and this dataset has 20"):
        loaded.report(tmp_path / "report", rows.select(range(20)))
