import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.sparse import csr_matrix

from hf_datasel.errors import Interrupted, SelectionError
from hf_datasel.strategies.information_gain import Phi, information_gain, label_graph, propagation_matrix


def slow(labels, quality, budget, similarities=None, weight=1.0, phi=lambda x: 0.8 * (x + 1e-6) ** -0.2, norm=False):
    """Every gain anew at each step, with dense matrices: rows, and the gain of each when it was selected."""
    n_labels = labels.shape[1]
    spread = np.eye(n_labels)
    if similarities is not None:
        spread = similarities * np.where(np.eye(n_labels, dtype=bool), 1, weight)
        spread = spread / spread.sum(axis=0)
    brings = labels * quality[:, None]
    if norm:
        brings = brings / np.maximum(labels.sum(axis=1, keepdims=True), 1)
    brings = brings @ spread
    total, selected, gains = np.zeros(n_labels), [], []
    for _ in range(budget):
        gain = brings @ phi(total)
        gain[selected] = -np.inf
        gain[np.isnan(quality)] = -np.inf
        selected.append(int(gain.argmax()))
        gains.append(gain.max())
        total = total + brings[selected[-1]]
    return selected, gains


def instance(seed, n_rows=60, n_labels=12):
    rng = np.random.default_rng(seed)
    labels = (rng.random((n_rows, n_labels)) < 0.25).astype(float)
    quality = rng.gamma(2.0, 1.0, n_rows)
    quality[rng.random(n_rows) < 0.1] = np.nan
    vectors = rng.normal(size=(n_labels, 3))
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarities = np.where(units @ units.T >= 0.5, units @ units.T, 0)
    return labels, quality, vectors, similarities


@pytest.mark.parametrize(
    ("settings", "phi"),
    [
        ({}, Phi()),
        ({"weight": 0.3}, Phi(b=0.5, a=1e-3)),
        ({"norm": True}, Phi("exp", alpha=0.4)),
    ],
)
@pytest.mark.parametrize("seed", range(4))
def test_rows_are_those_of_the_slow_greedy(seed, settings, phi):
    labels, quality, vectors, similarities = instance(seed)
    budget = int(np.count_nonzero(~np.isnan(quality)))
    slopes = {"pow": lambda x: phi.b * (x + phi.a) ** (phi.b - 1), "exp": lambda x: phi.alpha * np.exp(-phi.alpha * x)}
    expected, gains = slow(labels, quality, budget, similarities, phi=slopes[phi.type], **settings)
    matrix = propagation_matrix(label_graph(vectors, 0.5), settings.get("weight", 1.0))
    norm = settings.get("norm", False)
    rows = information_gain(csr_matrix(labels), quality, budget, matrix, phi, norm)
    positive = int(np.count_nonzero(np.array(gains) > 0))
    assert rows[:positive].tolist() == expected[:positive]
    assert sorted(rows.tolist()) == sorted(expected)
    assert information_gain(csr_matrix(labels), quality, 9, matrix, phi, norm).tolist() == expected[:9]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sets(st.integers(0, 4), max_size=3), st.sampled_from([0.0, 0.5, 1.0, 2.0, None])), max_size=14
    )
)
def test_ties_are_in_row_order(rows):
    labels = np.array([[label in row for label in range(5)] for row, _ in rows], dtype=float).reshape(-1, 5)
    quality = np.array([np.nan if value is None else value for _, value in rows], dtype=float)
    budget = int(np.count_nonzero(~np.isnan(quality)))
    found = information_gain(csr_matrix(labels), quality, budget).tolist()
    total, expected = np.zeros(5), []
    for _ in range(budget):  # left to right, as the terms of a row are added
        slopes = 0.8 * (total + 1e-6) ** (0.8 - 1)
        gains = [
            -np.inf if row in expected or np.isnan(quality[row]) else quality[row] * sum(slopes[labels[row] == 1], 0.0)
            for row in range(len(rows))
        ]
        expected.append(int(np.argmax(gains)))
        total = total + labels[expected[-1]] * quality[expected[-1]]
    assert found == expected


def test_gains_never_increase():
    labels, quality, vectors, similarities = instance(11)
    rows = information_gain(csr_matrix(labels), quality, 30, propagation_matrix(label_graph(vectors, 0.5)))
    spread = similarities / similarities.sum(axis=0)
    brings = np.nan_to_num(labels * quality[:, None]) @ spread
    total, before = np.zeros(labels.shape[1]), np.full(len(labels), np.inf)
    for row in rows:
        gains = brings @ (0.8 * (total + 1e-6) ** -0.2)
        assert (gains <= before + 1e-9).all()
        gains[rows[: rows.tolist().index(row)]] = -1
        assert gains[row] == pytest.approx(gains.max())
        total, before = total + brings[row], brings @ (0.8 * (total + 1e-6) ** -0.2)


def test_similar_labels_share_information():
    labels = csr_matrix(np.eye(3))
    vectors = [[1.0, 0.0], [1.0, 0.01], [0.0, 1.0]]
    quality = [1.0, 0.9, 0.8]
    assert information_gain(labels, quality, 3).tolist() == [0, 1, 2]
    matrix = propagation_matrix(label_graph(vectors, 0.9))
    assert information_gain(labels, quality, 3, matrix).tolist() == [0, 2, 1]
    assert information_gain(labels, quality, 3, propagation_matrix(label_graph(vectors), 0)).tolist() == [0, 1, 2]


def test_graph_of_labels_without_vectors():
    graph = label_graph([[1.0, 0.0], [0.0, 0.0], [np.nan, 1.0], [1.0, 0.0]], 0.9).toarray()
    assert graph.tolist() == [[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 1]]
    assert label_graph(np.empty((0, 2))).shape == (0, 0)


def test_progress_and_interrupt():
    def stop(done):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"^2 rows had been") as caught:
        information_gain(csr_matrix(np.eye(4)), [1.0, 2.0, 3.0, 4.0], 4, progress=stop)
    assert caught.value.selected.tolist() == [3, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quality": [1.0, -1.0]}, r"the first is -1\.0 at position 1\)"),
        ({"quality": [1.0]}, r"one number for each of the 2 rows, but has shape \(1,\)"),
        ({"budget": 3}, "budget=3 is more than the 2 rows that can be selected"),
        ({"labels": csr_matrix([[2.0, 0.0], [0.0, 1.0]])}, "a row has a label, or has not"),
        ({"propagation": csr_matrix(np.eye(3))}, r"propagation has shape \(3, 3\), and there are 2 labels"),
        ({"propagation": csr_matrix([[1.0, -0.5], [0.0, 1.0]])}, "finite numbers >= 0"),
    ],
)
def test_errors(arguments, message):
    given = {"labels": csr_matrix(np.eye(2)), "quality": [1.0, 2.0], "budget": 1, **arguments}
    with pytest.raises(SelectionError, match=message):
        information_gain(**given)


@pytest.mark.parametrize("numbers", [{"b": 1.5}, {"a": 0.0}, {"alpha": -1.0}, {"b": float("nan")}, {"a": np.inf}])
def test_functions_that_are_not_concave(numbers):
    with pytest.raises(SelectionError, match="gains could increase"):
        Phi(**numbers)
