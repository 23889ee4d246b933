from __future__ import annotations

import sys

import numpy as np
import pyarrow as pa
import pytest

from hf_datasel.analysis import plot_rounds
from hf_datasel.errors import DataselError, SelectionError
from hf_datasel.selection import Selection


def selected(rows: list[int], ifd: list[float | None], round: int = 0) -> Selection:
    table = pa.table({"row_id": [b""] * len(ifd), "ifd": pa.array(ifd, pa.float32())})
    return Selection(np.array(rows, dtype=np.int64), {"dataset": {"id": "pool"}, "round": round}, table)


@pytest.fixture
def rounds() -> list[Selection]:
    return [selected([0, 1], [0.25, 0.5, 0.75, None]), selected([1, 2], [None, 0.5, 1.0, None], round=1)]


def test_medians(rounds):
    ax = plot_rounds(rounds, "ifd")
    medians = [line.get_ydata()[0] for line in ax.lines if line.get_color() == "black"]
    assert medians == [0.5, 0.375, 0.75, 0.75]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["round 0", "round 1"]
    assert ax.get_ylabel() == "ifd"
    assert ax.get_legend_handles_labels()[1] == ["scored", "selected"]


def test_given_axes(rounds, tmp_path):
    from matplotlib.figure import Figure

    figure = Figure()
    ax = figure.subplots()
    assert plot_rounds(rounds, "ifd", ax=ax) is ax
    figure.savefig(tmp_path / "rounds.png")


@pytest.mark.parametrize("log", [False, True])
def test_constant_score(tmp_path, log):
    plot_rounds([selected([0], [0.5, 0.5])], "ifd", log=log).figure.savefig(tmp_path / "rounds.png")


@pytest.mark.parametrize("log", [False, True])
def test_no_selected_bar_above_the_threshold(log):
    ifd = np.linspace(0.3, 1.4, 333).tolist()
    below = [index for index, value in enumerate(ifd) if value < 1]
    selection = selected(below[-9:], ifd)
    selection.provenance["exclusions"] = {"with ifd >= 1": len(ifd) - len(below)}
    ax = plot_rounds([selection], "ifd", log=log)
    scored, drawn = (patch.get_data() for patch in ax.patches)
    filled = [top for top, value in zip(drawn.edges[1:], drawn.values, strict=True) if value != drawn.baseline]
    assert max(filled) == 1.0
    assert scored.edges[-1] > 1.3


@pytest.mark.parametrize("log", [False, True])
def test_outliers_are_hidden(log):
    ifd = [*np.linspace(0.1, 2, 300), 200.0]
    ax = plot_rounds([selected([0, 150], ifd)], "ifd", log=log)
    low, high = ax.get_ylim()
    assert low == pytest.approx(0.1)
    assert 1.9 < high < 2
    assert ax.get_yscale() == ("log" if log else "linear")
    assert plot_rounds([selected([0], ifd)], "ifd", limits=(0.5, 3), log=log).get_ylim() == pytest.approx((0.5, 3))


def test_log_axis_needs_positive_values():
    with pytest.raises(SelectionError, match=r"cannot show -0\.5"):
        plot_rounds([selected([0], [-0.5, 0.5])], "ifd", log=True)


def test_missing_scores(rounds):
    with pytest.raises(SelectionError, match="has no score 'idf'"):
        plot_rounds(rounds, "idf")
    with pytest.raises(SelectionError, match="No selected row of round 0 has a score 'ifd'"):
        plot_rounds([selected([1], [0.5, None])], "ifd")
    with pytest.raises(SelectionError, match="at least one selection"):
        plot_rounds([], "ifd")


def test_without_matplotlib(rounds, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(DataselError, match=r"pip install 'hf-datasel\[plot\]'"):
        plot_rounds(rounds, "ifd")
