"""Rows with the text of a better row are excluded and counted, in selections, explanations and cards."""

from __future__ import annotations

import json

import numpy as np
import pytest
from datasets import Dataset

from hf_datasel import Selection, select
from hf_datasel.cards.build import gather
from hf_datasel.cards.card import page
from hf_datasel.cards.report import read_facts
from hf_datasel.cli import main
from hf_datasel.errors import ColumnError, ConfigError, FormatError, SelectionError
from hf_datasel.scores import Length
from hf_datasel.selection import explain, select_streaming
from hf_datasel.selectors import Chain, InRange, Longest, NoTextDuplicates, Random, Top, get_selector, per_source
from hf_datasel.testing import contract

WORDS = [f"word{number}" for number in range(40)]
PROMPT = "Name some words, please."
RESPONSES = [
    " ".join(WORDS),
    " ".join(WORDS).upper() + "!",  # the same words
    " ".join([*WORDS, "more"]),  # 36 of 37 n-grams, and with the prompt 40 of 41
    "Something else.",
    "",
    " ".join([*WORDS[:39], "other", "end"]),
    " ".join(WORDS[:20]),
    "Something, else",
]
VALUE = [0.1, 0.2, 0.9, 0.5, 0.9, None, 0.3, 0.6]


@pytest.fixture(scope="module")
def copies():
    """Give 8 rows: groups of the rows 0, 1, 2 and 5, and of 3 and 7; row 4 has no response, and row 5 no value."""
    columns = {"prompt": [PROMPT] * len(RESPONSES), "completion": RESPONSES, "value": VALUE}
    return Dataset.from_dict(columns)


@contract(
    Chain([NoTextDuplicates()], Random()),
    Chain([NoTextDuplicates(threshold=0.5, part="response", by="loss")], Top(by="ifd")),
    Chain([NoTextDuplicates(threshold=1, part="prompt", by=Length())], Top(by="ifd")),
)
def test_contract(check, selector, full):
    check(selector, full)


def exclusions(data, *filters, size=1):
    selected = select(data, Chain(filters, Random()), size=size)
    return selected.provenance["exclusions"]


def kept(data, *filters):
    """Return all rows that the filters keep."""
    with pytest.raises(SelectionError, match="rows that can be selected") as error:
        select(data, Chain(filters, Random()), size=len(data) - 1)
    number = int(str(error.value).split("the ")[1].split()[0])
    return sorted(select(data, Chain(filters, Random()), size=number).indices.tolist())


def test_first_row_is_kept(copies):
    assert kept(copies, NoTextDuplicates()) == [0, 3, 6]
    assert exclusions(copies, NoTextDuplicates()) == {"exact duplicates by text": 2, "near-duplicates by text": 2}


def test_best_row_is_kept(copies):
    near = NoTextDuplicates(by="value")
    assert kept(copies, near) == [2, 6, 7]
    assert exclusions(copies, near) == {
        "without value": 1,
        "exact duplicates by text": 1,
        "near-duplicates by text": 2,
    }
    best = select(copies, Chain([near], Top(by="value")), size=2)
    assert best.indices.tolist() == [2, 7], "as without the duplicates, best first"
    assert kept(copies, NoTextDuplicates(by=Length())) == [2, 3, 6], "ties go to the lower row number"


def test_part_and_threshold(copies):
    assert exclusions(copies, NoTextDuplicates(part="prompt")) == {"exact duplicates by prompt": 6}
    assert kept(copies, NoTextDuplicates(threshold=1, part="response")) == [0, 2, 3, 5, 6]
    assert kept(copies, NoTextDuplicates(threshold=0.4, part="response")) == [0, 3]
    assert kept(copies, NoTextDuplicates(ngram=1, threshold=0.5, part="response")) == [0, 3]


def test_filters_before_it(copies):
    assert kept(copies, InRange("value", low=0.15), NoTextDuplicates()) == [1, 3, 6], "row 0 is excluded before"


def test_order_of_rows_does_not_matter(copies):
    data = copies.remove_columns("value").add_column("value", [float(number) for number in range(8)])
    order = np.random.default_rng(0).permutation(8)
    rows = kept(data.select(order), NoTextDuplicates(by="value"))
    assert sorted(order[rows].tolist()) == kept(data, NoTextDuplicates(by="value")) == [5, 6, 7]


FILTER = "no near-duplicates by text (similarity of 5-grams >= 0.8)"


def test_explanation(copies):
    selection = select(copies, Chain([NoTextDuplicates()], Longest()), size=2)
    assert explain(selection, copies, 2)["decided"] == [
        f"The filter '{FILTER}' excluded it: near-duplicates by text.",
        "The 5-grams of its text have a Jaccard similarity of 0.9756 with those of row 0, which comes first.",
    ]
    assert (
        explain(selection, copies, 7)["decided"][0] == f"The filter '{FILTER}' excluded it: exact duplicates by text."
    )
    assert explain(selection, copies, 0)["decided"][0] == "It is one of 3 rows that the filters kept."
    selection = select(copies, Chain([NoTextDuplicates(by="value", part="response")], Longest()), size=2)
    assert explain(selection, copies, 0)["decided"] == [
        "The filter 'no near-duplicates by response (similarity of 5-grams >= 0.8, highest value kept)' excluded it: "
        "near-duplicates by response.",
        "The 5-grams of its response have a Jaccard similarity of 0.973 with those of row 2, whose value is 0.9; its "
        "own is 0.1.",
    ]


def test_card(copies, tmp_path):
    selection = select(copies, Chain([NoTextDuplicates()], Longest()), size=2)
    selection.save(tmp_path)
    facts = gather([Selection.load(tmp_path)], copies, title="x")
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    assert read_facts(tmp_path / "facts.json") == facts
    text = page(facts)
    assert "| 2 | `exact duplicates by text` | a row with the same words is kept |" in text
    assert "| 2 | `near-duplicates by text` | a near-duplicate of the row is kept |" in text
    assert (
        "Groups of near-duplicates by text, of each of which one row is kept: 1 of 2 rows, 1 of 3 to 9 rows. The "
        "largest has 4 rows." in text
    )
    assert "@inproceedings{lee2022deduplicating" in text
    assert "Near-duplicates are rows" not in text
    clean = select(copies, Chain([InRange("value", low=0.85), NoTextDuplicates()], Longest()), size=1)
    assert "Groups of near-duplicates" not in page(gather([clean], copies, title="x"))


@pytest.mark.parametrize(
    ("size", "found"),
    [
        (7, "4 of the 7 selected rows (57 %) are near-duplicates of a row that ranks higher, 1 of them with the same"),
        (2, "1 of the 2 selected rows (50 %) is a near-duplicate of a row that ranks higher. Near-duplicates are"),
        (None, "No near-duplicates were found among the 2 selected rows."),
    ],
)
def test_card_of_a_selection_without_the_filter(size, found, copies, tmp_path):
    data = copies if size else copies.select([3, 6])
    facts = gather([select(data, Longest(), size=size or 2)], data, title="x")
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    assert read_facts(tmp_path / "facts.json") == facts
    text = page(facts)
    assert found in text
    setting = "5-grams of words, of prompt and response together, have a Jaccard similarity of at least 0.8, found by "
    assert f"{setting}MinHash with 128 hash functions, which misses 0.2 % of the pairs at that similarity" in text


def test_card_says_nothing_of_what_was_not_counted(copies, monkeypatch):
    selection = select(copies, Longest(), size=7)
    assert "near-duplicate" not in page(gather([selection], title="x")), "there is no text"
    assert "near-duplicate" not in page(gather([select(copies, Longest(), size=1)], copies, title="x"))
    monkeypatch.setattr("hf_datasel.cards.build._MAX_COMPARED_TEXTS", 6)
    assert "near-duplicate" not in page(gather([selection], copies, title="x"))
    tokens = Dataset.from_dict({"input_ids": [[1, 2], [3, 4]]})
    assert "near-duplicate" not in page(gather([select(tokens, Random(), size=2)], tokens, title="x"))


def test_later_rounds_and_several_filters_keep_the_groups(copies, make_round):
    context = make_round(copies, 2)
    chain = Chain([NoTextDuplicates(part="response"), NoTextDuplicates(threshold=1)], Random())
    chain.select(context)
    later = make_round(copies, 2, index=1, state=context.state)
    chain.select(later)
    assert later.record.notes == context.record.notes
    assert later.record.notes["duplicate_groups"] == {"response": {"2": 1, "4": 1}, "text": {}}
    assert later.record.exclusions == context.record.exclusions


def test_within_groups_of_rows(copies):
    data = copies.add_column("source", ["a", "b"] * 4)
    inside = per_source(Chain([NoTextDuplicates()], Random()), "source", "equal")
    selection = select(data, inside, size=2)
    assert selection.provenance["exclusions"] == {"near-duplicates by text": 2, "exact duplicates by text": 1}
    assert "Groups of near-duplicates" not in page(gather([selection], data, title="x"))


def test_command_line(copies, tmp_path, capsys):
    copies.to_json(tmp_path / "rows.jsonl")
    settings = {"filters": [{"filter": "no_text_duplicates"}], "then": {"selector": "longest"}}
    command = ["select", "--dataset_name", str(tmp_path / "rows.jsonl"), "--output_dir", str(tmp_path / "out")]
    command += ["--selector", "chain", "--selector_kwargs", json.dumps(settings), "--selection_size", "2"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "Excluded: 2 exact duplicates by text, 2 near-duplicates by text, 1 empty_response." in printed


def test_as_recipes_write_it():
    written = {"filter": "no_text_duplicates", "threshold": 0.7, "ngram": 3, "by": {"score": "length"}}
    chain = get_selector("chain", {"filters": [written], "then": {"selector": "random"}})
    assert chain.filters == (NoTextDuplicates(0.7, ngram=3, by=Length()),)
    assert chain.spec()["filters"] == [written]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 0}, r"threshold=0\): it has to be a number above 0 and at most 1"),
        ({"threshold": 1.1}, "a number above 0 and at most 1"),
        ({"ngram": 0}, r"ngram=0\): it has to be an int of at least 1"),
        ({"num_perm": 1.5}, r"num_perm=1\.5\): it has to be an int of at least 1"),
        ({"num_perm": 4, "threshold": 0.5}, "num_perm=4 misses more than 1% .* at least 7"),
        ({"part": "prompts"}, "part='prompts'.* Did you mean 'prompt'"),
        ({"by": ""}, "it has to be the name of a column, or a score"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        NoTextDuplicates(**settings)


def test_rows_without_what_it_needs(copies):
    with pytest.raises(ColumnError, match=r"NoTextDuplicates needs column 'valeu', but .* Did you mean 'value'"):
        select(copies, Chain([NoTextDuplicates(by="valeu")], Random()), size=1)
    with pytest.raises(FormatError, match="only a text column have no prompt"):
        select(Dataset.from_dict({"text": ["a", "b"]}), Chain([NoTextDuplicates(part="prompt")], Random()), size=1)
    with pytest.raises(FormatError, match="tokenized already"):
        select(Dataset.from_dict({"input_ids": [[1, 2], [3]]}), Chain([NoTextDuplicates()], Random()), size=1)
    with pytest.raises(SelectionError, match="Chain has to see all rows before it selects one"):
        select_streaming(copies.to_iterable_dataset(), Chain([NoTextDuplicates()], Random()), size=1)
