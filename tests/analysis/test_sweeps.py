"""Sweeps and ablations: selections, measures, caching, errors and plots."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from datasets import Dataset

from hf_datasel import select
from hf_datasel.analysis import ablation, draw_ablation, draw_sweep, standard_measures, sweep
from hf_datasel.analysis.measures import cluster_coverage, distinct, mean_of, response_words
from hf_datasel.errors import ColumnError, ConfigError, SelectionError
from hf_datasel.rounds.selector import Selector
from hf_datasel.scores import Compressibility, Length
from hf_datasel.selectors import IterIT, Longest, Random, Top


@pytest.fixture(scope="module")
def rows(pool_rows):
    rng = np.random.default_rng(0)
    data = pool_rows.add_column("ifd", np.round(0.2 + 0.75 * rng.random(24), 3))
    return data.add_column("cluster_id", (np.arange(24) % 6).astype(np.int32))


# -- what is selected -------------------------------------------------------------------------------------------------
def test_sweep_equals_select(rows):
    values = [1, 2, 4]
    selector = IterIT(quality="ifd", candidate_factor=2)
    result = sweep(rows, selector, {"candidate_factor": values}, size=5)["candidate_factor"]
    assert json.loads(json.dumps(result)) == result
    selected = [select(rows, IterIT(quality="ifd", candidate_factor=value), size=5) for value in values]
    default = select(rows, selector, size=5)
    assert (result["selector"], result["setting"], result["values"], result["default"]) == (
        "iterit",
        "candidate_factor",
        values,
        2,
    )
    assert result["jaccard_default"] == pytest.approx([item.overlap(default) for item in selected], rel=1e-5)
    assert result["jaccard_default"][1] == 1 > result["jaccard_default"][0]
    previous = [selected[0].overlap(selected[1]), selected[1].overlap(selected[2])]
    assert result["jaccard_previous"][0] is None
    assert result["jaccard_previous"][1:] == pytest.approx(previous, rel=1e-5)
    ifd = np.array(rows["ifd"][:])
    assert result["measures"]["mean ifd"] == pytest.approx([ifd[item.indices].mean() for item in selected], rel=1e-5)
    assert {name: values[1] for name, values in result["measures"].items()} == result["measures_default"]


def test_sweep_of_the_budget(rows):
    by_ratio = sweep(rows, Top(by="ifd"), {"ratio": [0.1, 0.25, 1.0]})["ratio"]
    assert by_ratio["rows"] == [2, 6, 24]
    assert by_ratio["default"] == 0.05
    assert by_ratio["jaccard_default"] == pytest.approx([1 / 2, 1 / 6, 1 / 24], rel=1e-5)
    by_size = sweep(rows, Top(by="ifd"), {"size": [3, 6], "ratio": [0.5]}, size=6)
    assert (by_size["size"]["default"], by_size["ratio"]["default"]) == (6, None)
    assert by_size["size"]["jaccard_default"] == [0.5, 1.0]
    assert by_size["ratio"]["rows"] == [12]


def test_sweep_of_scores(rows):
    result = sweep(rows, Top(by="ifd"), {"by": [Length("words"), "ifd", Compressibility()]}, size=4)["by"]
    assert [item if isinstance(item, str) else item["score"] for item in result["values"]] == [
        "length",
        "ifd",
        "compressibility",
    ]
    assert result["jaccard_default"][1] == 1
    assert json.loads(json.dumps(result)) == result
    # the scores that some of the selections had computed
    assert result["measures"]["mean compressibility"][:2] == [None, None]
    assert result["measures"]["mean compressibility"][2] > 0


def test_seed_is_shared(rows):
    result = ablation(rows, {"one": Random(), "two": Random()}, seed=3, size=8)
    assert result["jaccard"] == [1.0, 1.0]
    measures = {"first row": lambda _, selection: float(selection.indices[0])}
    other = [ablation(rows, {"one": Random()}, measures, seed=seed, size=8)["measures"] for seed in range(9)]
    assert len({item["first row"][0] for item in other}) > 1


def test_ablation(rows):
    selectors = {part: IterIT(quality="ifd", diversity=part) for part in ("response", "none", "prompt", "both")}
    result = ablation(rows, {**selectors, "Longest": Longest()}, size=5)
    assert json.loads(json.dumps(result)) == result
    assert result["names"] == [*selectors, "Longest"]
    first = select(rows, selectors["response"], size=5)
    shared = [first.overlap(select(rows, item, size=5)) for item in (*selectors.values(), Longest())]
    assert result["jaccard"] == pytest.approx(shared, rel=1e-5)
    means = result["measures"]["mean ifd"]
    assert means[1] == max(means)
    assert list(result["measures"]) == list(standard_measures(["ifd"]))
    assert result["measures"]["response words"][-1] == max(result["measures"]["response words"])


@dataclass(frozen=True)
class Counting(Selector):
    """The first rows, and a list of when it was asked."""

    step: int = 1

    def select(self, round):
        CALLS.append(self.step)
        return np.flatnonzero(round.eligible)[:: self.step][: round.budget]


CALLS: list[int] = []


def test_selections_and_measures_are_cached(rows):
    CALLS.clear()
    seen = []
    measures = {"mine": lambda dataset, selection: seen.append(selection) or len(dataset) / len(selection.indices)}
    result = sweep(rows, Counting(step=2), {"step": [1, 2, 3, 2], "size": [4, 6]}, measures, size=4)
    assert sorted(CALLS) == [1, 2, 2, 3]  # step 2 with 4 rows, and with 6
    assert len(seen) == 4
    assert result["step"]["measures"] == {"mine": [6, 6, 6, 6]}
    assert result["size"]["measures"] == {"mine": [6, 4]}
    assert result["size"]["measures_default"] == {"mine": 6}


# -- what is measured -------------------------------------------------------------------------------------------------
def selection_of(data, *positions):
    result = select(data, Random(), size=len(positions))
    result.indices = np.array(positions)
    return result


def test_measures_by_hand():
    data = Dataset.from_dict(
        {
            "prompt": ["?"] * 4,
            "completion": ["The cat, the CAT", "a b a b", "x", "dog"],
            "score": [0.5, None, 0.1, 0.2],
            "cluster_id": [0, 2, 2, None],
        }
    )
    both = selection_of(data, 0, 1)
    assert response_words(data, both) == 4
    assert [distinct(n)(data, both) for n in (1, 2, 3)] == pytest.approx([4 / 8, 4 / 6, 4 / 4])
    assert mean_of("score")(data, both) == 0.5
    assert mean_of("score")(data, selection_of(data, 0, 2)) == pytest.approx(0.3)
    assert cluster_coverage()(data, both) == 1
    assert [cluster_coverage()(data, selection_of(data, index)) for index in (1, 3)] == [0.5, 0]


def test_measures_without_a_number(rows):
    data = Dataset.from_dict({"prompt": ["?"], "completion": ["word"]})
    one = selection_of(data, 0)
    for measure in (distinct(2), mean_of("ifd"), cluster_coverage()):
        assert np.isnan(measure(data, one))
    result = sweep(data, Random(), {"size": [1]}, size=1)["size"]
    assert result["measures"]["distinct-2"] == [None] and result["measures_default"]["distinct-2"] is None
    assert "cluster coverage" not in " ".join(item.get_title(loc="left") for item in draw_sweep(result).axes)


def test_response_words_of_text_rows():
    data = Dataset.from_dict({"text": ["one two three", "four"]})
    assert response_words(data, selection_of(data, 0, 1)) == 2


# -- errors -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"settings=\{\} names nothing to sweep"),
        ({"decoy": [1]}, r"IterIT has no setting 'decoy'.*Did you mean 'decay'\?"),
        ({"decay": []}, r"settings\['decay'\]=\[\] has to be a list of the values"),
        ({"diversity": "none"}, r"settings\['diversity'\]='none' has to be a list"),
        ({"decay": 0.1}, r"has to be a list of the values"),
        ({"decay": [0.1, 7]}, r"IterIT\(decay=7\)"),
    ],
)
def test_invalid_settings(rows, settings, message):
    with pytest.raises(ConfigError, match=message):
        sweep(rows, IterIT(quality="ifd"), settings, size=5)


def test_errors_name_the_value(rows):
    with pytest.raises(SelectionError, match="25") as refused:
        sweep(rows, Top(by="ifd"), {"size": [3, 25]}, size=3)
    assert refused.value.__notes__ == ["This was the selection with size=25."]
    with pytest.raises(ColumnError, match="idf") as refused:
        ablation(rows, {"good": Top(by="ifd"), "bad": Top(by="idf")}, size=3)
    assert refused.value.__notes__ == ["This was the selection with bad."]


def test_invalid_calls(rows):
    with pytest.raises(ConfigError, match=r"at least one selector, and got none"):
        ablation(rows, {}, size=3)
    for call in (
        lambda: ablation(rows, {"a": Random()}, rows=3),
        lambda: sweep(rows, Random(), {"size": [1]}, rows=3),
    ):
        with pytest.raises(ConfigError, match=r"rows=3 is no budget: pass one of \['size', 'ratio', 'tokens'\]"):
            call()
    with pytest.raises(ConfigError, match=r"selector has to be a Selector"):
        sweep(rows, "iterit", {"decay": [1]})


# -- the plots --------------------------------------------------------------------------------------------------------
def boxes_inside(figure):
    box = figure.get_tightbbox()
    assert box.x0 >= 0 and box.y0 >= 0
    assert box.x1 <= figure.get_figwidth() and box.y1 <= figure.get_figheight()
    boxes = [axes.get_tightbbox() for axes in figure.axes if axes.axison]
    for index, one in enumerate(boxes):
        assert not any(one.overlaps(other) for other in boxes[index + 1 :])


@pytest.mark.parametrize("dark", [False, True])
def test_draw_sweep(rows, dark):
    result = sweep(rows, IterIT(quality="ifd"), {"decay": [0, 0.01, 0.1, 0.3, 0.5, 1.0]}, size=6)["decay"]
    figure = draw_sweep(result, "W" * 90, dark)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.axison}
    assert list(panels) == ["Jaccard with the default", "Jaccard with the previous", *result["measures"]]
    for name, values in result["measures"].items():
        dotted, line, marked = panels[name].lines
        assert list(line.get_ydata()) == values
        assert (list(marked.get_xdata()), list(marked.get_ydata())) == ([2], [values[2]])
        assert dotted.get_ydata()[0] == result["measures_default"][name]
    for axes in panels.values():
        labels = [label.get_window_extent() for label in axes.get_xticklabels()]
        assert "0.1" in [label.get_text() for label in axes.get_xticklabels()]
        assert all(one.x1 < other.x0 for one, other in pairwise(labels))
    boxes_inside(figure)


def test_draw_sweep_of_names(rows):
    parts = ["none", "prompt", "both"]
    result = sweep(rows, IterIT(quality="ifd"), {"diversity": parts}, size=6)["diversity"]
    figure = draw_sweep(result)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == parts
    offsets = figure.axes[0].collections[-1].get_offsets()
    assert np.asarray(offsets)[:, 0].tolist() == result["jaccard_default"]
    boxes_inside(figure)
    scores = sweep(rows, Top(by="ifd"), {"by": [Length("words"), "ifd"]}, size=6)["by"]
    assert [label.get_text() for label in draw_sweep(scores).axes[0].get_yticklabels()] == ["length", "ifd"]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_draw_ablation(rows, count):
    result = ablation(rows, {f"{index} {'W' * 60}": Top(by="ifd") for index in range(count)}, size=3)
    figure = draw_ablation(result, "Parts", dark=count == 2)
    assert [label.get_text()[0] for label in figure.axes[0].get_yticklabels()] == [
        str(index) for index in range(count)
    ]
    assert [axes.get_title(loc="left") for axes in figure.axes][:2] == ["Jaccard with the first", "mean ifd"]
    boxes_inside(figure)
    draw_ablation({**result, "measures": {}})
