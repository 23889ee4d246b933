"""Groups of near-duplicates as columns: those of NoTextDuplicates, in every way in."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset

from hf_datasel import score, select
from hf_datasel.errors import ColumnError, ConfigError, ScoreError
from hf_datasel.scores import Duplicates, Length
from hf_datasel.selectors import Chain, NoTextDuplicates, Random
from hf_datasel.testing import contract

WORDS = [f"w{number}" for number in range(50)]
TEXTS = [
    " ".join(WORDS),
    " ".join([*WORDS, "more"]),
    "Something else, which no other row says at all.",
    " ".join(WORDS).upper(),
    " ".join([*WORDS, "more", "again"]),
    "",
]
"""Rows 0, 1, 3 and 4 are near-duplicates, the last row cannot be used."""


@pytest.fixture
def rows():
    return Dataset.from_dict({"prompt": ["Count."] * 6, "completion": TEXTS, "value": [1.0, 2.0, 3.0, None, 5.0, 6.0]})


def numbers(dataset, prefix=""):
    return [dataset[f"{prefix}duplicate_{name}"][:] for name in ("rows", "of")]


@contract(Duplicates(), Duplicates(0.5, part="response", column_prefix="old_"))
def test_contract(check, score, pool_rows, tmp_path):
    data = pool_rows.select([0, 1, 2, 3, 4, 5, 0, 7])
    check(score.fit(data, tmp_path / "groups.npy"), data)


def test_groups(rows, tmp_path):
    scored = score(rows, Duplicates(), store=tmp_path, on_summary=str)
    assert numbers(scored) == [[4, 4, 1, 4, 4, None], [0, 0, 2, 0, 0, None]]
    assert scored["duplicate_similarity"][:5] == pytest.approx([1, 47 / 48, 1, 1, 47 / 49])
    assert scored["duplicate_reason"][:] == ["", "", "", "", "", "empty_response"]
    assert numbers(score(rows, Duplicates(1), store=tmp_path, on_summary=str)) == [
        [2, 1, 1, 2, 1, None],
        [0, 1, 2, 0, 4, None],
    ]


@pytest.mark.parametrize("by", [None, "value", "response_words"])
def test_equal_to_the_filter(rows, by, tmp_path):
    scored = score(rows, [Duplicates(by=by), Length()], store=tmp_path, on_summary=str)
    stays = [row for row, kept in enumerate(scored["duplicate_of"]) if row == kept]
    expected = select(scored, Chain([NoTextDuplicates(by=by)], Random()), size=2)
    assert stays == sorted(expected.indices.tolist()) == ([0, 2] if by is None else [2, 4])
    if by == "value":
        assert scored["duplicate_reason"][3] == "no_value"
        assert numbers(scored) == [[3, 3, 1, None, 3, None], [4, 4, 2, None, 4, None]]


def test_one_row_of_each_group_stays_whatever_values_are_missing(tmp_path):
    """Rows 0 to 2 are equal, and row 3 is a near-duplicate of them; rows 4 and 5 are equal."""
    texts = [TEXTS[0]] * 3 + [TEXTS[1]] + [TEXTS[2]] * 2
    for values in (
        [None, 0.9, None, 0.5, None, 0.1],
        [None, 0.1, 0.2, 0.5, 0.2, None],
        [0.3, None, 0.1, None] + [0] * 2,
    ):
        rows = Dataset.from_dict({"prompt": ["Count."] * 6, "completion": texts, "q": values})
        scored = score(rows, Duplicates(by="q"), store=tmp_path, on_summary=str)
        best = max((row for row in range(4) if values[row] is not None), key=lambda row: values[row])
        other = max((row for row in (4, 5) if values[row] is not None), key=lambda row: (values[row], -row))
        stays = [row for row, kept in enumerate(scored["duplicate_of"]) if row == kept]
        assert stays == [best, other]
        has_group = [row < 3 or row > 3 or values[3] is not None for row in range(6)]
        assert [reason == "" for reason in scored["duplicate_reason"]] == has_group
        assert scored["duplicate_rows"][:3] == [3 + has_group[3]] * 3
        selected = select(rows, Chain([NoTextDuplicates(by="q")], Random()), size=2)
        assert sorted(selected.indices.tolist()) == stays


@pytest.mark.parametrize(
    "setting", [{"threshold": 1}, {"ngram": 2}, {"part": "response"}, {"num_perm": 64}, {"by": None}]
)
def test_file_of_other_settings(rows, setting, tmp_path):
    fitted = Duplicates(0.6, ngram=3, by="value").fit(rows, tmp_path / "groups.npy")
    ((name, value),) = setting.items()
    message = rf"Duplicates\({name}={value!r}, groups=.*were found with {name}={getattr(fitted, name)!r}\."
    for use in (lambda other: score(rows, other), lambda other: other.spec()):
        with pytest.raises(ScoreError, match=message):
            use(replace(fitted, **setting))
    assert replace(fitted, column_prefix="old_").spec()["resolved_groups"] == fitted.spec()["resolved_groups"]


def test_map(rows, tmp_path):
    fitted = Duplicates(by="value").fit(rows, tmp_path / "groups.npy")
    text = rows.remove_columns("value")
    mapped = text.map(fitted, batched=True, batch_size=2, features=fitted.features(text))
    assert numbers(mapped) == numbers(score(rows, Duplicates(by="value"), store=tmp_path, on_summary=str))
    assert pickle.loads(pickle.dumps(fitted)) == fitted
    assert fitted.spec()["resolved_groups"].startswith("file:")


def test_new_rows_are_compared_too(rows, tmp_path):
    score(rows.select(range(3)), Duplicates(), store=tmp_path, on_summary=str)
    assert numbers(score(rows, Duplicates(), store=tmp_path, on_summary=str))[0] == [4, 4, 1, 4, 4, None]
    assert len(list(tmp_path.glob("duplicates-*.npy"))) == 2
    score(rows, Duplicates(), store=tmp_path, on_summary=str)
    assert len(list(tmp_path.glob("duplicates-*.npy"))) == 2, "fitted once"


def test_errors(rows, tmp_path):
    with pytest.raises(ScoreError, match="Duplicates is not fitted, which needs the whole dataset"):
        score(rows, Duplicates())
    with pytest.raises(ScoreError, match="or the filter NoTextDuplicates in a Chain"):
        rows.map(Duplicates(), batched=True)
    fitted = Duplicates().fit(rows.select(range(2)), tmp_path / "groups.npy")
    with pytest.raises(
        ScoreError, match=r"Row 2 is none of the rows that the groups .* Fit Duplicates to this dataset"
    ):
        score(rows, fitted)
    with pytest.raises(ColumnError, match=r"Duplicates\(by='valeu'\) needs this column.*Did you mean 'value'\?"):
        score(rows, Duplicates(by="valeu"), store=tmp_path)
    with pytest.raises(ColumnError, match=r"'completion' holds .*, and Duplicates needs numbers"):
        Duplicates(by="completion").fit(rows, tmp_path / "groups.npy")
    with pytest.raises(ConfigError, match="it has to end so"):
        Duplicates().fit(rows, tmp_path / "groups.npz")
    np.save(tmp_path / "other.npy", np.zeros(3))
    with pytest.raises(ScoreError, match="holds no groups of duplicates with their settings"):
        score(rows, Duplicates(groups=str(tmp_path / "other.npy")))
    for settings in ({"threshold": 0}, {"threshold": "1"}, {"ngram": 0}, {"num_perm": 2}, {"by": ""}, {"groups": 3}):
        with pytest.raises(ConfigError, match="has to be"):
            Duplicates(**settings)
