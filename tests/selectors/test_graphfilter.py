import numpy as np
import pytest
from datasets import Dataset

from hf_datasel import select
from hf_datasel.errors import ConfigError, SelectionError
from hf_datasel.formats import Pool
from hf_datasel.selectors import GraphFilter
from hf_datasel.strategies.ngram import ngram_greedy
from hf_datasel.testing import contract


@contract(GraphFilter(quality="ifd"), GraphFilter(), GraphFilter(quality="ifd", decay=0.5))
def test_contract(check, selector, rows, tiny_model_dir):
    check(selector, rows, tiny_model_dir)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_counts_over_the_whole_pool(rows, decay):
    data = rows.remove_columns("ifd").add_column("ifd", [None, *rows["ifd"][1:6], None, *rows["ifd"][7:]])
    prompts = [f"{a}\n\n{b}" if b else a for a, b in zip(data["instruction"][:], data["input"][:], strict=True)]
    valid = np.array([row for row in range(12) if row not in (0, 6)])
    quality = np.array(data["ifd"][:], dtype=float)[valid]
    expected = ngram_greedy(
        [prompts[row] for row in valid], quality, 8, decay=decay, weighting="graphfilter", corpus=prompts
    )
    selected = select(data, GraphFilter(quality="ifd", decay=decay), size=8).indices
    assert selected.tolist() == valid[expected].tolist()


def test_a_covered_instruction_counts_no_more(rows):
    same = rows.remove_columns("instruction").add_column(
        "instruction", ["Name a red fruit."] * 2 + ["Count, then."] * 10
    )
    same = same.remove_columns("input")
    selected = select(same, GraphFilter(quality="loss"), size=2).indices.tolist()
    assert {row < 2 for row in selected} == {True, False}


def test_ifd_above_one(rows):
    assert len(select(rows, GraphFilter(quality="ifd"), size=12).indices) == 12


def test_negative_quality_is_refused(rows):
    data = rows.add_column("gap", [-0.5, *[0.5] * 11])
    with pytest.raises(
        SelectionError, match=r"GraphFilter needs a quality of 0 or more, and column 'gap' is negative in .*add_col"
    ):
        select(data, GraphFilter(quality="gap"), size=2)


@pytest.mark.parametrize("decay", [1.5, -0.1, "0.1", float("nan")])
def test_an_impossible_decay_is_found_at_once(decay):
    with pytest.raises(ConfigError, match=r"GraphFilter\(decay=.*a number from 0 to 1"):
        GraphFilter(decay=decay)


def test_malformed_rows_have_no_words():
    pool = Pool(Dataset.from_dict({"instruction": ["Name a bird."], "output": [None]}))
    assert pool.texts("prompt") == pool.texts("response") == [""]
