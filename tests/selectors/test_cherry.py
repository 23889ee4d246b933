import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_datasel import Selection, score, select
from hf_datasel.cards.build import gather
from hf_datasel.cards.card import card
from hf_datasel.errors import ConfigError, SelectionError
from hf_datasel.formats import Pool
from hf_datasel.rounds.cache import RoundCache
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.run import run_round, run_selector
from hf_datasel.scores import IFD, Cluster, Embedding, Loss
from hf_datasel.scoring.engine import Engine
from hf_datasel.selection.explanation import explain
from hf_datasel.selectors import Cherry, KMRandom, Superfiltering, get_selector
from hf_datasel.selectors.cherry import _even_steps
from hf_datasel.testing import contract
from hf_datasel.tokens import TokenRows

CLUSTERED = Cherry(clusters="cluster_id", warmup_size=4)
FITTED = Cherry(clusters=Cluster(k=3), warmup_size=4)


@contract(CLUSTERED, Cherry(clusters="cluster_id", warmup_size=5, pick="perplexity", ratio="loss"))
def test_contract(check, selector, full, tiny_model_dir):
    check(selector, full, tiny_model_dir)


@pytest.fixture(scope="module")
def clustered(pool_rows):
    """Give the 24 rows in clusters of 12, 8, 3 and 1."""
    return pool_rows.add_column("cluster_id", [0, 1] * 8 + [0, 0, 0, 0, 2, 2, 2, 3])


@pytest.fixture
def play(tiny_model_dir):
    """Give a function that makes a round over a dataset, with a model by name or a live one."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)

    def make(data, budget, index=0, model=None, **more):
        pool = Pool(data)
        eligible = more.pop("eligible", pool.reasons == "")
        engine = Engine(pool, model or str(tiny_model_dir), tokenizer if model else None)
        return RoundContext(
            RoundCache(pool, engine.compute, engine.describe), budget=budget, index=index, eligible=eligible, **more
        )

    return make


def plain_prompt_loss(folder, rows):
    """The mean loss of what stands before the first response, row by row."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    sequences = TokenRows(Pool(rows), tokenizer).training().conditional
    found = []
    for each in sequences.fetch(np.arange(len(sequences))):
        ids = torch.from_numpy(each.ids[: each.scored[0]])[None]
        with torch.no_grad():
            found.append(float(model(input_ids=ids, labels=ids).loss))
    return np.array(found)


def plain_even_steps(values, clusters, wanted, percentiles=(1, 99)):
    """As the published code has it: the rows between two percentiles, every so many of them, in order."""
    found = []
    for cluster in sorted(set(clusters)):
        rows = [row for row in range(len(values)) if clusters[row] == cluster]
        if len(rows) < wanted:
            found += rows
            continue
        low, high = (np.percentile([values[row] for row in rows], share) for share in percentiles)
        middle = [row for row in rows if low <= values[row] <= high]
        found += middle if len(middle) < wanted else middle[:: len(middle) // wanted][:wanted]
    return found


# -- the warm-up -----------------------------------------------------------------------------------------------------
def test_as_many_rows_of_each_cluster_by_the_base_models_ifd(clustered, play, tiny_model_dir):
    ifd = np.array(score(clustered, [IFD()], model=str(tiny_model_dir))["ifd"][:])
    ids = np.array(clustered["cluster_id"][:])
    context = play(clustered, 8)
    selected = run_round(CLUSTERED, context)
    for cluster, wanted in ((0, 2), (1, 2), (2, 2), (3, 1)):
        below = [row for row in np.flatnonzero(ids == cluster) if ifd[row] < 1]
        best = sorted(below, key=lambda row: -ifd[row])
        mine = [row for row in selected if ids[row] == cluster]
        assert len(mine) >= min(wanted, len(best)), "what a small cluster cannot give comes from the others"
        assert set(mine) == set(best[: len(mine)])
    assert len(selected) == 8
    assert set(context.record.scored) >= {"ifd", "loss", "loss_prior", "cluster_id"}


def test_rows_of_one_or_more_or_without_ifd_are_in_no_round(clustered, play, tiny_model_dir):
    ifd = np.array(score(clustered, [IFD()], model=str(tiny_model_dir))["ifd"][:])
    assert (ifd >= 1).any(), "or the test says nothing"
    data = clustered.map(lambda row, at: {"output": "" if at == 3 else row["output"]}, with_indices=True)
    most = int((np.delete(ifd, 3) < 1).sum())
    for index in (0, 1):
        context = play(data, most, index)
        selected = run_round(CLUSTERED, context)
        assert set(selected.tolist()) == set(np.flatnonzero(ifd < 1).tolist()) - {3}
        with pytest.raises(SelectionError, match=rf"{most} of 24 rows .*with ifd >= 1.*1 empty_response"):
            run_round(CLUSTERED, play(data, most + 1, index))


@pytest.mark.parametrize("warmup_size", [4, 7, 12, 23, 24])
@pytest.mark.parametrize("data", ["clustered", "pool_rows"])
def test_a_warm_up_by_perplexity_has_exactly_its_size(request, play, data, warmup_size):
    clusters = "cluster_id" if data == "clustered" else Cluster(k=3)
    selector = Cherry(clusters=clusters, pick="perplexity", warmup_size=warmup_size)
    rows = request.getfixturevalue(data)
    budget = selector.plan(2, 1.0, 24)[0].budget
    assert budget == warmup_size
    assert len(set(run_round(selector, play(rows, budget)).tolist())) == warmup_size


def test_even_steps_through_the_prompts_by_perplexity(clustered, play, tiny_model_dir):
    data = clustered.select(range(16))
    loss = plain_prompt_loss(tiny_model_dir, data)
    context = play(data, 6)
    selected = run_round(Cherry(clusters="cluster_id", pick="perplexity"), context)
    np.testing.assert_allclose(context.record.scored["loss_prompt"][1].to_numpy(), loss, rtol=1e-5)
    ids = data["cluster_id"][:]
    assert sorted(selected.tolist()) == sorted(plain_even_steps(np.exp(loss), ids, 3))
    assert sorted(np.bincount(np.array(ids)[selected]).tolist()) == [3, 3]


@pytest.mark.parametrize("percentiles", [(1, 99), (25, 75), (0, 100), (30.5, 40)])
def test_even_steps_are_those_of_a_plain_version(percentiles):
    rng = np.random.default_rng(0)
    for _ in range(200):
        clusters, wanted = int(rng.integers(1, 6)), int(rng.integers(1, 8))
        ids = np.repeat(np.arange(clusters), rng.integers(10 * wanted + 10, 100, clusters))
        values = rng.integers(0, 5, len(ids)).astype(float) if rng.random() < 0.3 else rng.normal(size=len(ids))
        order = rng.permutation(len(ids))
        ids, values = ids[order], values[order]
        expected = plain_even_steps(values, ids.tolist(), wanted, percentiles)
        if len(expected) < wanted * clusters:
            continue  # the published code takes fewer there
        found = _even_steps(values, ids, wanted * clusters, percentiles)
        assert sorted(found.tolist()) == sorted(expected)


def test_the_percentiles_are_a_setting(play, pool_rows):
    data = pool_rows.add_column("cluster_id", [0, 1] * 12)
    settings = {"clusters": "cluster_id", "pick": "perplexity"}
    context = play(data, 6)
    selected = run_round(Cherry(**settings, percentiles=[25, 75]), context)
    loss = context.record.scored["loss_prompt"][1].to_numpy()
    assert sorted(selected.tolist()) == sorted(plain_even_steps(loss, data["cluster_id"][:], 3, (25, 75)))
    assert sorted(selected.tolist()) != sorted(run_round(Cherry(**settings), play(data, 6)).tolist())


def test_even_steps_random_rows():
    rng = np.random.default_rng(1)
    for _ in range(200):
        n = int(rng.integers(1, 30))
        ids, values = rng.integers(-1, 5, n), rng.integers(0, 4, n).astype(float)
        values[rng.random(n) < 0.2] = np.nan
        can = np.isfinite(values) & (ids >= 0)
        given = values.copy()
        for budget in {0, int(can.any()), int(can.sum()) // 2, int(can.sum())}:
            found = _even_steps(values, ids, budget)
            assert len(set(found.tolist())) == len(found) == budget
            assert can[found].all()
            taken = np.bincount(ids[found], minlength=5)
            left = np.bincount(ids[can], minlength=5) > taken
            assert not left.any() or taken[left].min() >= taken.max() - 1, "equal, but for clusters that are used up"
        assert np.array_equal(values, given, equal_nan=True)


def test_clusters_are_those_of_the_base_models_states_of_the_instruction(pool_rows, play):
    embedding = Embedding(part="prompt", normalize=False)
    assert FITTED.vectors == embedding
    context = play(pool_rows, 4)
    run_round(FITTED, context)
    alone = play(pool_rows, 4)
    ids, _ = alone.clusters(Cluster(k=3), embedding)
    assert context.record.scored["cluster_id"][1].to_pylist() == ids.tolist()


def test_the_page_of_clusters_that_were_found_here(pool_rows, play):
    rounds = [play(pool_rows, 4), play(pool_rows, 5, 1)]
    found = [Selection.from_round(each, FITTED, run_round(FITTED, each)) for each in rounds]
    text = card(gather(found, pool_rows, title="x"))
    assert "| `clusters` | `cluster (k=3)` |" in text
    assert "{'" not in text


# -- the selection ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("convention", ["sft", "cherry"])
def test_second_round_is_superfiltering(clustered, play, later_model, tiny_model_dir, convention):
    selector = Cherry(clusters="cluster_id", convention=convention)
    second = play(clustered, 5, 1, later_model, selected=np.array([1, 2]))
    selected = run_selector(selector, second)
    alone = Superfiltering(convention=convention)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    assert (
        selected.tolist()
        == select(clustered, alone, size=5, model=later_model, processing_class=tokenizer).indices.tolist()
    )
    assert selected.tolist() != select(clustered, alone, size=5, model=str(tiny_model_dir)).indices.tolist()
    assert [spec["convention"] for spec in second.record.score_specs] == [convention]
    assert not second.record.columns_used, "clusters are no matter any more"


def test_losses_may_be_divided_instead(clustered, play, later_model, tiny_model_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    ratio = score(clustered, [IFD(ratio="loss")], model=later_model, processing_class=tokenizer)["ifd_loss_ratio"][:]
    below = np.where(np.array(ratio) < 1, ratio, -1)
    context = play(clustered, 5, 1, later_model)
    selected = run_selector(Cherry(clusters="cluster_id", ratio="loss"), context)
    assert selected.tolist() == np.argsort(-below, kind="stable")[:5].tolist()
    assert "with ifd_loss_ratio >= 1" in context.record.exclusions


def test_rows_of_the_warm_up_may_be_selected_again(clustered, play):
    first = run_round(CLUSTERED, play(clustered, 8))
    assert set(first.tolist()) & set(run_selector(CLUSTERED, play(clustered, 12, 1, selected=first)).tolist())


def test_both_rounds_can_be_explained_and_shown(clustered, play, later_model, tiny_model_dir):
    selector = Cherry(clusters="cluster_id", pick="perplexity", warmup_size=6)
    rounds = [play(clustered, 6), play(clustered, 4, 1, later_model)]
    found = [Selection.from_round(each, selector, run_round(selector, each)) for each in rounds]
    [warm_up, choice] = [explain(each, clustered, int(each.indices[0]))["decided"] for each in found]
    assert warm_up[0] == "These are the rows of the warm-up."
    assert "were selected: at equal intervals among those whose prompt" in warm_up[1]
    assert choice[0].startswith("Of the ")
    by_ifd = Selection.from_round(rounds[0], CLUSTERED, run_round(CLUSTERED, rounds[0]))
    said = explain(by_ifd, clustered, int(by_ifd.indices[0]))["decided"]
    assert "were selected: those with the highest ifd below 1" in said[1]
    facts = gather(found, clustered, title="x")
    assert facts["method"]["name"] == "Cherry"
    assert "li2024quantity" in facts["method"]["citation"]
    assert facts["sections"]["reproduce"]["recipe"]["selector_kwargs"]["pick"] == "perplexity"
    text = card(facts)
    assert "**Cherry.** Rows with the highest IFD" in text
    assert "None" not in text
    assert "{'" not in text
    assert [next(iter(each["means"])) for each in facts["rounds"]] == ["loss_prompt", "ifd"]


# -- settings --------------------------------------------------------------------------------------------------------
def test_by_name_and_back():
    settings = {"warmup_size": 50, "clusters": {"score": "cluster", "k": 10}, "vectors": "v", "ratio": "loss"}
    assert get_selector("cherry", {"pick": "perplexity", "percentiles": [25, 75]}).percentiles == (25, 75)
    made = get_selector("cherry", settings)
    assert made == Cherry(warmup_size=50, clusters=Cluster(k=10), vectors="v", ratio="loss")
    spec = json.loads(json.dumps(made.spec()))
    assert get_selector(spec.pop("selector"), spec) == made


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"warmup_size": 0}, r"Cherry\(warmup_size=0\): it has to be an int of at least 1"),
        ({"warmup_size": 10.0}, r"Cherry\(warmup_size=10\.0\)"),
        ({"pick": "ppl"}, r"Cherry\(pick='ppl'\): it has to be 'ifd' or 'perplexity'"),
        ({"percentiles": 5}, r"Cherry\(percentiles=5\): it has to be two numbers from 0 to 100, the lower one first"),
        ({"percentiles": (75, 25)}, r"Cherry\(percentiles=\(75, 25\)\): it has to be two numbers"),
        ({"percentiles": (0, 101)}, r"Cherry\(percentiles=\(0, 101\)\): it has to be two numbers"),
        ({"percentiles": ("1", "2")}, r"Cherry\(percentiles=\('1', '2'\)\): it has to be two numbers"),
        ({"percentiles": (25, 75)}, r"Cherry\(percentiles=\(25, 75\)\): these are of pick='perplexity'"),
        ({"convention": "chery"}, "Did you mean 'cherry'"),
        ({"ratio": "losses"}, "Did you mean 'loss'"),
        ({"clusters": Loss()}, r"Cherry\(clusters=Loss.*Cluster\(\.\.\.\)"),
        ({"vectors": Loss()}, r"Cherry\(vectors=Loss.*Embedding\(\.\.\.\)"),
    ],
)
def test_what_it_refuses(settings, match):
    with pytest.raises(ConfigError, match=match):
        Cherry(**settings)


def test_clusters_of_a_column_are_the_same_as_for_other_selectors(clustered, play):
    context, other = play(clustered, 4), play(clustered, 4)
    run_round(CLUSTERED, context)
    run_round(KMRandom(), other)
    assert context.record.columns_used == other.record.columns_used == ["cluster_id"]
