import pickle

import numpy as np
import pytest

from hf_datasel import score, select
from hf_datasel.errors import ConfigError, Interrupted, ScoreError, SelectionError, ShortfallError
from hf_datasel.rounds.selector import Selector
from hf_datasel.scores import Length
from hf_datasel.selection.budget import TokenBudget, select_within_tokens
from hf_datasel.selectors import All, Random, Superfiltering, Top, within_clusters

TOKENS = [40, 10, 25, 5, 60, 30, 15, 20, 35, 50, 45, 10]


@pytest.fixture
def counted(pool_rows):
    data = pool_rows.select(range(12)).add_column("num_tokens", TOKENS)
    return data.add_column("ifd", [0.1 * (7 * row % 12) for row in range(12)]).add_column("cluster_id", [0, 1, 2] * 4)


def tokens_of(rows):
    return sum(TOKENS[row] for row in rows)


@pytest.mark.parametrize("tokens", [50, 51, 100, 200, 344, 345, 10_000])
def test_nested_selection_is_truncated(counted, tokens):
    order = select(counted, Top(by="ifd"), size=12).indices.tolist()
    expected = [row for index, row in enumerate(order) if tokens_of(order[: index + 1]) <= tokens]
    selected = select(counted, Top(by="ifd"), tokens=tokens)
    assert selected.indices.tolist() == expected
    assert selected.provenance["tokens"] == {
        "budget": tokens,
        "selected": tokens_of(expected),
        "read_from_column": True,
    }
    assert selected.provenance["budget"] == len(expected)
    assert selected.provenance["shortfall"] == 0


@pytest.mark.parametrize("tokens", [60, 123, 200, 344, 345])
def test_selection_is_the_largest_that_fits(counted, tokens):
    selector = within_clusters(Top(by="ifd"))
    rows = select(counted, selector, tokens=tokens).indices
    assert tokens_of(rows) <= tokens
    assert rows.tolist() == select(counted, selector, size=len(rows)).indices.tolist()
    if len(rows) < 12:
        assert tokens_of(select(counted, selector, size=len(rows) + 1).indices) > tokens


def test_tokens_are_counted_as_in_training(counted, tiny_model_dir):
    lengths = score(counted, [Length("tokens")], model=str(tiny_model_dir), overwrite=True)["num_tokens"][:]
    half = sum(lengths) // 2
    selected = select(counted, Random(), tokens=half, model=str(tiny_model_dir))
    total = sum(lengths[row] for row in selected.indices)
    assert 0 < total <= half
    assert selected.provenance["tokens"] == {"budget": half, "selected": total, "read_from_column": False}
    assert [spec["score"] for spec in selected.provenance["scores"]] == ["length"]
    assert selected.provenance["model"]["name"] == str(tiny_model_dir)
    assert selected.indices.tolist() == select(counted, Random(), size=len(selected.indices)).indices.tolist()


def test_score_is_computed_once(counted, tiny_model_dir, monkeypatch):
    calls = []
    compute = Length.compute
    monkeypatch.setattr(Length, "compute", lambda *args: calls.append(1) or compute(*args))
    select(counted, within_clusters(Top(by=Length())), tokens=100)
    assert len(calls) == 1


def test_needs_tokenizer_or_column(counted):
    with pytest.raises(ScoreError, match="A budget of tokens needs a tokenizer to count with, or the column"):
        select(counted.remove_columns("num_tokens"), Random(), tokens=100)


@pytest.mark.parametrize("tokens", [0, -3, 0.5, True, "100"])
def test_invalid_tokens(counted, tokens):
    with pytest.raises(ConfigError, match="has to be a number of tokens, an int of at least 1"):
        select(counted, Random(), tokens=tokens)


def test_tokens_and_size_are_refused(counted):
    with pytest.raises(ConfigError, match=r"tokens=100 beside size=3 and ratio=None. Pass one of them"):
        select(counted, Random(), size=3, tokens=100)


def test_budget_below_shortest_row(counted):
    with pytest.raises(SelectionError, match=r"tokens=4 is less than the shortest row that can be selected has \(5\)"):
        select(counted, Random(), tokens=4)


def test_budget_below_first_row(counted):
    with pytest.raises(SelectionError, match="tokens=6: the first row that is selected has more"):
        select(counted.remove_columns("ifd").add_column("ifd", TOKENS), Top(by="ifd"), tokens=6)


def test_missing_token_counts_are_refused(counted):
    data = counted.remove_columns("num_tokens").add_column("num_tokens", [None, *TOKENS[1:]])
    with pytest.raises(SelectionError, match="1 rows that can be selected have no token count"):
        select(data, Random(), tokens=100)


@pytest.mark.parametrize("nested", [True, False])
def test_equals_exhaustive_search(nested):
    rng = np.random.default_rng(0)
    for _ in range(200):
        rows = int(rng.integers(1, 20))
        lengths = rng.integers(1, 30, rows).astype(float)
        order, most = rng.permutation(rows), int(rng.integers(1, rows + 1))
        tokens = int(rng.integers(lengths.min(), lengths.sum() + 2))
        best = [size for size in range(1, most + 1) if lengths[order[:size]].sum() <= tokens]
        budget = TokenBudget(tokens, lengths, np.ones(rows, dtype=bool))
        if best:
            _, rows_selected = select_within_tokens(
                lambda num_rows, order=order, most=most: order[: min(num_rows, most)], budget, nested
            )
            assert rows_selected.tolist() == order[: best[-1]].tolist()
        else:
            with pytest.raises(SelectionError, match="the first row that is selected has more"):
                select_within_tokens(lambda num_rows, order=order: order[:num_rows], budget, nested)


@pytest.mark.parametrize("selector", [Random(), within_clusters(Random())])
def test_token_column_is_recorded(counted, selector):
    assert "num_tokens" in select(counted, selector, tokens=100).provenance["columns_unverified"]


def test_no_selectable_row(counted):
    data = counted.remove_columns("ifd").add_column("ifd", [1.5] * 12)
    with pytest.raises(SelectionError, match=r"None of the 12 rows can be selected \(12 with ifd >= 1\)"):
        select(data, Superfiltering(quality="ifd"), tokens=100)


def test_selector_without_budget_is_refused(counted):
    with pytest.raises(SelectionError, match=r"All always selects the same rows and ignores .*: do not pass tokens"):
        select(counted, All(), tokens=100)


class Stopped(Selector):
    def select(self, context):
        raise Interrupted(np.array([4, 2]))


def test_interruption_keeps_selected_rows(counted, tmp_path):
    with pytest.raises(Interrupted, match="2 rows had been selected") as stop:
        select(counted, Stopped(), size=5)
    selection = stop.value.selection
    assert selection.apply(counted)["num_tokens"][:] == [TOKENS[4], TOKENS[2]]
    assert selection.provenance["interrupted"] is True
    assert (selection.provenance["budget"], selection.provenance["shortfall"]) == (5, 3)
    selection.save(tmp_path)


def test_interruption_with_token_budget(counted):
    with pytest.raises(Interrupted, match="1 rows had been selected") as stop:
        select(counted, Stopped(), tokens=70)
    assert stop.value.selection.indices.tolist() == [4]  # 60 tokens; the next row has 25
    assert stop.value.selection.provenance["tokens"]["budget"] == 70


@pytest.mark.parametrize("error", [ShortfallError("too few", np.array([3, 1])), Interrupted(np.array([3, 1]))])
def test_interruption_is_picklable(error):
    restored = pickle.loads(pickle.dumps(error))
    assert (type(restored), str(restored), restored.selected.tolist()) == (type(error), str(error), [3, 1])
