"""Tables of selected rows and alerts for trackers."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from hf_datasel.errors import ConfigError
from hf_datasel.selectors import IterIT, Longest
from hf_datasel.training import SelectiveSFTConfig


@pytest.fixture
def tracker(monkeypatch):
    """A tracker with tables and alerts, in place of trackio."""
    module = ModuleType("trackio")
    module.logged, module.alerts = [], []
    module.Table = lambda dataframe: dataframe
    module.log = lambda values: module.logged.append(values)
    module.alert = lambda title, text: module.alerts.append((title, text))
    monkeypatch.setitem(sys.modules, "trackio", module)
    return module


@pytest.fixture
def tracked(train):
    """A function that trains with the tracker, which the callbacks of transformers do not know."""

    def run(selector, name="run", report_to=("trackio",), **more):
        trainer = train.make(selector, name, **more)
        trainer.args.report_to = list(report_to)
        trainer.train()
        return trainer

    return run


def test_tables_of_selected_rows(tracked, tracker, pool_rows):
    trainer = tracked(IterIT(), selection_size=8, log_selected_rows=2)
    tables = [values["selected_rows"] for values in tracker.logged]
    assert [len(table) for table in tables] == [4] * len(trainer.selections)
    for index, (table, selection) in enumerate(zip(tables, trainer.selections, strict=True)):
        rows = selection.indices[[0, 1, 6, 7]].tolist()
        assert table["round"].tolist() == [index] * 4
        assert table["rank"].tolist() == [0, 1, 6, 7]
        assert table["row"].tolist() == rows
        assert table["response"].tolist() == [pool_rows[row]["output"] for row in rows]
        assert table["ifd"].tolist() == selection.scores("ifd")[rows].tolist()


def test_no_table_unless_asked_for(tracked, tracker):
    tracked(Longest(), selection_size=8)
    assert tracker.logged == []
    tracked(Longest(), name="other", selection_size=8, log_selected_rows=2, report_to=["tensorboard"])
    assert tracker.logged == []
    with pytest.raises(ConfigError, match="log_selected_rows=-1 has to be an int of at least 0"):
        SelectiveSFTConfig("out", use_cpu=True, bf16=False, log_selected_rows=-1)


def test_alert_if_rounds_select_the_same_rows(tracked, tracker):
    tracked(Longest(), selection_size=8)
    assert tracker.alerts == []  # it selects once
    trainer = tracked(IterIT(candidate_factor=1, decay=0.0), name="other", selection_size=8, learning_rate=0.0)
    overlaps = [entry["selection_overlap"] for entry in trainer.state.log_history if "selection_overlap" in entry]
    same = [index for index, overlap in enumerate(overlaps) if overlap >= 0.95]
    assert same
    titles = [f"Round {index + 1} selects the rows of round {index}" for index in same]
    assert [title for title, _ in tracker.alerts] == titles
