import json

import numpy as np
import pytest

from hf_datasel import Selection, select
from hf_datasel.errors import ConfigError, Interrupted, SelectionError
from hf_datasel.formats import Pool
from hf_datasel.rounds.cache import RoundCache
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.run import run_selector
from hf_datasel.scores import Embedding, Loss
from hf_datasel.scoring.engine import Engine
from hf_datasel.selection import explain
from hf_datasel.selectors import DiverseEvol, KCenter, get_selector
from hf_datasel.strategies.farthest import farthest_first
from hf_datasel.testing import contract


@contract(
    DiverseEvol(rounds=3),
    DiverseEvol(rounds=2, once=True, restart_each_round=False),
    DiverseEvol("embedding", rounds=3),
    DiverseEvol("embedding", once=True, rounds=2),
)
def test_contract(check, selector, full, tiny_model_dir):
    check(selector, full.select(range(8)), tiny_model_dir)


@pytest.fixture
def play(pool_rows):
    """Give a function that plays rounds by hand, the model of each by its folder, and returns the selections."""
    pool = Pool(pool_rows)

    def play(selector, budget, models, seed=0, eligible=None, budgets=None):
        usable = np.ones(len(pool), dtype=bool) if eligible is None else eligible
        plan = selector.plan(budget, 1.0, len(pool))
        choices, state, selected = [], {}, np.empty(0, dtype=np.int64)
        for index, (each, model) in enumerate(zip(plan, models, strict=True)):
            rows = each.budget if budgets is None else budgets[index]
            compute = Engine(pool, str(model)).compute
            context = RoundContext(
                RoundCache(pool, compute),
                budget=rows,
                index=index,
                eligible=usable,
                seed=seed,
                selected=selected,
                state=state,
                plan=plan,
            )
            choices.append(run_selector(selector, context))
            selected = np.array(list(dict.fromkeys([*selected, *choices[-1]])), dtype=np.int64)
        return choices

    return play


def plainly(vectors, start, rows, able, once):
    """Take the farthest row from all taken before, or from the start alone, one by one."""
    taken = list(start)
    for _ in range(rows):
        held = start if once else taken
        left = [row for row in able if row not in taken]
        apart = [min(np.square(vectors[row] - vectors[each]).sum() for each in held) for row in left]
        taken.append(left[int(np.argmax(apart))])
    return taken


@pytest.mark.parametrize("once", [False, True])
def test_each_round_goes_by_the_vectors_of_its_model(play, pool_rows, tiny_model_dir, other_model_dir, once):
    able = np.arange(24) % 5 != 0
    models = [tiny_model_dir, other_model_dir, tiny_model_dir]
    first, second, third = play(DiverseEvol(rounds=3, once=once), 14, models, seed=4, eligible=able)
    assert [len(first), len(second), len(third)] == [4, 9, 14]
    rows = np.flatnonzero(able)
    assert first.tolist() == rows[np.random.default_rng([4, 0]).permutation(len(rows))[:4]].tolist()
    seen = {}
    for model in set(models):
        score = Embedding(as_trained=True, normalize=False)
        found = Engine(Pool(pool_rows), str(model)).compute(score, None)["embedding"]
        seen[model] = np.array(found.to_pylist(), dtype=np.float64)
    assert second.tolist() == plainly(seen[other_model_dir], first.tolist(), 5, rows, once)
    assert third.tolist() == plainly(seen[tiny_model_dir], second.tolist(), 5, rows, once)
    assert third.tolist() != plainly(seen[other_model_dir], second.tolist(), 5, rows, once), (
        "the models differ in this"
    )


@pytest.fixture(scope="module")
def other_model_dir(tiny_model_dir, tmp_path_factory):
    """Give the folder of the tiny model with other weights, as after training."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("other_model")
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for weight in model.parameters():
            weight += 0.2 * torch.randn_like(weight)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(folder)
    return folder


def test_the_first_round_runs_no_model(play, monkeypatch, tiny_model_dir):
    monkeypatch.setattr(Engine, "compute", lambda *_: pytest.fail("a score was computed"))
    [first] = play(DiverseEvol(rounds=1), 5, [tiny_model_dir])
    assert len(first) == 5


def columns_played(selector, data, budget, make_round, seed=0):
    """Play all rounds over a column of vectors; returns the last selection."""
    selected = np.empty(0, dtype=np.int64)
    for index, each in enumerate(selector.plan(budget, 1.0, len(data))):
        context = make_round(data, each.budget, index, seed)
        context.selected = selected
        selected = run_selector(selector, context)
    return selected


@pytest.mark.parametrize("rounds", [2, 3, 5])
def test_one_at_a_time_the_rounds_make_no_difference_to_vectors_that_stay(gaps, make_round, rounds):
    able = np.array([row for row in range(12) if row not in (2, 8)])
    vectors = np.array([gaps["embedding"][int(row)] for row in able])
    first = np.random.default_rng([5, 0]).permutation(10)[: 8 // rounds]
    selected = columns_played(DiverseEvol("embedding", rounds=rounds), gaps, 8, make_round, seed=5)
    assert selected.tolist() == [*able[first], *able[farthest_first(vectors, 8 - len(first), first)]]
    assert selected.tolist() == select(gaps, KCenter(start=8 // rounds), size=8, seed=5).indices.tolist()


def test_budget_above_remaining_rows(gaps, make_round):
    selected = columns_played(DiverseEvol("embedding", rounds=3), gaps, 12, make_round)
    assert sorted(selected.tolist()) == [row for row in range(12) if row not in (2, 8)]


def test_rows_of_a_schedule(play, tiny_model_dir):
    choices = play(DiverseEvol(rounds=4), 8, [tiny_model_dir] * 4, budgets=[3, 3, 10, 6])
    assert [len(each) for each in choices] == [3, 3, 10, 6]
    assert choices[1].tolist() == choices[0].tolist() == choices[2][:3].tolist()
    assert choices[3].tolist() == choices[2][:6].tolist(), "a smaller round keeps the rows selected first"


def test_a_selected_row_without_a_vector_is_near_to_nothing(full, make_round):
    data = full.remove_columns("embedding").add_column(
        "embedding", [None if row == 3 else value for row, value in enumerate(full["embedding"][:])]
    )
    context = make_round(data, 5, index=1)
    context.selected = np.array([3, 7])
    selected = DiverseEvol("embedding").select(context)
    able = np.array([row for row in range(12) if row != 3])
    vectors = np.array([full["embedding"][int(row)] for row in able])
    assert selected.tolist() == [3, 7, *able[farthest_first(vectors, 3, [6])]]
    context = make_round(data, 5, index=1)
    context.selected = np.array([3])
    with pytest.raises(SelectionError, match="once=True measures distances to start, which has no finite vector"):
        DiverseEvol("embedding", once=True).select(context)


def test_interrupted_with_the_rows_of_all_rounds(full, make_round, stop_at):
    first = DiverseEvol("embedding").select(make_round(full, 3))
    whole = make_round(full, 9, index=1)
    whole.selected = first
    whole = DiverseEvol("embedding").select(whole)
    context = stop_at(make_round(full, 9, index=1), 5)
    context.selected = first
    with pytest.raises(Interrupted, match="5 rows had been selected") as stop:
        DiverseEvol("embedding").select(context)
    assert stop.value.selected.tolist() == whole[:5].tolist()


@pytest.mark.parametrize("once", [False, True])
def test_explained_from_the_record(full, make_round, once):
    selector = DiverseEvol("embedding", once=once)
    first = selector.select(make_round(full, 3))
    context = make_round(full, 8, index=1)
    context.selected = first
    selected = selector.select(context)
    selection = Selection.from_round(context, selector, selected)
    vectors = np.array(full["embedding"][:])

    def decided(row):
        return explain(selection, full, int(row))["decided"]

    def nearest(row, others):
        apart = np.linalg.norm(vectors[others] - vectors[row], axis=1)
        return f"{others[apart.argmin()]}, {apart.min():.4g} away."

    assert decided(first[0]) == ["It was selected in an earlier round."]
    new, left = int(selected[5]), int(np.setdiff1d(np.arange(12), selected)[0])
    kind = "that the selection began with" if once else "selected before it"
    of_new = first if once else selected[:5]
    assert decided(new) == ["It is new in this round.", f"The nearest of the rows {kind} is {nearest(new, of_new)}"]
    kind = "that the selection began with" if once else "selected"
    assert decided(left)[0] == f"The nearest of the rows {kind} is {nearest(left, first if once else selected)}"
    assert decided(left)[1].startswith("The row selected last was")
    drawn = Selection.from_round(make_round(full, 3), selector, first)
    assert explain(drawn, full, int(first[0]))["decided"] == ["The rows of the first round are drawn at random."]


def test_a_recipe_and_the_defaults_of_the_paper():
    made = get_selector("diverse_evol", {"rounds": 3, "once": True})
    assert made == DiverseEvol(rounds=3, once=True)
    spec = json.loads(json.dumps(DiverseEvol().spec()))
    assert spec["vectors"] == {"score": "embedding", "as_trained": True, "normalize": False}
    assert get_selector(spec.pop("selector"), spec) == DiverseEvol()
    plan = DiverseEvol().plan(1100, 3.0, 50_000)
    assert [each.budget for each in plan] == list(range(100, 1101, 100)), "100 at first, and 10 times 100 more"
    assert {each.epochs for each in plan} == {3.0}
    assert [each.restart for each in plan] == [False] + [True] * 10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vectors": None}, r"DiverseEvol\(vectors=None\).*or Embedding"),
        ({"vectors": Loss()}, r"DiverseEvol\(vectors=Loss"),
        ({"rounds": 0}, r"DiverseEvol\(rounds=0\): it has to be an int of at least 1"),
        ({"once": 1}, r"DiverseEvol\(once=1\): it has to be true or false"),
        ({"restart_each_round": None}, r"DiverseEvol\(restart_each_round=None\): it has to be true or false"),
    ],
)
def test_impossible_settings_are_found_at_once(settings, message):
    with pytest.raises(ConfigError, match=message):
        DiverseEvol(**settings)
