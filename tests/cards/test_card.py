import ast
import copy
import re

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset

from hf_datasel import select
from hf_datasel.cards.build import PublishTarget, config_names, gather
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
        title="selected",
        target=PublishTarget("me/selected"),
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
def test_facts_are_json_with_text_of_selected_rows_alone(facts, pool_rows):
    import json

    text = json.dumps(facts, allow_nan=False)
    assert json.loads(text)["rounds"][0]["rows"] == 5
    selected = {row["row"] for row in facts["sections"]["rows"]["rows"]}
    shown = {row for row, output in enumerate(pool_rows["output"]) if len(output) > 20 and output in text}
    assert shown and shown <= selected and len(selected) == 5


def test_facts_of_the_selection(facts, pool_rows):
    [only] = facts["rounds"]
    assert (only["config"], only["rows"], only["budget"], only["rows_scored"]) == ("default", 5, 5, 24)
    assert only["means"].keys() == {"ifd", "loss", "loss_prior"}
    assert only["exclusions"].keys() <= {"with ifd >= 1"}
    assert facts["method"]["name"] == "IterIT"
    assert facts["method"]["settings"]["decay"] == 0.1
    assert "@article{jia2024iterit" in facts["method"]["citation"]
    sections = facts["sections"]
    assert [scores["column"] for scores in sections["distributions"]] == ["ifd", "loss", "loss_prior"]
    assert [group["name"] for group in sections["lengths"]["groups"]] == ["pool", "selected", "Random", "Longest"]
    assert sections["overlap"]["names"] == ["selected", "Random", "Longest"]
    assert sections["rounds"] == {"distribution": None, "overlap": []}
    assert (sections["embedding_map"], facts["training"]) == (None, None)


def test_facts_without_dataset(pool_rows):
    facts = gather([select(pool_rows, Longest(), size=5)], title="x")
    sections = facts["sections"]
    assert (sections["lengths"], sections["overlap"]) == (None, None)
    assert [scores["column"] for scores in sections["distributions"]] == ["response_words"]
    assert "# x" in page(facts)


def test_baseline_is_not_compared_with_itself(pool_rows):
    facts = gather([select(pool_rows, Random(), size=5)], pool_rows, title="x")
    assert facts["sections"]["overlap"]["names"] == ["selected", "Longest"]


def test_plain_text_rows(pool_rows):
    rows = Dataset.from_dict({"text": pool_rows["output"][:], "value": [float(row) for row in range(24)]})
    facts = gather([select(rows, Top(by="value"), size=5)], rows, title="x")
    assert facts["sections"]["lengths"] is None
    assert facts["rounds"][0]["columns_unverified"] == ["value"]
    assert "The selection uses `value` of the dataset." in page(facts)


def test_embedding_map(pool_rows):
    import numpy as np
    import pyarrow as pa

    selection = select(pool_rows, Random(), size=5)
    vectors = np.random.default_rng(0).normal(size=(23, 4)).astype(np.float32)
    column = pa.array([*vectors.tolist(), None], pa.list_(pa.float32(), 4))
    selection.table = selection.table.append_column("embedding", column)
    embedding_map = gather([selection], title="x")["sections"]["embedding_map"]
    assert embedding_map["column"] == "embedding"
    assert sum(map(sum, embedding_map["pool"])) == 23
    assert sum(map(sum, embedding_map["selected"])) == len([row for row in selection.indices if row < 23])


def test_config_names(pool_rows):
    selected_rounds = [select(pool_rows, Random(), size=2) for _ in range(2)]
    selected_rounds[1].provenance["round"] = 3
    assert config_names(selected_rounds[:1]) == ["default"]
    assert config_names(selected_rounds) == ["round-0", "round-3"]
    assert config_names(selected_rounds, "k5") == ["k5-round-0", "k5-round-3"]


# -- text ------------------------------------------------------------------------------------------------------------
def test_page_content(facts):
    text = page(facts)
    assert text.startswith(
        "# selected\n\n**5 of the 24 rows of a dataset that is not on the Hub, selected by IterIT.**\n"
    )
    for part in (
        "## Usage", "## Selected rows", "## Method", "## Excluded rows", "## Evaluation", "## Reproduce", "## Cost",
        "## Limitations", "## Citation",
        "| `decay` | `0.1` |", "| this selection | exact match | 512 questions | 0.6912 | 3 seeds |",
        "mit, as for the parent dataset", "hf-datasel select",
    ):  # fmt: skip
        assert part in text, part
    assert "{{" not in text
    assert "None" not in text


def test_no_results_and_no_licence(facts):
    unevaluated = {**facts, "sections": {**facts["sections"], "evaluation": []}}
    assert "No model trained on these rows has been evaluated." in page(unevaluated)
    hub = {"name": "them/parent", "sources": ["them/parent"], "metadata": {}}
    for expected_text, parent in {
        "unknown: the parent dataset is not on the Hub": {"metadata": {}},
        "not stated by the parent dataset": {**hub, "looked_up": True},
        "that of the parent dataset, which was not looked up": {**hub, "looked_up": False},
        "without an identifier of the Hub: Ask us": {**hub, "metadata": {"license_as_written": "Ask us"}},
    }.items():
        assert expected_text in page({**facts, "parent": {**facts["parent"], **parent}})


def test_changed_pool_is_not_called_its_parent(facts):
    hub = {"name": "them/parent", "sources": ["them/parent"], "revision": "a" * 40, "split": "train"}
    plain = page({**facts, "parent": {**facts["parent"], **hub}})
    assert "24 rows of [them/parent]" in plain
    assert 'Selection.from_hub("me/selected").apply(pool)' in plain
    changed = page({**facts, "parent": {**facts["parent"], **hub, "changed": True}})
    assert "24 rows of a modified copy of [them/parent]" in changed
    assert "The pool is not the parent dataset as it is on the Hub" in changed
    assert "from_hub" not in changed
    mixed = page({**facts, "parent": {**facts["parent"], "sources": ["a/b", "c/d"], "changed": True}})
    assert "24 rows of a mixture of [a/b](https://huggingface.co/datasets/a/b) and [c/d]" in mixed


def test_foreign_text_in_code_is_quoted(facts):
    evil = '"); import os; os.system("x") #'
    hub = {"name": "them/parent", "sources": ["them/parent"], "split": evil, "revision": "a" * 40}
    text = page({**facts, "parent": {**facts["parent"], **hub}, "revision": evil})
    programs = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(programs) == 2
    for program in programs:
        tree = ast.parse(program)
        assert {type(item) for item in tree.body} <= {ast.ImportFrom, ast.Assign}


def test_revision_in_code(facts):
    text = page({**facts, "revision": "second"})
    assert 'load_dataset("me/selected", split="train", revision="second")' in text
    assert 'Selection.from_hub("me/selected", revision="second")' in text


def test_unpaired_marker_is_refused(facts):
    first = card(facts)
    for gone in ("begin", "end"):
        broken = first.replace(f"<!-- hf_datasel: default: {gone} -->\n", "") + "\nMine.\n"
        with pytest.raises(PublishError, match="without its counterpart"):
            updated_card(broken, facts, {"default"})
    quoted = first + "\nThe mark `<!-- hf_datasel: default: begin -->` begins it.\n"
    assert updated_card(quoted, facts, {"default"}) == quoted


def test_unchanged_card_keeps_its_bytes(facts):
    mine = card(facts).replace("---\npretty_name", "---\n# a comment\npretty_name").replace("\n", "\r\n")
    assert updated_card(mine, facts, {"default"}).startswith("---\r\n# a comment\r\npretty_name")


def test_shortfall(facts):
    short = copy.deepcopy(facts)
    short["rounds"][0]["budget"] = 9
    text = page(short)
    assert "9 rows were requested, but only 5 could be selected." in text
    assert "- The selection has 4 rows fewer than requested." in text


@pytest.fixture
def in_rounds(facts):
    """Return a function that builds facts of rounds from (selected rows of 12, excluded rows)."""

    def build(*rounds):
        changed, [first] = copy.deepcopy(facts), facts["rounds"]
        changed["sections"]["overlap"] = None
        changed["rounds"] = [
            {
                **first,
                "round": index,
                "rows": rows,
                "budget": 12,
                "exclusions": {"with ifd >= 1": excluded} if excluded else {},
            }
            for index, (rows, excluded) in enumerate(rounds)
        ]
        return changed

    return build


def test_rounds_of_different_sizes(in_rounds):
    text = page(in_rounds((11, 4798), (8, 19), (10, 7)))
    assert (
        "**8 to 11 of the 24 rows of a dataset that is not on the Hub, selected by IterIT before each of 3 rounds"
        in text
    )
    assert "| **rows** | 10 rows, 41.7% of the pool in the last round; 8 to 11 rows in each of 3 rounds |" in text
    assert "- Each of the 3 rounds has 1 to 4 rows fewer than requested." in text
    assert "12 rows were requested for the last round" not in text
    assert "In the last round, 12 rows were requested, but only 10 could be selected." in text
    same = page(in_rounds((12, 0), (12, 0)))
    assert "**12 of the 24 rows" in same
    assert "| **rows** | 12 rows, 50.0% of the pool, in each of 2 rounds |" in same
    assert "fewer than requested" not in same


def test_shortfall_by_round(in_rounds):
    assert "- Round 1 has 1 row fewer than requested." in page(in_rounds((12, 0), (11, 0), (12, 0)))
    assert "- Each of 2 of the 3 rounds has 2 rows fewer than" in page(in_rounds((10, 0), (12, 0), (10, 0)))
    assert "- Each of the 2 rounds has 1 row fewer than" in page(in_rounds((11, 0), (11, 0)))


def test_exclusions_by_round(in_rounds):
    def excluded(*counts):
        return re.search(r"\*\*excluded\*\* \| (.*) \|", page(in_rounds(*[(12, item) for item in counts])))[1]

    assert excluded(4798, 19, 7) == "4,798, 19 and 7 with ifd ≥ 1 in rounds 0, 1 and 2"
    assert excluded(0, 3) == "0 and 3 with ifd ≥ 1 in rounds 0 and 1"
    assert excluded(5, 5) == "5 with ifd ≥ 1"
    assert excluded(4798, 3, 19, 7, 30) == "3 to 4,798 with ifd ≥ 1 in each of 5 rounds"
    assert excluded(0, 0) == "no rows"


def test_reasons_for_exclusion_in_the_table(in_rounds):
    facts = in_rounds((12, 0))
    facts["rounds"][0] |= {
        "not_eligible": {"empty_response": 1},
        "exclusions": {f"with a_long_name_of_a_score_{number} >= 0.5": 30 - number for number in range(12)},
    }
    text = re.search(r"\*\*excluded\*\* \| (.*) \|", page(facts))[1]
    assert text.startswith("1 without a response, 30 with a_long_name_of_a_score_0 ≥ 0.5, 29 with")
    assert text.endswith(" 22 with a_long_name_of_a_score_8 ≥ 0.5, and 3 more reasons (60 rows)")


def test_shortlist_is_detected(pool_rows):
    rows = pool_rows.add_column("ifd", np.linspace(0.1, 0.9, 24))
    selections = [select(rows, Top(by="ifd"), size=5) for _ in range(2)]
    listed = np.isin(np.arange(24), np.arange(12, 24))
    selections[1].provenance["round"] = 1
    column = pa.array(np.linspace(0.1, 0.9, 24), mask=~listed)
    selections[1].table = selections[1].table.set_column(1, "ifd", column)
    overlap = gather(selections, rows, title="x")["sections"]["overlap"]
    assert overlap["names"] == ["round 0", "round 1", "Random", "Longest"]
    assert overlap["shortlist"] == {"names": ["round 0", "round 1"], "rows": 12, "chance": pytest.approx(5 / 19)}
    assert overlap["chance"] == pytest.approx(5 / 43)
    assert gather(selections[::-1], rows, title="x")["sections"]["overlap"]["shortlist"] is None  # the last scored all
    assert gather(selections[1:], rows, title="x")["sections"]["overlap"]["shortlist"] is None
    outside = copy.deepcopy(selections)
    outside[0].indices = np.arange(5)
    assert gather(outside, rows, title="x")["sections"]["overlap"]["shortlist"] is None


def test_rendering_is_deterministic(facts):
    assert page(facts) == page(copy.deepcopy(facts))
    assert card(facts) == card(copy.deepcopy(facts))


def test_card_is_updated_in_place(facts):
    first = card(facts)
    mine = "Before.\n\n" + split_card(first)[1] + "\nAfter.\n"
    assert updated_card(first, facts, {"default"}) == first
    again = updated_card(mine, {**facts, "title": "renamed"}, {"default"})
    assert split_card(again)[1].startswith("Before.\n\n\n<!-- hf_datasel: default: begin -->")
    assert again.endswith("<!-- hf_datasel: default: end -->\n\nAfter.\n")
    assert "# renamed" in again
    assert "# selected" not in again


def test_page_is_appended_to_a_card_without_markers(facts):
    text = updated_card("---\nlicense: cc0-1.0\n---\n# Mine\n\nWords.\n", facts, set())
    metadata, body = split_card(text)
    assert metadata["license"] == "cc0-1.0"
    assert body.strip().startswith("# Mine\n\nWords.\n\n<!-- hf_datasel: default: begin -->")


def test_second_publication_in_a_card(facts):
    both = updated_card(card(facts), {**facts, "publication": "k5"}, {"k5"})
    assert both.count("# selected") == 2
    assert updated_card(both, {**facts, "publication": "k5", "title": "five"}, {"k5"}).count("# selected") == 1
