"""`columns` of the config: training and evaluation rows whose columns have other names."""

from __future__ import annotations

import pytest
from datasets import Dataset

from hf_datasel.errors import ConfigError, FormatError
from hf_datasel.selectors import Longest, Random, Top

COLUMNS = {"prompt": "task", "completion": "gold"}


@pytest.fixture
def foreign(pool_rows):
    rows = [row for row in pool_rows if row["output"].strip()]
    return Dataset.from_dict({"task": [row["instruction"] for row in rows], "gold": [row["output"] for row in rows]})


def test_weights_are_those_of_renamed_columns(train, foreign, assert_equal_weights):
    named = foreign.rename_columns({"task": "prompt", "gold": "completion"})
    settings = {"selection_size": 8, "num_train_epochs": 1}
    mapped = train(Longest(), "mapped", rows=foreign, columns=COLUMNS, **settings)
    assert_equal_weights(mapped, train(Longest(), "named", rows=named, **settings))
    assert mapped.selections[0].columns == COLUMNS
    assert "columns" not in mapped.selections[0].provenance["training"]["settings"]
    assert mapped.selections[0].apply(foreign).column_names[:2] == ["task", "gold"]


@pytest.mark.parametrize("streaming", [False, True])
def test_evaluation_rows(train, foreign, streaming):
    named = foreign.rename_columns({"task": "prompt", "gold": "completion"}).select(range(4))
    same = foreign.select(range(4))
    if streaming:
        named, same = named.to_iterable_dataset(), same.to_iterable_dataset()
    trainer = train.make(
        Random(), "run", rows=foreign, columns=COLUMNS, selection_size=4, eval_dataset={"same": same, "named": named}
    )
    metrics = trainer.evaluate()
    assert metrics["eval_same_loss"] == metrics["eval_named_loss"]


def test_settings_of_the_selector_with_its_name(train, foreign):
    rows = foreign.add_column("ifd", list(range(len(foreign))))
    trainer = train.make(None, "run", rows=rows, columns=COLUMNS, selector={"top": {"by": "ifd"}}, selection_size=4)
    assert trainer._selector == Top(by="ifd")
    assert (trainer.args.selector, trainer.args.selector_kwargs) == ("top", {"by": "ifd"})
    with pytest.raises(ConfigError, match="has settings, and so has selector_kwargs"):
        train.make(None, "run", rows=rows, selector={"top": {"by": "ifd"}}, selector_kwargs={"by": "x"})


def test_mapping_that_does_not_fit(train, foreign):
    with pytest.raises(FormatError, match="Did you mean 'task'"):
        train.make(Random(), "run", rows=foreign, columns={"prompt": "tusk", "completion": "gold"})
    with pytest.raises(ConfigError, match="columns has to be a dict"):
        train.make(Random(), "run", rows=foreign, columns=["task"])
