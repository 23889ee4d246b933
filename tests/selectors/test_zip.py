import json
import zlib

import numpy as np
import pytest
from datasets import Dataset

from hf_datasel import select
from hf_datasel.errors import ColumnError, ConfigError, Interrupted, SelectionError
from hf_datasel.selectors import ZIP, Within, get_selector
from hf_datasel.strategies.zip import zip_greedy, zlib_build
from hf_datasel.testing import contract

SMALL = {"k1": 8, "k2": 4, "k3": 2}


@contract(
    ZIP(),
    ZIP(k1=8, k2=4, k3=2),
    ZIP(k1=3, k2=3, k3=1, text="both", level=6),
    ZIP(k1=5, k2=2, k3=2, columns=("output", "reward")),
    ZIP(k1=1, k2=1, k3=1, compat=True),
)
def test_contract(check, selector, full):
    check(selector, full)


@pytest.fixture(scope="module")
def published(shared):
    golden = json.loads((shared / "golden" / "zip_syn400.json").read_text(encoding="utf-8"))
    if zlib_build()["probe"] != golden["zlib_probe_len"]["repr(range(5000)) at 9"]:
        pytest.skip("Another build of zlib compresses to other lengths, so that other rows are right.")
    pool = json.loads((shared / "golden" / "zip_synthetic_pool_400.json").read_text(encoding="utf-8"))
    sizes = {name: golden[name] for name in ("k1", "k2", "k3")}
    return Dataset.from_list(pool), sizes, golden["selected_ids_ordered"]


def test_the_published_selection(published):
    data, sizes, expected = published
    selector = ZIP(**sizes, compat=True, columns=("id", "conversations", "source"))
    assert select(data, selector, size=100).indices.tolist() == expected
    assert select(data, selector, size=33).indices.tolist() == expected[:33]


def test_published_selection_needs_column_order(published):
    data, sizes, expected = published
    mixed = data.select_columns(["source", "id", "conversations"]).add_column("ifd", [0.5] * 400)
    named = ZIP(**sizes, compat=True, columns=("id", "conversations", "source"))
    assert select(mixed, named, size=40).indices.tolist() == expected[:40]
    alone = ZIP(**sizes, compat=True)  # the conversations only
    assert select(data, alone, size=40).indices.tolist() != expected[:40]


def test_compat_stops_where_the_published_code_does(published):
    data, sizes, _ = published
    with pytest.raises(SelectionError, match=r"compat=True each step needs k1=200 rows .* remain for step 7"):
        select(data, ZIP(**sizes, compat=True), size=121)
    assert len(select(data, ZIP(**sizes), size=300).indices) == 300


@pytest.mark.parametrize("text", ["row", "both", "prompt", "response"])
def test_equals_strategy_on_eligible_rows(gaps, text):
    able = np.array([row for row in range(12) if row != 2])
    rows = [gaps[int(row)] for row in able]
    prompts = [f"{row['instruction']}\n\n{row['input']}" if row["input"] else row["instruction"] for row in rows]
    texts = {
        "row": [str({"instruction": r["instruction"], "input": r["input"], "output": r["output"]}) for r in rows],
        "both": [f"{prompt}\n{row['output']}" for prompt, row in zip(prompts, rows, strict=True)],
        "prompt": prompts,
        "response": [row["output"] for row in rows],
    }[text]
    frame = (b"[", b", ", b"]") if text == "row" else (b"", b"\n", b"")
    expected = able[zip_greedy([each.encode() for each in texts], 7, **SMALL, frame=frame)].tolist()
    assert select(gaps, ZIP(**SMALL, text=text), size=7).indices.tolist() == expected


def test_a_score_added_to_the_dataset_changes_nothing(rows, full):
    selected = select(rows.remove_columns(["ifd", "loss"]), ZIP(**SMALL), size=6).indices
    assert selected.tolist() == select(full, ZIP(**SMALL), size=6).indices.tolist()


def test_rows_of_several_batches():
    many = Dataset.from_dict({"text": [f"{at * at} is the square of {at}." for at in range(1, 2300)]})
    expected = zip_greedy([str(row).encode() for row in many], 20, 50, 10, 5)
    assert select(many, ZIP(50, 10, 5), size=20).indices.tolist() == expected.tolist()


def test_why_there_are_no_more(gaps):
    with pytest.raises(SelectionError, match=r"size=12 is more than the 11 of 12 .*\(1 empty_response\)"):
        select(gaps, ZIP(), size=12)


def test_equal_rows_are_dataset_order():
    same = Dataset.from_dict({"prompt": ["Sing."] * 6, "completion": ["La la la."] * 6})
    assert select(same, ZIP(3, 2, 1), size=6).indices.tolist() == [0, 1, 2, 3, 4, 5]


def test_within_a_token_budget(full):
    lengths = np.array(full["num_tokens"][:])
    selected = select(full, ZIP(**SMALL), tokens=150).indices
    every = select(full, ZIP(**SMALL), size=12).indices
    assert selected.tolist() == every[: len(selected)].tolist()
    assert lengths[selected].sum() <= 150 < lengths[every[: len(selected) + 1]].sum()


def test_interrupted_with_rows_and_not_positions(gaps, make_round, stop_at):
    whole = ZIP(**SMALL).select(make_round(gaps, 8))
    with pytest.raises(Interrupted, match="5 rows had been selected") as stop:
        ZIP(**SMALL).select(stop_at(make_round(gaps, 8), 5))
    assert stop.value.selected.tolist() == whole[:5].tolist()


def test_within_groups(full):
    columns = ("instruction", "reward")
    selected = select(full, Within(ZIP(**SMALL, columns=columns)), size=6).indices
    ids = np.array(full["cluster_id"][:])
    part = np.flatnonzero(ids == 0)
    texts = [str({name: full[int(row)][name] for name in columns}).encode() for row in part]
    expected = part[zip_greedy(texts, int((ids[selected] == 0).sum()), **SMALL)]
    assert selected[ids[selected] == 0].tolist() == expected.tolist()


def ratio(data, rows, text):
    if text == "row":
        content = str([{name: data[int(row)][name] for name in ("instruction", "input", "output")} for row in rows])
    else:
        content = "\n".join(data[int(row)]["output"] for row in rows)
    return len(content.encode()) / len(zlib.compress(content.encode(), 9))


@pytest.mark.parametrize("text", ["row", "response"])
def test_explained(gaps, make_round, text):
    selector = ZIP(**SMALL, text=text)
    selected = selector.select(make_round(gaps, 6))
    for row in range(12):
        if row == 2:
            continue
        said = selector.explain(make_round(gaps, 6), selected, row)
        assert said[0] == f"By itself its compression ratio is {ratio(gaps, [row], text):.4g}."
        at = np.flatnonzero(selected == row)
        before = selected[: at[0] // 2 * 2] if len(at) else selected
        when = "before the step that selected it" if len(at) else "in total"
        together = ratio(gaps, [*before, row], text)
        assert said[1:] == (
            [f"Together with the {len(before)} rows selected {when} it is {together:.5g}."] * bool(len(before))
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k1": 10, "k2": 20}, r"ZIP\(k1=10, k2=20, k3=100\): it has to be k3 <= k2 <= k1"),
        ({"k3": 0}, r"ZIP\(k3=0\): it has to be an int of at least 1"),
        ({"k1": 1e4}, r"ZIP\(k1=10000.0\)"),
        ({"level": 10}, r"ZIP\(level=10\): it has to be an int from 1 to 9"),
        ({"text": "rows"}, r"ZIP\(text='rows'\): it has to be 'row', .* or 'response'\. Did you mean 'row'\?"),
        ({"compat": "false"}, r"ZIP\(compat='false'\): it has to be true or false"),
        ({"columns": "id"}, r"ZIP\(columns='id'\): it has to be the names of columns"),
        ({"columns": ("id", 3)}, r"ZIP\(columns=\('id', 3\)\)"),
        ({"columns": ("id", "id")}, "names a column twice"),
        ({"columns": ("id",), "text": "both"}, r"columns are for text='row'"),
    ],
)
def test_impossible_settings_are_found_at_once(settings, message):
    with pytest.raises(ConfigError, match=message):
        ZIP(**settings)


def test_a_column_that_is_missing(full):
    with pytest.raises(ColumnError, match=r"ZIP needs column 'outputs', but .*Did you mean 'output'\?"):
        select(full, ZIP(columns=("instruction", "outputs")), size=2)


def test_in_a_recipe():
    made = get_selector("zip", {"k1": 100, "k2": 20, "k3": 10, "columns": ["id", "conversations"]})
    assert made == ZIP(100, 20, 10, columns=("id", "conversations"))
    spec = json.loads(json.dumps(made.spec()))
    assert get_selector(spec.pop("selector"), spec) == made
