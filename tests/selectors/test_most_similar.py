from dataclasses import replace

import pytest

from hf_datasel.errors import ConfigError
from hf_datasel.scores import Embedding, Similarity
from hf_datasel.selectors import MostSimilar, get_selector
from hf_datasel.testing import contract


@contract(MostSimilar(by=Similarity(validation="to be named")))
def test_contract(check, selector, full, tiny_model_dir, tmp_path, pool_rows):
    pool_rows.select(range(16, 19)).to_json(tmp_path / "rows.jsonl")
    by = replace(selector.by, validation=str(tmp_path / "rows.jsonl"))
    check(MostSimilar(by=by), full.select(range(6)), tiny_model_dir)


def test_in_a_recipe():
    made = get_selector("most_similar", {"by": {"score": "similarity", "model": "a/b", "validation": "gsm8k.jsonl"}})
    assert made.by == Similarity("a/b", validation="gsm8k.jsonl")
    spec = made.spec()
    assert get_selector(spec.pop("selector"), spec) == made


def test_another_score_is_refused():
    with pytest.raises(
        ConfigError, match=r"MostSimilar\(by=Embedding.*: it has to be the name of a column, or Similarity\(\.\.\.\)"
    ):
        MostSimilar(by=Embedding())


def test_settings_of_the_score_are_named():
    with pytest.raises(
        ConfigError, match=r"no setting 'validation'\. Write by: \{score: similarity, validation: \.\.\.\}"
    ):
        get_selector("most_similar", {"validation": "gsm8k.jsonl"})
