from itertools import combinations

import matplotlib
import numpy as np
import pytest

from hf_datasel.analysis import PlottedMethod, plot_cost, plot_forest
from hf_datasel.errors import ConfigError

from .test_draw import texts

METHODS = {
    "iterit": PlottedMethod([68.0, 70.0], {"easy": [80.0, 82.0], "loss": [1.1, 1.2]}, (39.4, 45.4),
                            {"easy": (-1.0, 6.0), "loss": (-0.4, -0.2)}, [2.6, 2.6]),
    "random": PlottedMethod([25.0, 26.0, 30.0], {"easy": [78.0, 79.0, 80.0], "loss": [1.4, 1.5, 1.6]},
                            costs=[1, 1, 1]),
    "longest": PlottedMethod([0.0, 0.5], {"easy": [79.0, 78.0], "loss": []}, (-29.0, -23.0), {"easy": (-3.0, 3.0)},
                             [1, 1]),
    "all": PlottedMethod([26.0], {"easy": [77.0], "loss": [1.5]}, costs=[1.5]),
}  # fmt: skip


def marks(ax):
    """Return the positions of the dots in an Axes by the shape that they have."""
    names = {}
    for dots in ax.collections:
        shape = next(name for name in "o^vDs" if np.array_equal(_path(name).vertices, dots.get_paths()[0].vertices))
        names.setdefault(shape, []).extend(dots.get_offsets().tolist())
    return names


def _path(marker):
    style = matplotlib.markers.MarkerStyle(marker)
    return style.get_path().transformed(style.get_transform())


# -- forest -----------------------------------------------------------------------------------------------------------
def test_panels_and_rows_of_the_forest():
    figure = plot_forest(METHODS, whole_pool="all", lower_is_better=["loss"], title="Runs")
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["average", "easy", "loss"]
    assert [ax.get_xlabel() for ax in figure.axes] == ["better →", "better →", "← better"]
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert rows == ["random", "iterit", "longest", "all"], "the control comes first"


def test_runs_are_marked_by_what_their_interval_says():
    figure = plot_forest(METHODS, whole_pool="all", lower_is_better=["loss"])
    average, easy, loss = (marks(ax) for ax in figure.axes)
    assert average["^"] == [[68.0, 1.0], [70.0, 1.0]]
    assert average["v"] == [[0.0, 2.0], [0.5, 2.0]]
    assert average["s"] == [[25.0, 0.0], [26.0, 0.0], [30.0, 0.0]], "the control"
    assert average["D"] == [[26.0, 3.0]], "one run has no interval"
    assert easy.keys() == {"s", "o", "D"}, "both intervals contain 0"
    assert loss["^"] == [[1.1, 1.0], [1.2, 1.0]], "a lower loss is better"
    assert {"better than random", "worse than random", "no difference seen", "not compared"} <= set(texts(figure))


def test_intervals_lie_around_the_mean_of_the_control():
    ax = plot_forest(METHODS).axes[0]
    bars = {line.get_ydata()[0]: line.get_xdata() for line in ax.lines if line.get_linewidth() == 5}
    assert bars[1] == pytest.approx([27 + 39.4, 27 + 45.4])
    assert bars[2] == pytest.approx([27 - 29, 27 - 23])
    assert bars.keys() == {1, 2}, "one run has no interval"


def test_whole_pool_is_a_line():
    with_line, without = (plot_forest(METHODS, whole_pool=name).axes[0] for name in ("all", None))
    assert len(with_line.lines) == len(without.lines) + 1
    assert 26.0 in [line.get_xdata()[0] for line in with_line.lines]


def test_missing_runs_are_named():
    figure = plot_forest(METHODS)
    loss = figure.axes[2]
    assert [text.get_text() for text in loss.texts] == ["no run"]
    assert loss.texts[0].get_position()[1] == 2, "in the row of the method"


def test_forest_without_primary_results_or_intervals():
    figure = plot_forest({"random": PlottedMethod(tasks={"a": [1.0]}), "x": PlottedMethod(tasks={"a": [1.1]})})
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["a"]
    assert "no difference seen" not in texts(figure), "nothing was compared"


def test_large_forest_does_not_overlap():
    rng = np.random.default_rng(0)
    tasks = [f"a task with a long name, number {index}" for index in range(8)]
    methods = {
        f"a method with a long name, number {index}": PlottedMethod(
            tasks={task: rng.normal(50, 3, 3) for task in tasks}, task_intervals=dict.fromkeys(tasks, (-3.0, 3.0))
        )
        for index in range(12)
    }
    figure = plot_forest(methods, control=next(iter(methods)), title="Large")
    boxes = [ax.get_tightbbox() for ax in figure.axes] + [figure.legends[0].get_window_extent()]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"control": "randon"}, r"'randon' is none of the methods 'iterit', .* Did you mean 'random'\?"),
        ({"whole_pool": "pool"}, "'pool' is none of the methods"),
        ({"lower_is_better": ["los"]}, r"lower_is_better names \['los'\]"),
    ],
)
def test_unknown_names_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        plot_forest(METHODS, **arguments)


def test_forest_without_results():
    with pytest.raises(ConfigError, match="no method has a result"):
        plot_forest({"random": PlottedMethod()})


# -- cost -------------------------------------------------------------------------------------------------------------
def names_of(figure):
    """Return the boxes of the names in a plot of costs."""
    return {item.get_text(): item.get_window_extent() for item in figure.axes[0].texts}


def test_costs_are_relative_to_the_control():
    methods = {name: PlottedMethod(item.values, costs=4e15 * np.array(item.costs)) for name, item in METHODS.items()}
    figure = plot_cost(methods)
    means = {
        tuple(np.round(dots.get_offsets()[0], 3))
        for dots in figure.axes[0].collections
        if len(dots.get_offsets()) == 1
    }
    assert {(2.6, 69.0), (1.0, 27.0), (1.0, 0.25), (1.5, 26.0)} <= means
    assert names_of(figure).keys() == set(METHODS)
    assert figure.axes[0].get_xscale() == "log"


def test_cost_matched_control_is_a_line():
    methods = METHODS | {"random, longer": PlottedMethod([33.0, 35.0], costs=[2.5, 2.7])}
    line = plot_cost(methods, cost_matched=["random, longer"]).axes[0].lines[0]
    assert line.get_xydata() == pytest.approx(np.array([[1.0, 27.0], [2.6, 34.0]]))


def test_names_do_not_overlap():
    rng = np.random.default_rng(0)
    methods = {
        f"method with a name {index}": PlottedMethod(rng.normal(50, 0.3, 3), costs=rng.normal(1, 0.02, 3))
        for index in range(12)
    }
    far = PlottedMethod([70.0], costs=[40.0])
    figure = plot_cost(methods | {"random": PlottedMethod([50.0], costs=[1.0]), "far": far})
    boxes = names_of(figure)
    assert len(boxes) == 14
    assert not [pair for pair in combinations(boxes, 2) if boxes[pair[0]].overlaps(boxes[pair[1]])]
    area = figure.axes[0].bbox
    assert all(area.x0 <= box.x0 and box.x1 <= area.x1 for box in boxes.values())


def test_methods_without_costs_are_named():
    figure = plot_cost(METHODS | {"deita": PlottedMethod([40.0])}, primary="bits per byte", lower_is_better=True)
    assert "No cost recorded: deita" in texts(figure)
    assert figure.axes[0].get_ylabel() == "bits per byte (lower is better)"
    assert "deita" not in names_of(figure)


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"random": PlottedMethod([1.0])}, "the control 'random' has no run with a cost"),
        ({"random": PlottedMethod([1.0, 2.0], costs=[1.0])}, "'random' has 2 results and 1 costs"),
        ({"random": PlottedMethod([1.0], costs=[0.0])}, "'random' has a run that costs 0"),
        ({"x": PlottedMethod([1.0], costs=[1.0])}, "'random' is none of the methods"),
    ],
)
def test_invalid_costs(methods, message):
    with pytest.raises(ConfigError, match=message):
        plot_cost(methods)


@pytest.mark.parametrize("draw", [plot_forest, plot_cost])
def test_style_of_the_plots(draw):
    light, dark = draw(METHODS), draw(METHODS, dark=True)
    assert [matplotlib.colors.to_hex(figure.get_facecolor()) for figure in (light, dark)] == ["#ffffff", "#0b0f19"]
    odd = {"random": METHODS["random"], "$x^2$ 日本 " + "y" * 300: METHODS["iterit"]}
    assert any(text.startswith("$x^2$ □□ y") and text.endswith("…") for text in texts(draw(odd)))
