"""Scores in the files of other libraries: their layouts, their rows, and what is recorded of them.

`bergson/` holds what `bergson score` 2.5.1 wrote for the 24 rows of `pool_rows` and three queries.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from hf_datasel import Selection, load_pool, score, select
from hf_datasel.cli import main
from hf_datasel.errors import ConfigError, ScoreError
from hf_datasel.scores import ImportedScore
from hf_datasel.scoring import Shard, ShardedScores, score_table
from hf_datasel.selection import explain
from hf_datasel.selectors import Chain, InRange, Top, get_selector
from hf_datasel.spec import to_spec
from hf_datasel.testing import contract

BERGSON = Path(__file__).with_name("bergson")
SCORES = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)


def unpacked(folder=BERGSON):
    """The scores of bergson, read byte by byte: a float, a flag and three bytes of padding for each query."""
    values = struct.iter_unpack("<f?3x f?3x f?3x", (folder / "scores.bin").read_bytes())
    return np.array([row[::2] for row in values])


def imported(rows, path, **settings):
    scored = score(rows, ImportedScore(str(path), **settings), on_summary=str)
    return np.array(scored["imported_score"][:], dtype=float), scored["imported_score_reason"][:]


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(BERGSON, tmp_path / "scores"))


@pytest.fixture
def tensor(tmp_path):
    torch.save(torch.tensor(SCORES), tmp_path / "tracin.pt")
    return tmp_path / "tracin.pt"


def change(file, **values):
    content = yaml.safe_load(file.read_text())
    file.write_text(json.dumps({**content, **values}))


@contract(ImportedScore(str(BERGSON), row_numbers=str(BERGSON / "rows.npy"), column_prefix="old_"))
def test_contract(check, score, pool_rows):
    check(score, pool_rows)


# -- layouts ----------------------------------------------------------------------------------------------------------
def test_bergson(pool_rows):
    values, reasons = imported(pool_rows, BERGSON)
    np.testing.assert_allclose(values, unpacked().mean(axis=1), rtol=1e-6)
    np.testing.assert_array_equal(imported(pool_rows, BERGSON, aggregate="max")[0], unpacked().max(axis=1))
    assert set(reasons) == {""}


def test_bergson_with_bfloat16(pool_rows, folder):
    """Bytes of 2.5.1 with `precision: bf16`: two of the score, one of the flag, one of padding; 8 a multiple."""
    bits = (SCORES[:, :1].view(np.uint32) >> 16).astype(np.uint16)
    (folder / "scores.bin").write_bytes(b"".join(struct.pack("<H?x4x", int(value), True) for value in bits[:, 0]))
    dtype = {"names": ["score_0", "written_0"], "formats": ["bfloat16", "bool"], "offsets": [0, 2], "itemsize": 8}
    change(folder / "info.json", num_scores=1, dtype=dtype)
    values, _ = imported(pool_rows, folder)
    np.testing.assert_array_equal(values, (bits[:, 0].astype(np.uint32) << 16).view(np.float32))


def test_tensor_of_dattri_and_arrays(pool_rows, tensor, tmp_path):
    np.save(tmp_path / "scores.npy", SCORES.T)
    save_file({"scores": torch.tensor(SCORES)}, tmp_path / "scores.safetensors")
    torch.save({"score": torch.tensor(SCORES, requires_grad=True)}, tmp_path / "scores.pth")
    for how, expected in (("mean", SCORES.mean(axis=1)), ("max", SCORES.max(axis=1))):
        for path in (tensor, tmp_path / "scores.safetensors", tmp_path / "scores.pth"):
            np.testing.assert_allclose(imported(pool_rows, path, aggregate=how)[0], expected, rtol=1e-5)
        turned, _ = imported(pool_rows, tmp_path / "scores.npy", aggregate=how, row_axis=1)
        np.testing.assert_allclose(turned, expected, rtol=1e-5)
    np.save(tmp_path / "one.npy", SCORES[:, 0])
    np.testing.assert_array_equal(imported(pool_rows, tmp_path / "one.npy")[0], SCORES[:, 0])


def test_sign(pool_rows, folder, tensor):
    change(folder / "config.yaml", steps=[{"score": {"score_cfg": {"higher_is_better": False}}}])
    np.testing.assert_array_equal(imported(pool_rows, folder, aggregate="max")[0], -unpacked().min(axis=1))
    np.testing.assert_allclose(
        imported(pool_rows, folder, higher_is_better=True)[0], unpacked().mean(axis=1), rtol=1e-6
    )
    lower, _ = imported(pool_rows, tensor, higher_is_better=False)
    np.testing.assert_allclose(lower, -SCORES.mean(axis=1), rtol=1e-5)
    (folder / "config.yaml").unlink()
    with pytest.raises(ScoreError, match=r"does not say whether higher scores are better.*higher_is_better=True"):
        imported(pool_rows, folder)


# -- rows -------------------------------------------------------------------------------------------------------------
def test_number_of_rows(pool_rows, tensor, tmp_path):
    few = pool_rows.select(range(20))
    for path in (BERGSON, tensor):
        with pytest.raises(ScoreError, match=r"scores of 24 rows for 3 queries, and the dataset has 20 rows\."):
            imported(few, path)
    with pytest.raises(ScoreError, match=r"24 rows for 3 queries, and the dataset has 3 .*pass row_axis=1\."):
        imported(pool_rows.select(range(3)), tensor)


def test_scores_of_some_rows(pool_rows, folder, tensor, tmp_path):
    chosen = np.array([7, 2, 23])
    np.save(tmp_path / "rows.npy", chosen)
    torch.save(torch.tensor(SCORES[:3]), tensor)
    values, reasons = imported(pool_rows, tensor, row_numbers=str(tmp_path / "rows.npy"))
    np.testing.assert_allclose(values[chosen], SCORES[:3].mean(axis=1), rtol=1e-5)
    assert np.isnan(np.delete(values, chosen)).all()
    assert reasons.count("not_in_file") == 21
    with pytest.raises(ScoreError, match=r"scores of the rows 2 to 23, and the dataset has 20 rows"):
        imported(pool_rows.select(range(20)), tensor, row_numbers=str(tmp_path / "rows.npy"))

    np.save(folder / "candidates.npy", np.arange(24)[::-1])
    np.testing.assert_allclose(imported(pool_rows, folder)[0], unpacked().mean(axis=1)[::-1], rtol=1e-6)
    np.save(folder / "candidates.npy", np.arange(23))
    with pytest.raises(ScoreError, match=r"has 23 row numbers, and there are scores of 24 rows"):
        imported(pool_rows, folder)


def test_scores_that_are_missing(pool_rows, folder, tensor):
    content = bytearray((folder / "scores.bin").read_bytes())
    content[24 * 5 + 12] = 0  # the flag of row 5, query 1
    content[24 * 6 : 24 * 6 + 4] = struct.pack("<f", np.inf)
    (folder / "scores.bin").write_bytes(content)
    values, reasons = imported(pool_rows, folder)
    assert {row: reason for row, reason in enumerate(reasons) if reason} == {5: "not_written", 6: "not_finite"}
    assert np.isnan(values[[5, 6]]).all()


def test_other_files(pool_rows, folder, tensor, tmp_path):
    (folder / "scores.bin").write_bytes(b"0" * 100)
    with pytest.raises(ScoreError, match=r"damaged: info\.json names 24 rows, which are 576 bytes, and it has 100"):
        imported(pool_rows, folder)
    change(folder / "info.json", attribute_tokens=True)
    with pytest.raises(ScoreError, match="a score for each token"):
        imported(pool_rows, folder)
    (folder / "info.json").write_text('{"num_items": 24}')
    with pytest.raises(ScoreError, match="does not describe scores of bergson"):
        imported(pool_rows, folder)
    torch.save({"a": torch.zeros(24), "b": torch.zeros(24)}, tensor)
    with pytest.raises(ScoreError, match=r"holds \['a', 'b'\], and not one tensor"):
        imported(pool_rows, tensor)
    torch.save(Selection, tensor)  # a pickle that would run code
    with pytest.raises(ScoreError, match="cannot be read as a tensor"):
        imported(pool_rows, tensor)
    for name, message in (
        ("none.pt", "There is no file"),
        ("", "no scores of bergson"),
        ("x.csv", "no file of scores"),
    ):
        (tmp_path / "x.csv").touch()
        with pytest.raises(ScoreError, match=message):
            imported(pool_rows, tmp_path / name)
    with pytest.raises(ConfigError, match=r"aggregate='min'\): it has to be 'mean' or 'max'"):
        ImportedScore("x.npy", aggregate="min")


def test_needs_all_rows(pool_rows, tmp_path):
    with pytest.raises(ScoreError, match=r"not in batches of map.*by row number.*hf_datasel\.score\(dataset"):
        pool_rows.map(ImportedScore(str(BERGSON)), batched=True)
    with pytest.raises(ScoreError, match=r"not in shards: its file has scores by row number"):
        ShardedScores(pool_rows, ImportedScore(str(BERGSON)), tmp_path).score(Shard(0, 2))
    with pytest.raises(ScoreError, match="not in shards"):
        score_table(pool_rows, ImportedScore(str(BERGSON)))


# -- selections, records and the command line -------------------------------------------------------------------------
def test_selection_and_its_record(pool_rows):
    selector = Top(by=ImportedScore(str(BERGSON), origin="bergson score"))
    selection = select(pool_rows, selector, size=4)
    assert selection.indices.tolist() == np.argsort(-unpacked().mean(axis=1), kind="stable")[:4].tolist()
    (spec,) = selection.provenance["scores"]
    files = [BERGSON / name for name in ("scores.bin", "info.json", "config.yaml")]
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert {"library": "bergson 2.5.1", "scored_rows": 24, "queries": 3, "sha256": digest}.items() <= spec.items()
    assert spec["library_run"]["dataset_name"] == "pool.jsonl"
    assert (spec["aggregate"], spec["origin"]) == ("mean", "bergson score")
    spec = to_spec(selector)
    assert get_selector(spec.pop("selector"), json.loads(json.dumps(spec))) == selector
    (rank,) = explain(selection, pool_rows, int(selection.indices[2]))["scores"]
    assert (rank["score"], rank["rank"]) == ("imported_score", 3)


@pytest.mark.parametrize("changed", ["row numbers", "candidates", "sign", "sign that the settings override"])
def test_record_and_pickle_tell_of_every_file(changed, folder, tmp_path):
    """`datasets` hashes the pickle, and a resumed run compares the record."""
    numbers = tmp_path / "rows.npy"
    np.save(numbers, np.arange(24))
    np.save(folder / "candidates.npy", np.arange(24))
    higher = True if changed == "sign that the settings override" else None
    score = ImportedScore(str(folder), row_numbers=str(numbers), higher_is_better=higher)
    before = score.spec(), pickle.dumps(score)
    if changed == "row numbers":
        np.save(numbers, np.arange(24)[::-1])
    elif changed == "candidates":
        np.save(folder / "candidates.npy", np.arange(24)[::-1])
    else:
        change(folder / "config.yaml", steps=[{"score": {"score_cfg": {"higher_is_better": False}}}])
    assert pickle.dumps(score) != before[1]
    assert score.spec() != before[0]
    assert (before[0]["negated"], score.spec()["negated"]) == (False, changed == "sign")


def test_filters_before_it_do_not_move_its_rows(pool_rows):
    numbered = pool_rows.add_column("number", list(range(24)))
    selection = select(numbered, Chain([InRange("number", low=12)], Top(by=ImportedScore(str(BERGSON)))), size=4)
    expected = 12 + np.argsort(-unpacked().mean(axis=1)[12:], kind="stable")[:4]
    assert selection.indices.tolist() == expected.tolist()


def test_command_line(pool_rows, tmp_path, capsys):
    pool_rows.to_json(tmp_path / "pool.jsonl")
    words = ["--dataset_name", str(tmp_path / "pool.jsonl"), "--output_dir", str(tmp_path / "out")]
    settings = json.dumps({"imported_score": {"path": str(BERGSON), "aggregate": "max"}})
    assert main(["score", *words, "--scores", "imported_score", "--scores_kwargs", settings]) == 0
    scored = load_pool(str(tmp_path / "out" / "scored.parquet"))
    assert scored["imported_score"][:] == pytest.approx(unpacked().max(axis=1))
    by = json.dumps({"by": {"score": "imported_score", "path": str(BERGSON)}})
    chosen = ["--selector", "top", "--selector_kwargs", by, "--selection_size", "3", "--output_dir"]
    assert main(["select", *words[:2], *chosen, str(tmp_path / "selected")]) == 0
    best = np.argsort(-unpacked().mean(axis=1), kind="stable")[:3]
    assert Selection.load(tmp_path / "selected").indices.tolist() == best.tolist()
    settings = json.dumps({"imported_score": {"path": str(tmp_path / "missing")}})
    assert main(["score", *words, "--scores", "imported_score", "--scores_kwargs", settings]) == 2
    assert "There is no file or folder" in capsys.readouterr().err
