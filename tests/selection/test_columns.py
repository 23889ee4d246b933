"""`columns=`: rows whose columns have other names than those of the row formats."""

from __future__ import annotations

from functools import partial

import pytest
from datasets import Dataset, IterableDatasetDict

from hf_datasel import Selection, score, select, select_streaming
from hf_datasel.analysis import ablation, compare, sweep
from hf_datasel.analysis.measures import distinct
from hf_datasel.errors import ConfigError, FormatError, ScoreError
from hf_datasel.formats.mapping import rename_batch
from hf_datasel.scores import Length, Loss
from hf_datasel.scoring.logprobs import LogprobRunner
from hf_datasel.selection import explain
from hf_datasel.selectors import Longest, Random, Top

TEXT = {
    "prompt": ["Name a river.", "Add 2 and 2.", "Who wrote Faust?", "Say yes.", "Name two birds."],
    "completion": ["The river Aare.", "4", "Goethe wrote it long ago.", "", "Owl and wren."],
}
COLUMNS = {"prompt": "task", "completion": "gold"}


@pytest.fixture
def named():
    """Rows with the names of a row format."""
    return Dataset.from_dict(TEXT)


@pytest.fixture
def foreign():
    """The same rows under other names, beside columns whose names are those of a row format."""
    return Dataset.from_dict({"task": TEXT["prompt"], "gold": TEXT["completion"], "prompt": [1, 2, 3, 4, 5]})


def test_scores_of_renamed_columns(named, foreign):
    scored = score(foreign, Length(), columns=COLUMNS)
    assert scored.column_names == ["task", "gold", "prompt", "response_words", "length_reason"]
    assert list(scored["response_words"]) == list(score(named, Length())["response_words"])


def test_store_has_the_scores_of_the_same_rows(named, foreign, tiny_model_dir, tmp_path, monkeypatch):
    first = score(foreign, Loss(str(tiny_model_dir)), columns=COLUMNS, store=tmp_path / "store")
    monkeypatch.setattr(LogprobRunner, "hidden", lambda *args, **kwargs: pytest.fail("computed again"))
    again = score(named, Loss(str(tiny_model_dir)), store=tmp_path / "store")
    assert again["loss"][:] == first["loss"][:]


def test_selection_records_and_uses_the_mapping(named, foreign, tmp_path):
    selection = select(foreign, Longest(), size=2, columns=COLUMNS)
    plain = select(named, Longest(), size=2)
    assert plain.columns is None and "columns" not in plain.provenance["dataset"]
    assert selection.columns == COLUMNS
    assert selection.provenance["dataset"]["id"] == plain.provenance["dataset"]["id"]
    assert selection.indices.tolist() == plain.indices.tolist() == [2, 0]
    selection.save(tmp_path)
    loaded = Selection.load(tmp_path)
    subset = loaded.apply(foreign)
    assert subset.column_names == ["task", "gold", "prompt", "response_words", "selection_rank", "selection_round"]
    assert subset["gold"][:] == ["Goethe wrote it long ago.", "The river Aare."]
    assert foreign.filter(loaded.keep, with_indices=True)["prompt"][:] == [1, 3]
    assert explain(loaded, foreign, 2)["rank"] == 0
    assert loaded.apply(named)["completion"][:] == subset["gold"][:], "the same rows under the names of the format"
    assert loaded.overlap(plain) == 1


def test_keys_of_messages():
    turns = [
        [{"who": "user", "said": text}, {"who": "assistant", "said": "word " * n}] for n, text in ((1, "a"), (3, "b"))
    ]
    data = Dataset.from_dict({"dialog": turns})
    mapping = {"messages": "dialog", "role": "who", "content": "said"}
    selection = select(data, Longest(), size=1, columns=mapping)
    assert selection.indices.tolist() == [1]
    assert selection.apply(data)["dialog"][0] == turns[1]
    stream = data.to_iterable_dataset()
    assert select_streaming(stream, Longest(unit="words"), 1, columns=mapping)["selection_row"][:] == [1]
    mapped = data.map(lambda batch: Length()(rename_batch(batch, mapping)), batched=True)
    assert mapped["response_words"][:] == [1, 3]


def test_streaming(foreign, tiny_model_dir):
    rows = select_streaming(foreign.to_iterable_dataset(), Longest(), 2, columns=COLUMNS)
    assert rows["gold"][:] == ["Goethe wrote it long ago.", "The river Aare."]
    by_loss = Top(by=Loss(str(tiny_model_dir)))
    streamed = select_streaming(foreign.to_iterable_dataset(), by_loss, 2, columns=COLUMNS)
    assert streamed["selection_row"][:] == select(foreign, by_loss, size=2, columns=COLUMNS).indices.tolist()


def test_splits_of_a_stream(named):
    stream = IterableDatasetDict({"train": named.to_iterable_dataset(), "test": named.to_iterable_dataset()})
    with pytest.raises(FormatError, match=r"with the splits 'train', 'test'\. Pick one"):
        select_streaming(stream, Random(), 1)


def test_analysis(named, foreign):
    pair = {"long": Longest(), "random": Random()}
    selections = {name: select(foreign, selector, size=2, columns=COLUMNS) for name, selector in pair.items()}
    expected = {name: select(named, selector, size=2) for name, selector in pair.items()}
    assert distinct(2)(foreign, selections["long"]) == distinct(2)(named, expected["long"])
    comparison, reference = compare(selections, foreign), compare(expected, named)
    assert comparison["lengths"] == reference["lengths"] is not None
    assert comparison["dataset"]["columns"] == COLUMNS
    assert ablation(foreign, pair, columns=COLUMNS, size=2) == ablation(named, pair, size=2)
    assert sweep(foreign, Longest(), {"size": [1, 2]}, columns=COLUMNS) == sweep(named, Longest(), {"size": [1, 2]})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"promt": "task", "completion": "gold"}, "columns maps 'promt'.*Did you mean 'prompt'"),
        ({"prompt": "task", "completion": "golden"}, r"'golden', but the columns are .*Did you mean 'gold'"),
        ({"prompt": "task"}, "Map the other columns|match none of the supported formats"),
        ("task", "columns has to be a dict such as .*, and is 'task'"),
    ],
)
@pytest.mark.parametrize(
    "use",
    [
        partial(score, scores=Length()),
        partial(select, selector=Random(), size=1),
        lambda rows, columns: select_streaming(rows.to_iterable_dataset(), Random(), 1, columns=columns),
    ],
    ids=["score", "select", "stream"],
)
def test_mapping_that_does_not_fit(foreign, columns, message, use):
    with pytest.raises(FormatError, match=message):
        use(foreign, columns=columns)


@pytest.mark.parametrize("scores", [3, [], ()])
def test_no_scores(named, scores):
    with pytest.raises(ScoreError, match=r"scores has to be a score, or a list with at least one"):
        score(named, scores)


def test_class_instead_of_selector(named):
    with pytest.raises(ConfigError, match=r"Write Random\(\)\."):
        select(named, Random, size=1)
