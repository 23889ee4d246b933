import pytest
from transformers import AutoTokenizer

from hf_datasel import select
from hf_datasel.errors import ConfigError, ScoreError, SelectionError
from hf_datasel.selectors import Longest
from hf_datasel.testing import contract


@contract(Longest(), Longest(unit="tokens"))
def test_contract(check, selector, rows, tiny_model_dir):
    check(selector, rows, tiny_model_dir)


@pytest.fixture(scope="module")
def answers(pool_rows):
    output = ["one", "a b c d", "incomprehensibilities", "w x y z", "two words", ""]
    return pool_rows.select(range(6)).remove_columns("output").add_column("output", output)


def test_counts_words_and_gives_ties_to_the_lower_row(answers):
    assert select(answers, Longest(), size=5).indices.tolist() == [1, 3, 4, 0, 2]


def test_counts_tokens_as_training_does(answers, tiny_model_dir):
    selection = select(answers, Longest(unit="tokens"), size=5, model=str(tiny_model_dir))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    plain = [len(tokenizer.encode(text, add_special_tokens=False)) for text in answers["output"][:5]]
    extra = selection.scores("response_tokens")[:5] - plain
    assert len(set(extra.tolist())) == 1  # the end of the turn, the same in every row
    assert selection.indices.tolist() == sorted(range(5), key=lambda row: (-plain[row], row))


def test_an_empty_answer_has_no_length(answers):
    with pytest.raises(SelectionError, match=r"size=6 is more than the 5 of 6 rows .*\(1 empty_response\)"):
        select(answers, Longest(), size=6)


def test_tokens_need_a_tokenizer(answers):
    with pytest.raises(ScoreError, match="has no model to run"):
        select(answers, Longest(unit="tokens"), size=1)


def test_a_misspelt_unit_is_found_at_once():
    with pytest.raises(ConfigError, match="it has to be 'words' or 'tokens'"):
        Longest(unit="word")


def test_lengths_are_kept_with_the_selection(answers):
    lengths = select(answers, Longest(), size=1).scores("response_words")
    assert lengths[:5].tolist() == [1, 4, 1, 4, 2]
    assert lengths[5] != lengths[5]
