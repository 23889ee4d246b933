"""Pages about a selection by any of the selectors: names, settings, citations, recipes, and nothing of a machine."""

import json
import re

import numpy as np
import pytest
from datasets import concatenate_datasets
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from hf_datasel import Selection, select
from hf_datasel.cards import report
from hf_datasel.cards.build import gather
from hf_datasel.cards.card import card, page
from hf_datasel.cards.figures import figures
from hf_datasel.cards.report import read_facts, write_report
from hf_datasel.cards.sections.exclusions import long_reason
from hf_datasel.cards.sections.method import describe_method, describe_score
from hf_datasel.cards.sections.reproduce import recipe
from hf_datasel.cards.selector_traits import draws_rows, is_ranked
from hf_datasel.errors import Interrupted
from hf_datasel.formats import Pool, convert_pool
from hf_datasel.rounds.cache import RoundCache
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.run import run_selector
from hf_datasel.scores import IFD, Cluster, Embedding, Length, Loss
from hf_datasel.scoring.engine import Engine
from hf_datasel.scoring.score_rows import score
from hf_datasel.selection.display import describe_setting, method_name, model_names
from hf_datasel.selection.provenance import without_paths
from hf_datasel.selectors import (
    KMQ,
    MIG,
    All,
    Chain,
    Deita,
    InRange,
    IterIT,
    KCenter,
    KMClosest,
    KMRandom,
    Longest,
    NoNearDuplicates,
    Random,
    Superfiltering,
    Top,
    Within,
    get_selector,
    list_selectors,
    per_source,
    within_clusters,
)
from hf_datasel.spec import compact

SETTINGS = {
    "cherry": {"clusters": "cluster_id", "warmup_size": 4},
    "chain": {
        "filters": [{"filter": "in_range", "by": "loss"}],
        "then": {"selector": "superfiltering", "quality": "ifd"},
    },
    "closest": {"by": "loss", "target": 0.5},
    "diverse_evol": {"vectors": "embedding", "rounds": 2},
    "graphfilter": {"quality": "ifd"},
    "instag_diverse": {"tags": "source"},
    "iterative_kmq": {
        "quality": "reward",
        "gap": {"score": "reward_gap", "scorer": "perplexity", "max_new_tokens": 2},
    },
    "iterit": {"quality": "ifd"},
    "kmq": {"quality": "reward"},
    "less": {"warmup_size": 4, "warmup_epochs": 1, "projection_dim": 16},
    "mig": {"quality": "reward", "labels": "source"},
    "qdit": {"quality": "reward"},
    "superfiltering": {"quality": "ifd"},
    "top": {"by": "loss"},
    "weighted": {"method": {"selector": "top", "by": "loss"}, "by": "reward"},
    "within": {"method": {"selector": "superfiltering", "quality": "ifd"}},
}
"""Of the selectors that cannot be made without any, or would run a model."""
HOW = {
    "cherry": " after a warm-up of the model",
    "diverse_evol": " in 2 rounds of training, each of which added rows",
    "iterative_kmq": " in 3 rounds of training, each of which added rows",
    "less": " after a warm-up of the model",
}
UNCITED = {"all", "chain", "closest", "random", "top", "weighted"}
WITH_MODEL = ("most_similar", "rds_plus")
WITH_TARGET = ("bm25", "less", *WITH_MODEL)
NUMBERS = ("ifd", "loss", "reward", "deita", "influence", "golden", "selectit", "cluster_distance", "num_tokens")


@pytest.fixture(scope="module")
def rows(pool_rows):
    """Give the pool with a column for whatever a selector reads."""
    rng = np.random.default_rng(0)
    selections = pool_rows
    for name in NUMBERS:
        selections = selections.add_column(name, np.round(rng.uniform(0.1, 0.9, len(pool_rows)), 3).tolist())
    selections = selections.add_column("cluster_id", (np.arange(len(pool_rows)) % 3).tolist())
    selections = selections.add_column(
        "source", [["sky", "sea"][position % 4 == 0] for position in range(len(pool_rows))]
    )
    return selections.add_column("embedding", list(rng.normal(size=(len(pool_rows), 4)).astype(np.float32)))


@pytest.fixture
def no_drawing(monkeypatch):
    monkeypatch.setattr(report, "png", lambda *_: b"")


def keys_of(bibtex):
    return re.findall(r"@\w+\{(\w+),", bibtex)


# -- every selector --------------------------------------------------------------------------------------------------
def test_selector_names_are_unique():
    names = [method_name({"selector": name}) for name in list_selectors()]
    assert len(set(names)) == len(names)
    assert {"kMQ", "k-Center", "LESS", "DQ", "ZIP", "IterIT", "Cross-entropy"} <= set(names)


@pytest.fixture(scope="module")
def warm_up(tmp_path_factory, rows, tiny_model_dir):
    """Give the checkpoint of an epoch of training."""
    folder = tmp_path_factory.mktemp("warm_up")
    config = SFTConfig(
        output_dir=str(folder), max_steps=1, save_steps=1, learning_rate=1e-2, logging_steps=1, report_to="none",
        use_cpu=True, bf16=False, disable_tqdm=True,
    )  # fmt: skip
    data = convert_pool(Pool(rows.select(range(4))), chat_template=True)
    adapter = LoraConfig(r=2, target_modules=["q_proj"])
    SFTTrainer(model=str(tiny_model_dir), args=config, train_dataset=data, peft_config=adapter).train()
    return folder / "checkpoint-1"


@pytest.fixture
def selections_by(rows, tiny_model_dir, tmp_path, request):
    """Give a function for the selections of all rounds of a selector, of a model that stays as it is."""

    def run(name, size, **more):
        settings = SETTINGS.get(name, {}) | more
        if name in WITH_TARGET:
            path = str(tmp_path / "target.jsonl")
            rows.select([1, 7]).to_json(path)
            settings |= (
                {"by": {"score": "similarity", "validation": path}} if name == "most_similar" else {"validation": path}
            )
        selector = get_selector(name, settings)
        plan = selector.plan(size, 1.0, len(rows))
        if len(plan) == 1:
            return [select(rows, selector, size=size, model=str(tiny_model_dir) if name in WITH_MODEL else None)]
        pool, state, done = Pool(rows), {}, []
        saved = [request.getfixturevalue("warm_up")] if any(item.checkpoints for item in plan) else []
        for index, item in enumerate(plan):
            engine = Engine(pool, str(tiny_model_dir))
            before = np.array(list(dict.fromkeys(row for one in done for row in one.indices)), dtype=np.int64)
            compute, able = engine.compute, pool.reasons == ""
            context = RoundContext(
                RoundCache(pool, compute),
                budget=item.budget,
                index=index,
                eligible=able,
                selected=before,
                state=state,
                plan=plan,
            )
            context.checkpoints = saved
            done.append(Selection.from_round(context, selector, run_selector(selector, context), seconds=1.0))
        return done

    return run


@pytest.mark.parametrize("name", list_selectors())
def test_page_of_each_selector(name, rows, tmp_path, no_drawing, selections_by):
    selection = selections_by(name, 24 if name == "all" else 5)[-1]
    facts = gather([selection], rows, title="selected")
    write_report(facts, tmp_path)
    assert read_facts(tmp_path / "facts.json") == facts
    text, called = card(facts), method_name(selection.provenance["selector"])
    bare = method_name({"selector": name})
    both = {
        "chain": "Superfiltering after filters",
        "weighted": "Top by loss weighted by reward",
        "within": "Superfiltering within clusters",
    }
    assert called.startswith(both.get(name, bare))
    assert f"selected by {called}{HOW.get(name, '')}.**" in text
    assert f"**{called}.** " in text
    expected = keys_of(list_selectors()[name].citation)
    assert expected or name in UNCITED
    assert set(expected) <= set(keys_of(text))
    assert f"--selector {name} " in text
    assert "None" not in text
    assert "{'" not in text


def test_nested_method_is_described_and_cited(rows):
    facts = gather([select(rows, within_clusters(Superfiltering(quality="ifd")), size=6)], rows, title="x")
    assert facts["method"]["name"] == "Superfiltering within clusters"
    assert "Superfiltering selects rows with the highest IFD below 1" in facts["method"]["about"]
    assert keys_of(page(facts)) == ["xia2024rethinking", "li2024superfiltering"]
    assert "| `method` | `Superfiltering (quality=ifd)` |" in page(facts)


def test_chain_is_described_and_cited(rows, tmp_path, no_drawing):
    inside = within_clusters(Superfiltering(quality="ifd"))
    chain = Chain([InRange("loss", low=0.15, high=0.8), NoNearDuplicates(threshold=0.8, by="reward")], inside)
    selection = select(rows, chain, size=6)
    facts = gather([selection], rows, title="x")
    write_report(facts, tmp_path)
    assert read_facts(tmp_path / "facts.json") == facts
    assert facts["method"]["name"] == "Superfiltering within clusters after filters"
    for expected_text in (
        "Its filters keep: 0.15 <= loss < 0.8, no near-duplicates by embedding (cosine > 0.8, highest reward kept). ",
        "Superfiltering selects rows",
    ):
        assert expected_text in facts["method"]["about"]
    text = page(facts)
    assert keys_of(text) == ["xia2024rethinking", "li2024superfiltering", "liu2024deita"]
    filters = "0.15 <= loss < 0.8, no near-duplicates by embedding (cosine > 0.8, highest reward kept)"
    assert f"| `filters` | `{filters}` |" in text
    assert "| `then` | `Superfiltering within clusters` |" in text
    coverage = facts["sections"]["groups"]["coverage"]
    assert (coverage["column"], coverage["pool"]) == ("cluster_id", 3)
    exclusions = selection.provenance["exclusions"]
    assert sum(exclusions[name] for name in ("with loss >= 0.8",)) > 0
    assert f"{exclusions['near-duplicates by embedding']} near-duplicates by embedding" in text.replace("| ", "")
    keys = facts["sections"]["reproduce"]["recipe"]
    again = get_selector(keys["selector"], json.loads(json.dumps(keys["selector_kwargs"])))
    assert select(rows, again, size=6).indices.tolist() == selection.indices.tolist()


def test_chain_of_drawn_rows_is_not_ranked(rows):
    drawn = gather([select(rows, Chain([InRange("loss")], Random()), size=5)], rows, title="x")
    ranked = gather([select(rows, Chain([InRange("loss")], Chain([], Top(by="loss"))), size=5)], rows, title="x")
    assert (draws_rows(drawn), is_ranked(drawn)) == (True, False)
    assert (draws_rows(ranked), is_ranked(ranked)) == (False, True)


def test_recipe_with_outside_filter_and_models_in_filters(rows):
    provenance = select(rows, Chain([InRange("loss")], Random()), size=5).provenance
    parent = gather([select(rows, Random(), size=5)], title="x")["parent"]
    assert "allow_imports" not in recipe(provenance, parent)[1]
    scored = {"filter": "in_range", "by": {"score": "loss", "model": "g/h"}, "low": 1}
    provenance["selector"]["filters"] = [{"filter": "lab.mine:Mine", "width": 3}, scored]
    provenance["scores"] = [{"score": "loss", "model": "g/h", "resolved_model": f"g/h@{'3' * 40}"}]
    keys = recipe(provenance, parent)[1]
    assert keys["allow_imports"] is True
    assert keys["selector_kwargs"]["filters"][1]["by"] == {"score": "loss", "model": "g/h", "revision": "3" * 40}


def test_generated_rows_are_no_shortlist(rows, selections_by):
    text = page(gather(selections_by("iterative_kmq", 6)[-1:], rows, title="x"))
    assert "were scored in the last round" not in text
    assert "The other 18 rows could have been selected but were not drawn." in text
    assert "The rows were drawn at random: another seed gives other rows." in text
    assert "(0 is best)" not in text


def test_outside_selector():
    assert describe_method({"selector": "lab.mine:Mine", "width": 3}, None) == {
        "selector": "lab.mine:Mine",
        "name": "Mine",
        "about": "(lab.mine:Mine is not part of hf_datasel.)",
        "settings": {"width": 3},
        "citation": "",
    }


# -- rounds of their own ----------------------------------------------------------------------------------------------
def test_growing_rounds(rows, selections_by, tmp_path):
    selections = selections_by("iterative_kmq", 12)
    facts = gather(selections, rows, title="x")
    write_report(facts, tmp_path)
    assert read_facts(tmp_path / "facts.json") == facts
    assert sorted(item.name for item in (tmp_path / "plots").glob("weights-*")) == [
        "weights-dark.png",
        "weights-light.png",
    ]
    text = page(facts)
    assert (
        "12 of the 24 rows of a dataset that is not on the Hub, selected by Iterative kMQ in 3 rounds of training"
        in text
    )
    assert "| **rows** | 12 rows, 50.0% of the pool, added in 3 rounds |" in text
    assert "Jaccard with previous round" not in text
    assert re.search(r"^\| 2 \| 8 \| 12 \| 0 \|.* \| 4 \|$", text, re.MULTILINE), "its new rows"
    assert "so the overlap of two rounds is not shown" in text
    assert "for 0.3333 epochs; each round continued with the model of the previous one." in text
    assert facts["sections"]["overlap"]["names"] == ["selected", "Random", "Longest"]
    assert facts["sections"]["groups"]["weights"]["rounds"] == [0, 1, 2]
    assert "the weights of 3 clusters in 3 rounds" in text
    first, second = (page(gather([item], rows, title="x")) for item in selections[:2])
    assert (
        "4 of the 24 rows of a dataset that is not on the Hub, selected by Iterative kMQ before the first of" in first
    )
    assert "selected by Iterative kMQ in the first 2 of 3 rounds of training, each of which added rows.**" in second
    assert "4 of these rows are from the previous rounds, and 4 are new. All were trained on for" in second
    assert "weights-light" not in first + second, "the weights of one round have not changed"


def test_growing_rounds_with_restarts(rows, selections_by):
    selections = selections_by("iterative_kmq", 12, restart_each_round=True, rounds=2)
    assert "for 1 epoch; each round but the first started again from the base model." in page(
        gather(selections, rows, title="x")
    )
    assert "for 1 epoch, starting again from the base model." in page(gather(selections[1:], rows, title="x"))


def test_warm_up(rows, selections_by):
    selections = selections_by("cherry", 8)
    text = page(gather(selections, rows, title="x"))
    assert (
        "8 of the 24 rows of a dataset that is not on the Hub, selected by Cherry after a warm-up of the model on 4"
        in text
    )
    assert "| **rows** | 8 rows, 33.3% of the pool; 4 for the warm-up |" in text
    assert "| 0 (warm-up) | 24 | 4 |" in text
    assert "Round 0 was a warm-up: the model was trained on its rows for 1 epoch before it was used" in text
    assert "Round 1 started again from the base model and trained it on its rows for 1 epoch." in text
    assert "round 1 and warm-up" in text, "in the overlap"
    first = page(gather(selections[:1], rows, title="x"))
    assert "selected by Cherry for the warm-up of the model before the actual selection.**" in first
    assert "Round 0 is a warm-up: the model is trained on its rows for 1 epoch before the actual selection." in first


def test_quality_of_the_first_round(rows, selections_by):
    facts = gather(selections_by("iterative_kmq", 12, quality={"score": "length"}), rows, title="x")
    scored, selected = facts["rounds"][-1]["means"]["response_words"]
    text = page(facts)
    assert (
        f"| **mean score** | `response_words` {selected:.4g} of the selected rows, {scored:.4g} of the scored rows |"
        in text
    )
    assert "scored rows, whose scores are the same in all rounds, on the left" in text
    assert "response_words of all scored rows and of selected rows by round" in text
    cherry = gather(selections_by("cherry", 8), rows, title="x")
    assert " of the scored rows in the last round |" in page(cherry), "the whole pool, by the current model"


def test_scores_that_only_filters_read(rows):
    rows = rows.add_column("flag", [1] + [0] * 23)
    filters = [InRange("flag", high=1), InRange("loss", high=0.8)]
    selections = [select(rows, Chain(filters, then), size=6) for then in (Random(), Top(by="reward"))]
    drawn, ranked = [gather([selection], rows, title="x") for selection in selections]
    text = page(drawn)
    assert "mean score" not in text
    assert (
        "`flag` is 0 for 23 and 1 for 1 of the 24 rows of the pool; 0 for 6 and 1 for 0 of the 6 selected rows."
        in text
    )
    assert [figure.name for figure in figures(drawn) if figure.name.startswith("scores")] == ["scores-loss"]
    assert "another model would select" not in text
    assert list(ranked["rounds"][0]["means"]) == ["reward"]
    assert [figure.name for figure in figures(ranked) if "scores" in figure.name] == ["scores-reward", "scores-loss"]
    length = gather([select(rows, Chain([InRange(Length(), low=1)], Longest()), size=6)], rows, title="x")
    assert list(length["rounds"][0]["means"]) == ["response_words"], "the method reads it too"


@pytest.mark.parametrize(
    ("settings", "shown", "hidden"),
    [
        ({}, ["vectors", "sim_threshold", "prop_weight", "phi_a", "phi_b"], ["phi_alpha"]),
        ({"vectors": None, "phi_type": "exp"}, ["phi_alpha"], ["sim_threshold", "prop_weight", "phi_a", "phi_b"]),
        ({"prop_weight": 0.0}, ["vectors", "prop_weight"], ["sim_threshold"]),
    ],
)
def test_settings_without_effect_are_not_listed(settings, shown, hidden):
    method = describe_method(MIG(quality="reward", **settings).spec(), None)
    assert set(shown) <= set(method["settings"])
    assert not set(hidden) & set(method["settings"])


def test_score_that_is_nearly_always_the_same(rows):
    data = concatenate_datasets([rows] * 5).add_column("share", [0.4, *[0.0] * 119])
    text = page(gather([select(data, Top(by="share"), size=4)], data, title="x"))
    assert "Histograms of share" in text
    text = page(gather([select(data, Chain([InRange("share", high=0.1)], All()), size=4)], data, title="x"))
    assert "`share` is close to 0 for 119 of the 120 rows of the pool; 0 for 119 of the 119 selected rows." in text


def steps(selections, *before):
    """Return selections that were made after these steps of a run, as recorded before restarts existed."""
    for item, step in zip(selections, before, strict=True):
        item.provenance["model"] = {"name": "them/base", "global_step": step, "dtype": "torch.float32"}
    return selections


def run_of(losses, held_out=(), steps=10):
    return {
        "model": "them/base", "settings": {}, "steps": steps, "epochs": 3.0, "loss": list(losses),
        "eval_loss": list(held_out), "selection_time_share": None,
    }  # fmt: skip


def test_training_after_a_warm_up(rows, selections_by):
    selections = steps(selections_by("cherry", 8), 0, 4)
    logged = run_of([(3, 9.0), (6, 8.0), (9, 7.0)], [(4, 6.0), (10, 5.0)])
    text = page(gather(selections, rows, title="x", training=logged))
    assert "with `them/base` after 4 steps of training, seed" in text
    assert (
        "`them/base` was trained on these rows for 6 steps, starting again from the base model. The last training "
        "loss was 7 and the last evaluation loss was 5. The whole run took 10 steps over 3 epochs, including the "
        "warm-up."
    ) in text
    assert "The warm-up ends at step 4. Training started again from the base model after step 4, where" in text
    mixed = page(gather(selections, rows, title="x", training=run_of([(3, 9.0), (6, 8.0)], [(4, 6.0)])))
    assert "starting again from the base model. The whole" in mixed, "no loss is of the last model alone"
    early = page(gather(selections, rows, title="x", training=run_of([(3, 9.0)], steps=4)))
    assert "was trained for 4 steps over 3 epochs, all of them in the warm-up, and not yet on these rows." in early


def test_steps_since_the_restart(rows, selections_by):
    selections = steps(selections_by("iterative_kmq", 12, restart_each_round=True), 0, 2, 7)
    assert " after 5 steps of training, seed" in page(gather(selections, rows, title="x"))
    selections[-1].provenance["model"]["steps"] = 1
    assert " after 1 step of training, seed" in page(gather(selections[-1:], rows, title="x"))


@pytest.mark.parametrize("kind", [IFD, Loss])
def test_citations_of_scores(kind, rows):
    spec = {"score": kind.__name__.lower(), "computed": {}}
    cited = describe_score(spec, None)["citation"]
    for key in ("title", "author", "year"):
        assert re.search(rf"\b{key}=\{{[^{{}}]+\}}", cited)
    assert cited.count(" and ") == 8 - (kind is Loss)
    assert {"IFD": "Zhou, Tianyi", "Loss": "Lin, Junyang"}[kind.__name__] in cited
    assert {"IFD": "2308.12032", "Loss": "2410.09335"}[kind.__name__] in cited


def test_reselection_is_not_mentioned_without_training(rows):
    text = page(gather([select(rows, IterIT(quality="ifd"), size=5)], rows, title="x"))
    assert "Rows with a high IFD" in text
    assert "reselected every epoch" not in text


def test_score_of_one_round_has_no_plot_by_round(rows, selections_by):
    facts = gather(selections_by("less", 5), rows, title="x")
    assert facts["sections"]["rounds"]["distribution"] is None
    assert [scores["column"] for scores in facts["sections"]["distributions"]] == ["influence"]
    assert "The rows of the first round were drawn at random: another seed gives other rows" in page(facts)


def test_filtered_rows_are_no_shortlist(rows, selections_by):
    scored = Chain([InRange("loss", high=0.7)], Top(by=Length()))
    text = page(gather([select(rows, scored, size=5)], rows, title="x"))
    assert "that an earlier round had ranked" not in text
    exclusions = sum(value >= 0.7 for value in rows["loss"])
    assert f"The other {24 - exclusions - 5} rows could have been selected but were ranked lower." in text


def test_run_without_plan(rows, selections_by):
    selections = selections_by("iterative_kmq", 12)
    for item in selections:
        del item.provenance["plan"], item.provenance["selected_before"]
    text = page(gather(selections, rows, title="x"))
    assert "| Jaccard with previous round |" in text
    assert "so the overlap of two rounds" not in text


# -- settings in words -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("selector", "expected_text"),
    [
        (Top(by=Loss("them/model", over="pair")), "Top by loss"),
        (per_source(Random(), "source"), "Random within each source"),
        (per_source(within_clusters(KMRandom()), "source"), "kM-Random within clusters within each source"),
        (Within(Longest(), Cluster(k=8)), "Longest within clusters"),
    ],
)
def test_method_name(selector, expected_text):
    assert method_name(selector.spec()) == expected_text


@pytest.mark.parametrize(
    ("value", "expected_text"),
    [
        ({"score": "cluster", "k": 64}, "cluster (k=64)"),
        ({"score": "loss"}, "loss"),
        (
            {"score": "deita", "complexity_model": "a/b", "quality_model": "c/d", "revision": None},
            "deita of a/b and c/d",
        ),
        (Within(Superfiltering("ifd"), "source").spec(), "Superfiltering within each source"),
        (Deita(by=Loss("a/b"), threshold=0.5).spec(), "Deita (by=loss of a/b, threshold=0.5)"),
        (0.5, 0.5),
        (["x"], ["x"]),
    ],
)
def test_describe_setting(value, expected_text):
    assert describe_setting(value) == expected_text


def test_models_of():
    spec = {"model": "a/b", "quality_model": "c/d", "reward_model": None, "resolved_model": "a/b@1", "k": 3}
    assert model_names(spec) == ["a/b", "c/d"]


@pytest.mark.parametrize("path", ["outputs/run/checkpoint-3", "models\\checkpoint-3", "/home/me/checkpoint-3"])
def test_paths_and_names_on_the_hub(path):
    record = {"method": {"by": {"checkpoints": (path, "me/model"), "base_url": "http://host/v1/x"}}}
    assert without_paths(record) == {
        "method": {"by": {"checkpoints": ("checkpoint-3", "me/model"), "base_url": "http://host/v1/x"}}
    }


def test_compact_drops_nested_defaults():
    assert compact(Within(Superfiltering(convention="cherry")).spec()) == {
        "selector": "within",
        "method": {"selector": "superfiltering", "convention": "cherry"},
    }
    for name in ("cross_entropy", "selectit_top", "length_km", "zip", "deita"):
        assert compact(get_selector(name).spec()) == {"selector": name}, name
    assert compact(get_selector("cross_entropy", {"by": {"score": "loss", "over": "pair"}}).spec()) == {
        "selector": "cross_entropy",
        "by": {"score": "loss", "over": "pair"},
    }


# -- models and files ------------------------------------------------------------------------------------------------
def test_paths_of_nested_settings_are_hidden(pool_rows, tiny_model_dir, tmp_path, no_drawing):
    folder = tiny_model_dir.parent
    vectors = np.random.default_rng(0).normal(size=(len(pool_rows), 3)).astype(np.float32)
    rows = pool_rows.add_column("embedding", list(vectors))
    fitted = Cluster(k=3).fit(rows, tmp_path / "centroids.npy")
    scored = Superfiltering(model=str(tiny_model_dir))
    selections = {
        "within": Within(Within(scored, fitted), Cluster(k=2), vectors=Embedding(str(tiny_model_dir), part="prompt")),
        "kmq": KMQ(quality=Loss(str(tiny_model_dir)), clusters=fitted),
        "deita": Deita(by=Loss(str(tiny_model_dir)), threshold=1.0),
    }
    for name, selector in selections.items():
        facts = gather([select(rows, selector, size=6)], rows, title="x")
        written = write_report(facts, tmp_path / name)
        text = "".join(path.read_text() for path in written if path.suffix != ".png")
        assert str(folder) not in text
        assert str(tmp_path) not in text
        assert json.dumps(facts).count(tiny_model_dir.name) >= 3, "by its name alone, in settings, score and recipe"
        assert f"&#39;{tiny_model_dir.name}&#39; is a model in a local folder" in text or (
            f"'{tiny_model_dir.name}' is a model in a local folder" in text
        )
        assert ("'centroids.npy' is a local file" in text) == (name != "deita")


def test_models_of_scores_in_the_overview(rows, tiny_model_dir):
    selection = select(rows, KMQ(quality=Loss(str(tiny_model_dir))), size=5)
    text = page(gather([selection], rows, title="x"))
    assert f"| **method** | kMQ with `{tiny_model_dir.name}`, seed 0 |" in text
    assert f"| `quality` | `loss of {tiny_model_dir.name}` |" in text
    assert "The scores depend on the model and its prompt format" in text


# -- recipes ---------------------------------------------------------------------------------------------------------
def test_recipe_pins_nested_models(rows):
    hub = {"name": "a/b", "revision": None, "config": None, "split": None, "changed": False, "sources": ["a/b"],
           "id": "0" * 64, "rows": 24}  # fmt: skip
    provenance = select(rows, KMQ(quality="reward"), size=5).provenance
    nested = {"score": "deita", "complexity_model": "c/d", "quality_model": "e/f", "quality_revision": "main"}
    within = {"selector": "top", "by": {"score": "loss", "model": "g/h"}}
    provenance["selector"] = {"selector": "within", "method": within, "groups": "x", "vectors": nested}
    provenance["scores"] = [
        {**nested, "resolved_complexity_model": f"c/d@{'1' * 40}", "resolved_quality_model": f"e/f@{'2' * 40}"},
        {"score": "loss", "model": "g/h", "resolved_model": f"g/h@{'3' * 40}"},
    ]
    _, keys, _ = recipe(provenance, hub)
    settings = keys["selector_kwargs"]
    assert settings["method"]["by"] == {"score": "loss", "model": "g/h", "revision": "3" * 40}
    assert settings["vectors"] == {**nested, "complexity_revision": "1" * 40}, "which says main: that stays"


def test_nested_outside_selector_needs_allow_imports(rows):
    provenance = select(rows, within_clusters(Random()), size=5).provenance
    parent = gather([select(rows, Random(), size=5)], title="x")["parent"]
    assert "allow_imports" not in recipe(provenance, parent)[1]
    provenance["selector"]["method"] = {"selector": "lab.mine:Mine", "width": 3}
    keys = recipe(provenance, parent)[1]
    assert keys["allow_imports"] is True
    assert keys["selector_kwargs"] == {"method": {"selector": "lab.mine:Mine", "width": 3}}


def test_vectors_of_existing_clusters_are_unsettled(rows, tmp_path):
    clustered = score(
        rows.remove_columns(["cluster_id", "cluster_distance"]), [Cluster(k=3).fit(rows, tmp_path / "c.npy")]
    )
    missing = gather([select(clustered, KMRandom(), size=5)], clustered, title="x")["sections"]["reproduce"][
        "unsettled"
    ]
    assert "The clusters are of the vectors in column 'embedding'. How these were computed is not recorded." in missing
    assert not any("c.npy" in item and "replace" in item for item in missing), "the column is enough"


# -- tokens, and interrupted selections ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("reason", "expected_text"),
    [
        ("with ifd >= 1", "ifd has to be below 1 for this method"),
        ("with loss < 0.2", "loss has to be at least 0.2 for this method"),
        ("near-duplicates by embedding", "a near-duplicate of the row is kept"),
        ("without ifd", "there is no value to rank the row by"),
        ("with only tags of fewer than 5 rows", "labels of so few rows are ignored (min_count)"),
        ("near-duplicates of a better row", "a near-duplicate of the row is kept"),
        ("below the highest 0.4 of v", "a filter keeps the rows with the highest values"),
        ("in no cluster", "rows are selected within each cluster"),
        ("excluded by Mine", ""),
    ],
)
def test_long_reason(reason, expected_text):
    assert long_reason(reason) == expected_text


def test_token_budget(rows):
    counted = rows.remove_columns("num_tokens").add_column("num_tokens", [10] * 24)
    facts = gather([select(counted, Longest(), tokens=75)], counted, title="x")
    assert facts["rounds"][0]["tokens"] == {"budget": 75, "selected": 70}
    keys = facts["sections"]["reproduce"]["recipe"]
    assert keys["selection_tokens"] == 75
    assert "selection_size" not in keys
    assert "7 rows, 29.2% of the pool; 70 of at most 75 tokens" in page(facts)


def test_recipe_has_the_model_that_counts_tokens(pool_rows, tiny_model_dir):
    selection = select(pool_rows, Superfiltering(), tokens=150, model=str(tiny_model_dir))
    selection.provenance["model"] = {"name": "me/model", "resolved": f"me/model@{'b' * 40}"}
    keys = gather([selection], pool_rows, title="x")["sections"]["reproduce"]["recipe"]
    assert keys["model_name_or_path"] == "me/model", "not only that of the selector"
    assert keys["selection_tokens"] == 150


def test_interrupted_selection(rows, monkeypatch, tmp_path, no_drawing):
    def interrupted(*_, **__):
        raise Interrupted(np.array([3, 1, 4]))

    monkeypatch.setattr("hf_datasel.selectors.k_center.farthest_first", interrupted)
    with pytest.raises(Interrupted, match="3 rows had been selected") as stopped:
        select(rows, KCenter(), size=9)
    facts = gather([stopped.value.selection], rows, title="x")
    write_report(facts, tmp_path)
    assert read_facts(tmp_path / "facts.json") == facts
    text = page(facts)
    assert "selected by k-Center (interrupted: 9 rows were requested).**" in text
    assert "interrupted after 3 of 9 rows; the other rows are missing." in text
    assert "- The selection was interrupted: it has 3 of the 9 requested rows" in text
    assert "The selection was interrupted after 3 of 9 rows: the command makes the complete selection." in text
    assert "only 3 could be selected" not in text
    assert "but were ranked lower" not in text
    assert facts["sections"]["reproduce"]["recipe"]["selection_size"] == 9


# -- clusters, vectors, order ----------------------------------------------------------------------------------------
def test_cluster_coverage(rows):
    facts = gather([select(rows, Within(Longest()), size=2)], rows, title="x")
    share = pytest.approx(1 / 3, rel=1e-5)
    result = facts["sections"]["groups"]["coverage"]
    assert (result["column"], result["pool"], result["selected"], result["largest"]) == ("cluster_id", 3, 2, share)
    assert "The pool has 3 groups (`cluster_id`), and the selected rows are in 2 of them." in page(facts)


def test_coverage_of_named_groups_needs_the_dataset(rows):
    selection = select(rows, per_source(Longest(), "source", {"sky": 0.0, "sea": 1.0}), size=4)
    result = gather([selection], rows, title="x")["sections"]["groups"]["coverage"]
    assert result == {"column": "source", "pool": 2, "selected": 1, "largest": 0.75, "largest_selected": 0.0}
    assert gather([selection], title="x")["sections"]["groups"]["coverage"] is None
    assert gather([select(rows, Longest(), size=4)], rows, title="x")["sections"]["groups"]["coverage"] is None


def test_coverage_of_computed_clusters(rows):
    facts = gather([select(rows, KMClosest(Cluster(k=4), "equal"), size=8)], rows, title="x")
    assert [facts["sections"]["groups"]["coverage"][key] for key in ("pool", "selected")] == [4, 4]
    assert list(facts["rounds"][0]["means"]) == ["cluster_distance"], "and not the mean of the clusters' numbers"


def test_quality_precedes_the_distance_to_a_centroid(rows):
    facts = gather([select(rows, KMQ(quality="reward", clusters=Cluster(k=4)), size=5)], rows, title="x")
    assert list(facts["rounds"][0]["means"]) == ["reward", "cluster_distance"]


def test_map_of_vectors_of_the_dataset(rows):
    selection = select(rows, KCenter(), size=5)
    result = gather([selection], rows, title="x")["sections"]["embedding_map"]
    assert (result["column"], sum(map(sum, result["pool"])), sum(map(sum, result["selected"]))) == ("embedding", 24, 5)
    assert gather([selection], title="x")["sections"]["embedding_map"] is None


def test_drawn_rows_are_not_ranked(rows):
    configs = [
        {"name": "default", "holds": "rows", "splits": {"train": 5}, "files": {"train": "x"}, "bytes": 1,
         "default": True},
    ]  # fmt: skip
    for selector, ranked in ((KMQ(quality="reward"), False), (Top(by="reward"), True)):
        facts = {**gather([select(rows, selector, size=5)], rows, title="x"), "repo_id": "me/x", "configs": configs}
        text = page(facts)
        assert ("# best first" in text, "(0 is best)" in text) == (ranked, ranked)
        assert ("another seed gives other rows" in text) == (not ranked)
