import ast
import copy
import re

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset

from hf_datasel import select
from hf_datasel.cards.build import Place, config_names, gather
from hf_datasel.cards.card import card, page, updated_card
from hf_datasel.errors import PublishError
from hf_datasel.hub.card_yaml import split_card
from hf_datasel.selectors import IterIT, Longest, Random, Top


@pytest.fixture(scope="module")
def facts(pool_rows, tiny_model_dir):
    selection = select(pool_rows, IterIT(), size=5, model=str(tiny_model_dir))
    return gather(
        [selection],
        pool_rows,
        title="chosen",
        place=Place("me/chosen"),
        configs=[
            {"name": "default", "holds": "rows", "splits": {"train": 5}, "files": {"train": "data/default/*.parquet"},
             "bytes": 12_345, "default": True},
        ],
        metadata={"license": "mit", "language": ["en"]},
        results=[
            {"trained_on": "this selection", "metric": "exact match", "dataset": "512 questions", "value": 0.6912,
             "note": "3 seeds"},
        ],
    )  # fmt: skip


# -- facts -----------------------------------------------------------------------------------------------------------
def test_facts_are_plain_and_hold_no_text(facts, pool_rows):
    import json

    text = json.dumps(facts, allow_nan=False)
    assert json.loads(text)["choices"][0]["rows"] == 5
    assert not [row for row in pool_rows["output"] if len(row) > 20 and row in text]


def test_facts_of_the_choice(facts, pool_rows):
    [choice] = facts["choices"]
    assert (choice["config"], choice["rows"], choice["budget"], choice["rows_scored"]) == ("default", 5, 5, 24)
    assert choice["means"].keys() == {"ifd", "loss", "loss_prior"}
    assert choice["left_out"].keys() <= {"with ifd >= 1"}
    assert facts["method"]["name"] == "IterIT"
    assert facts["method"]["settings"]["decay"] == 0.1
    assert "@article{jia2024iterit" in facts["method"]["citation"]
    assert [each["column"] for each in facts["distributions"]] == ["ifd", "loss", "loss_prior"]
    assert [each["name"] for each in facts["lengths"]["groups"]] == ["pool", "chosen", "Random", "Longest"]
    assert facts["overlap"]["names"] == ["chosen", "Random", "Longest"]
    assert (facts["rounds"], facts["map"], facts["training"]) == ([], None, None)


def test_without_the_dataset_what_needs_text_is_left_out(pool_rows):
    facts = gather([select(pool_rows, Longest(), size=5)], title="x")
    assert (facts["lengths"], facts["overlap"]) == (None, None)
    assert [each["column"] for each in facts["distributions"]] == ["response_words"]
    assert "# x" in page(facts)


def test_a_baseline_is_not_compared_with_itself(pool_rows):
    facts = gather([select(pool_rows, Random(), size=5)], pool_rows, title="x")
    assert facts["overlap"]["names"] == ["chosen", "Longest"]


def test_rows_that_are_plain_text(pool_rows):
    rows = Dataset.from_dict({"text": pool_rows["output"][:], "value": [float(row) for row in range(24)]})
    facts = gather([select(rows, Top(by="value"), size=5)], rows, title="x")
    assert facts["lengths"] is None
    assert facts["choices"][0]["columns_unverified"] == ["value"]
    assert "The choice relies on `value` as the dataset had it." in page(facts)


def test_vectors_are_mapped(pool_rows):
    import numpy as np
    import pyarrow as pa

    selection = select(pool_rows, Random(), size=5)
    vectors = np.random.default_rng(0).normal(size=(23, 4)).astype(np.float32)
    column = pa.array([*vectors.tolist(), None], pa.list_(pa.float32(), 4))
    selection.table = selection.table.append_column("embedding", column)
    found = gather([selection], title="x")["map"]
    assert found["column"] == "embedding"
    assert sum(map(sum, found["pool"])) == 23
    assert sum(map(sum, found["chosen"])) == len([row for row in selection.indices if row < 23])


def test_names_of_configurations(pool_rows):
    made = [select(pool_rows, Random(), size=2) for _ in range(2)]
    made[1].provenance["round"] = 3
    assert config_names(made[:1]) == ["default"]
    assert config_names(made) == ["round-0", "round-3"]
    assert config_names(made, "k5") == ["k5-round-0", "k5-round-3"]


# -- text ------------------------------------------------------------------------------------------------------------
def test_the_page_says_what_a_reader_asks(facts):
    text = page(facts)
    assert text.startswith("# chosen\n\n**5 of the 24 rows of a dataset that is not on the Hub, chosen by IterIT.**\n")
    for part in (
        "## Load it", "## What was chosen", "## How it was chosen", "## What was left out, and why",
        "## How well it does", "## Make it again", "## Cost", "## Limits", "## Citation",
        "| `decay` | `0.1` |", "| this selection | exact match | 512 questions | 0.6912 | 3 seeds |",
        "mit, as the parent has it", "hf-datasel select",
    ):  # fmt: skip
        assert part in text, part
    assert "{{" not in text
    assert "None" not in text


def test_says_so_where_nothing_was_measured_and_no_licence_is_known(facts):
    assert "Nothing was measured" in page({**facts, "results": []})
    hub = {"name": "them/parent", "sources": ["them/parent"], "metadata": {}}
    for said, parent in {
        "not known, since the parent is not on the Hub": {"metadata": {}},
        "not stated by the parent, so not stated here": {**hub, "looked_up": True},
        "that of the parent, which was not looked up for this page": {**hub, "looked_up": False},
        "in words that are no identifier of a licence: Ask us": {**hub, "metadata": {"license_as_written": "Ask us"}},
    }.items():
        assert said in page({**facts, "parent": {**facts["parent"], **parent}})


def test_a_changed_pool_is_not_taken_for_its_parent(facts):
    hub = {"name": "them/parent", "sources": ["them/parent"], "revision": "a" * 40, "split": "train"}
    plain = page({**facts, "parent": {**facts["parent"], **hub}})
    assert "24 rows of [them/parent]" in plain
    assert 'Selection.from_hub("me/chosen").apply(pool)' in plain
    changed = page({**facts, "parent": {**facts["parent"], **hub, "changed": True}})
    assert "24 rows of a changed copy of [them/parent]" in changed
    assert "The pool is not the parent as it is on the Hub" in changed
    assert "from_hub" not in changed
    mixed = page({**facts, "parent": {**facts["parent"], "sources": ["a/b", "c/d"], "changed": True}})
    assert "24 rows of a mixture of [a/b](https://huggingface.co/datasets/a/b) and [c/d]" in mixed


def test_words_of_others_do_not_run_in_a_shell_or_in_python(facts):
    evil = '"); import os; os.system("x") #'
    hub = {"name": "them/parent", "sources": ["them/parent"], "split": evil, "revision": "a" * 40}
    text = page({**facts, "parent": {**facts["parent"], **hub}, "revision": evil})
    programs = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(programs) == 2
    for program in programs:
        tree = ast.parse(program)
        assert {type(each) for each in tree.body} <= {ast.ImportFrom, ast.Assign}


def test_a_branch_is_named_in_what_loads_it(facts):
    text = page({**facts, "revision": "second"})
    assert 'load_dataset("me/chosen", split="train", revision="second")' in text
    assert 'Selection.from_hub("me/chosen", revision="second")' in text


def test_a_mark_without_its_half_is_refused(facts):
    first = card(facts)
    for gone in ("begin", "end"):
        broken = first.replace(f"<!-- hf_datasel: default: {gone} -->\n", "") + "\nMine.\n"
        with pytest.raises(PublishError, match="without its other half"):
            updated_card(broken, facts, {"default"})
    quoted = first + "\nThe mark `<!-- hf_datasel: default: begin -->` begins it.\n"
    assert updated_card(quoted, facts, {"default"}) == quoted


def test_a_card_that_does_not_change_keeps_its_bytes(facts):
    mine = card(facts).replace("---\npretty_name", "---\n# a comment\npretty_name").replace("\n", "\r\n")
    assert updated_card(mine, facts, {"default"}).startswith("---\r\n# a comment\r\npretty_name")


def test_a_shortfall_is_said(facts):
    short = copy.deepcopy(facts)
    short["choices"][0]["budget"] = 9
    text = page(short)
    assert "9 rows were asked for, and only 5 could be chosen." in text
    assert "- The selection is 4 rows short of what was asked for." in text


@pytest.fixture
def in_rounds(facts):
    """Give a function that makes facts of rounds with so many rows of 12 and so many left out."""

    def make(*rounds):
        given, [one] = copy.deepcopy(facts), facts["choices"]
        given["overlap"] = None
        given["choices"] = [
            {**one, "round": at, "rows": rows, "budget": 12, "left_out": {"with ifd >= 1": out} if out else {}}
            for at, (rows, out) in enumerate(rounds)
        ]
        return given

    return make


def test_rounds_of_different_sizes_are_said_with_their_range(in_rounds):
    text = page(in_rounds((11, 4798), (8, 19), (10, 7)))
    assert "**8 to 11 of the 24 rows of a dataset that is not on the Hub, chosen anew before each of 3 rounds" in text
    assert "| **kept** | 10 rows, 41.7% of the pool in the last round; 8 to 11 rows in each of 3 rounds |" in text
    assert "- Each of the 3 rounds is 1 to 4 rows short of what was asked for." in text
    assert "12 rows were asked for for the last round" not in text
    assert "For the last round 12 rows were asked for, and only 10 could be chosen." in text
    same = page(in_rounds((12, 0), (12, 0)))
    assert "**12 of the 24 rows" in same
    assert "| **kept** | 12 rows, 50.0% of the pool, in each of 2 rounds |" in same
    assert "short of what" not in same


def test_which_rounds_are_short(in_rounds):
    assert "- Round 1 is 1 row short of what was asked for." in page(in_rounds((12, 0), (11, 0), (12, 0)))
    assert "- Each of 2 of the 3 rounds is 2 rows short of" in page(in_rounds((10, 0), (12, 0), (10, 0)))
    assert "- Each of the 2 rounds is 1 row short of" in page(in_rounds((11, 0), (11, 0)))


def test_what_each_round_ruled_out_is_said(in_rounds):
    def ruled_out(*counts):
        return re.search(r"\*\*ruled out\*\* \| (.*) \|", page(in_rounds(*[(12, each) for each in counts])))[1]

    assert ruled_out(4798, 19, 7) == "4,798, 19 and 7 with ifd ≥ 1 in rounds 0, 1 and 2"
    assert ruled_out(0, 3) == "0 and 3 with ifd ≥ 1 in rounds 0 and 1"
    assert ruled_out(5, 5) == "5 with ifd ≥ 1"
    assert ruled_out(4798, 3, 19, 7, 30) == "3 to 4,798 with ifd ≥ 1 in each of 5 rounds"
    assert ruled_out(0, 0) == "no row"


def test_rounds_from_a_shortlist_are_known_by_what_the_last_one_scored(pool_rows):
    rows = pool_rows.add_column("ifd", np.linspace(0.1, 0.9, 24))
    selections = [select(rows, Top(by="ifd"), size=5) for _ in range(2)]
    listed = np.isin(np.arange(24), np.arange(12, 24))
    selections[1].provenance["round"] = 1
    column = pa.array(np.linspace(0.1, 0.9, 24), mask=~listed)
    selections[1].table = selections[1].table.set_column(1, "ifd", column)
    found = gather(selections, rows, title="x")["overlap"]
    assert found["names"] == ["round 0", "round 1", "Random", "Longest"]
    assert found["shortlist"] == {"names": ["round 0", "round 1"], "rows": 12, "chance": pytest.approx(5 / 19)}
    assert found["chance"] == pytest.approx(5 / 43)
    assert gather(selections[::-1], rows, title="x")["overlap"]["shortlist"] is None  # the last scored all
    assert gather(selections[1:], rows, title="x")["overlap"]["shortlist"] is None
    outside = copy.deepcopy(selections)
    outside[0].indices = np.arange(5)
    assert gather(outside, rows, title="x")["overlap"]["shortlist"] is None


def test_the_same_facts_give_the_same_text(facts):
    assert page(facts) == page(copy.deepcopy(facts))
    assert card(facts) == card(copy.deepcopy(facts))


def test_a_card_is_updated_in_place(facts):
    first = card(facts)
    mine = "Before.\n\n" + split_card(first)[1] + "\nAfter.\n"
    assert updated_card(first, facts, {"default"}) == first
    again = updated_card(mine, {**facts, "title": "renamed"}, {"default"})
    assert split_card(again)[1].startswith("Before.\n\n\n<!-- hf_datasel: default: begin -->")
    assert again.endswith("<!-- hf_datasel: default: end -->\n\nAfter.\n")
    assert "# renamed" in again
    assert "# chosen" not in again


def test_a_card_without_the_marks_gets_the_page_at_its_end(facts):
    text = updated_card("---\nlicense: cc0-1.0\n---\n# Mine\n\nWords.\n", facts, set())
    metadata, body = split_card(text)
    assert metadata["license"] == "cc0-1.0"
    assert body.strip().startswith("# Mine\n\nWords.\n\n<!-- hf_datasel: default: begin -->")


def test_another_publication_has_its_own_part(facts):
    both = updated_card(card(facts), {**facts, "publication": "k5"}, {"k5"})
    assert both.count("# chosen") == 2
    assert updated_card(both, {**facts, "publication": "k5", "title": "five"}, {"k5"}).count("# chosen") == 1
