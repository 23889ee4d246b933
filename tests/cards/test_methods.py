"""Pages about a selection by any of the selectors: names, settings, citations, recipes, and nothing of a machine."""

import json
import re

import numpy as np
import pytest
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from hf_datasel import Selection, select
from hf_datasel.cards import report
from hf_datasel.cards.build import described, gather
from hf_datasel.cards.card import card, page
from hf_datasel.cards.methods import method
from hf_datasel.cards.recipe import recipe
from hf_datasel.cards.report import read_facts, write_report
from hf_datasel.cards.sections.reasons import is_drawn, is_ranked, long_reason
from hf_datasel.errors import Interrupted
from hf_datasel.formats import Pool, converted
from hf_datasel.rounds.context import Round
from hf_datasel.rounds.run import ask
from hf_datasel.scores import IFD, Cluster, Embedding, Length, Loss
from hf_datasel.scoring.engine import Engine
from hf_datasel.scoring.score_rows import score
from hf_datasel.selection.display import compact, in_words, method_name, models_of
from hf_datasel.selection.provenance import without_paths
from hf_datasel.selectors import (
    KMQ,
    Chain,
    Deita,
    InRange,
    IterIT,
    KCenter,
    KMClosest,
    KMRandom,
    Longest,
    NoNearCopies,
    Random,
    Superfiltering,
    Top,
    Within,
    available,
    by_name,
    per_source,
    within_clusters,
)

SETTINGS = {
    "cherry": {"clusters": "cluster_id", "warmup_size": 4},
    "chain": {
        "filters": [{"filter": "in_range", "by": "loss"}],
        "then": {"selector": "superfiltering", "quality": "ifd"},
    },
    "diverse_evol": {"vectors": "embedding", "rounds": 2},
    "graphfilter": {"quality": "ifd"},
    "iterative_kmq": {"quality": "reward", "gap": {"score": "rewardgap", "scorer": "perplexity", "max_new_tokens": 2}},
    "iterit": {"quality": "ifd"},
    "kmq": {"quality": "reward"},
    "less": {"warmup_size": 4, "warmup_epochs": 1, "projection_dim": 16},
    "qdit": {"quality": "reward"},
    "superfiltering": {"quality": "ifd"},
    "top": {"by": "loss"},
    "within": {"method": {"selector": "superfiltering", "quality": "ifd"}},
}
"""Of the selectors that cannot be made without any, or would run a model."""
HOW = {
    "cherry": " after a warm-up of the model",
    "diverse_evol": ", some before each of 2 rounds of training",
    "iterative_kmq": ", some before each of 3 rounds of training",
    "less": " after a warm-up of the model",
}
UNCITED = {"all", "chain", "random", "top"}
NUMBERS = ("ifd", "loss", "reward", "deita", "influence", "golden", "selectit", "cluster_distance", "num_tokens")


@pytest.fixture(scope="module")
def rows(pool_rows):
    """Give the pool with a column for whatever a selector reads."""
    rng = np.random.default_rng(0)
    made = pool_rows
    for name in NUMBERS:
        made = made.add_column(name, np.round(rng.uniform(0.1, 0.9, len(pool_rows)), 3).tolist())
    made = made.add_column("cluster_id", (np.arange(len(pool_rows)) % 3).tolist())
    made = made.add_column("source", [["sky", "sea"][at % 4 == 0] for at in range(len(pool_rows))])
    return made.add_column("embedding", list(rng.normal(size=(len(pool_rows), 4)).astype(np.float32)))


@pytest.fixture
def no_drawing(monkeypatch):
    monkeypatch.setattr(report, "png", lambda *_: b"")


def keys_of(bibtex):
    return re.findall(r"@\w+\{(\w+),", bibtex)


# -- every selector --------------------------------------------------------------------------------------------------
def test_no_two_selectors_have_the_same_name():
    names = [method_name({"selector": name}) for name in available()]
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
    data = converted(Pool(rows.select(range(4))), chat_template=True)
    adapter = LoraConfig(r=2, target_modules=["q_proj"])
    SFTTrainer(model=str(tiny_model_dir), args=config, train_dataset=data, peft_config=adapter).train()
    return folder / "checkpoint-1"


@pytest.fixture
def chosen_by(rows, tiny_model_dir, tmp_path, request):
    """Give a function for the selections of all rounds of a selector, of a model that stays as it is."""

    def run(name, size, **more):
        settings = SETTINGS.get(name, {}) | more
        if name == "less":
            settings["validation"] = str(tmp_path / "target.jsonl")
            rows.select([1, 7]).to_json(settings["validation"])
        selector = by_name(name, settings)
        plan = selector.plan(size, 1.0, len(rows))
        if len(plan) == 1:
            return [select(rows, selector, size=size)]
        pool, state, done = Pool(rows), {}, []
        saved = [request.getfixturevalue("warm_up")] if any(each.checkpoints for each in plan) else []
        for index, each in enumerate(plan):
            engine = Engine(pool, str(tiny_model_dir))
            before = np.array(list(dict.fromkeys(row for one in done for row in one.indices)), dtype=np.int64)
            compute, able = engine.compute, pool.reasons == ""
            round = Round(index, pool, able, each.budget, compute, chosen=before, state=state, plan=plan)
            round.checkpoints = saved
            done.append(Selection.from_round(round, selector, ask(selector, round), seconds=1.0))
        return done

    return run


@pytest.mark.parametrize("name", available())
def test_its_page_names_the_method_and_the_paper(name, rows, tmp_path, no_drawing, chosen_by):
    selection = chosen_by(name, 24 if name == "all" else 5)[-1]
    facts = gather([selection], rows, title="chosen")
    write_report(facts, tmp_path)
    assert read_facts(tmp_path / "facts.json") == facts
    text, called = card(facts), method_name(selection.provenance["selector"])
    bare = method_name({"selector": name})
    both = {"chain": "Superfiltering after filters", "within": "Superfiltering within clusters"}
    assert called.startswith(both.get(name, bare))
    assert f"chosen by {called}{HOW.get(name, '')}.**" in text
    assert f"**{called}.** " in text
    wanted = keys_of(available()[name].citation)
    assert wanted or name in UNCITED
    assert set(wanted) <= set(keys_of(text))
    assert f"--selector {name} " in text
    assert "None" not in text
    assert "{'" not in text


def test_the_method_within_is_told_and_cited_too(rows):
    facts = gather([select(rows, within_clusters(Superfiltering(quality="ifd")), size=6)], rows, title="x")
    assert facts["method"]["name"] == "Superfiltering within clusters"
    assert "Superfiltering: The rows with the highest IFD below 1" in facts["method"]["about"]
    assert keys_of(page(facts)) == ["xia2024rethinking", "li2024superfiltering"]
    assert "| `method` | `Superfiltering (quality=ifd)` |" in page(facts)


def test_the_filters_of_a_chain_and_what_follows_are_told_and_cited_too(rows, tmp_path, no_drawing):
    inside = within_clusters(Superfiltering(quality="ifd"))
    chain = Chain([InRange("loss", low=0.15, high=0.8), NoNearCopies(threshold=0.8, by="reward")], inside)
    selection = select(rows, chain, size=6)
    facts = gather([selection], rows, title="x")
    write_report(facts, tmp_path)
    assert read_facts(tmp_path / "facts.json") == facts
    assert facts["method"]["name"] == "Superfiltering within clusters after filters"
    for said in ("in_range: Rows with `low <= value < high`", "no_near_copies: Of rows", "Superfiltering: The rows"):
        assert said in facts["method"]["about"]
    text = page(facts)
    assert keys_of(text) == ["liu2024deita", "xia2024rethinking", "li2024superfiltering"]
    filters = "in_range (by=loss, low=0.15, high=0.8), no_near_copies (threshold=0.8, by=reward)"
    assert f"| `filters` | `{filters}` |" in text
    assert "| `then` | `Superfiltering within clusters` |" in text
    assert (facts["groups"]["column"], facts["groups"]["pool"]) == ("cluster_id", 3)
    left_out = selection.provenance["left_out"]
    assert sum(left_out[name] for name in ("with loss >= 0.8",)) > 0
    assert f"{left_out['near copies by embedding']} near copies by embedding" in text.replace("| ", "")
    keys = facts["recipe"]
    again = by_name(keys["selector"], json.loads(json.dumps(keys["selector_kwargs"])))
    assert select(rows, again, size=6).indices.tolist() == selection.indices.tolist()


def test_rows_that_a_chain_draws_are_not_called_the_best(rows):
    drawn = gather([select(rows, Chain([InRange("loss")], Random()), size=5)], rows, title="x")
    ranked = gather([select(rows, Chain([InRange("loss")], Chain([], Top(by="loss"))), size=5)], rows, title="x")
    assert (is_drawn(drawn), is_ranked(drawn)) == (True, False)
    assert (is_drawn(ranked), is_ranked(ranked)) == (False, True)


def test_a_filter_of_somebody_else_and_models_in_filters(rows):
    provenance = select(rows, Chain([InRange("loss")], Random()), size=5).provenance
    parent = gather([select(rows, Random(), size=5)], title="x")["parent"]
    assert "allow_imports" not in recipe(provenance, parent)[1]
    scored = {"filter": "in_range", "by": {"score": "loss", "model": "g/h"}, "low": 1}
    provenance["selector"]["filters"] = [{"filter": "lab.mine:Mine", "width": 3}, scored]
    provenance["scores"] = [{"score": "Loss", "model": "g/h", "resolved_model": f"g/h@{'3' * 40}"}]
    keys = recipe(provenance, parent)[1]
    assert keys["allow_imports"] is True
    assert keys["selector_kwargs"]["filters"][1]["by"] == {"score": "loss", "model": "g/h", "revision": "3" * 40}


def test_rows_that_the_model_was_asked_about_are_not_taken_for_the_candidates(rows, chosen_by):
    text = page(gather(chosen_by("iterative_kmq", 6)[-1:], rows, title="x"))
    assert "were scored for the last round" not in text
    assert "The other 18 rows could have been chosen, and were not drawn." in text
    assert "The rows were drawn at random: another seed draws others." in text
    assert "(0 is best)" not in text


def test_a_selector_of_somebody_else_goes_by_its_own_name():
    told = method({"selector": "lab.mine:Mine", "width": 3}, None)
    assert told == {"name": "Mine", "about": "", "settings": {"width": 3}, "citation": ""}


# -- rounds of their own ----------------------------------------------------------------------------------------------
def test_rounds_that_grow(rows, chosen_by, tmp_path):
    made = chosen_by("iterative_kmq", 12)
    facts = gather(made, rows, title="x")
    write_report(facts, tmp_path)
    assert read_facts(tmp_path / "facts.json") == facts
    assert sorted(each.name for each in (tmp_path / "plots").glob("weights-*")) == [
        "weights-dark.png",
        "weights-light.png",
    ]
    text = page(facts)
    assert (
        "12 of the 24 rows of a dataset that is not on the Hub, chosen by Iterative kMQ, some before each of 3" in text
    )
    assert "| **kept** | 12 rows, 50.0% of the pool, added in 3 rounds |" in text
    assert "anew" not in text
    assert "Jaccard with the round before" not in text
    assert re.search(r"^\| 2 \| 8 \| 12 \| 0 \|.* \| 4 \|$", text, re.MULTILINE), "its new rows"
    assert "so that what two rounds share says nothing" in text
    assert "were trained on for 0.3333 epochs, each with the model of the one before." in text
    assert facts["overlap"]["names"] == ["chosen", "Random", "Longest"]
    assert facts["weights"]["rounds"] == [0, 1, 2]
    assert "the weights of 3 clusters in 3 rounds" in text
    first, second = (page(gather([each], rows, title="x")) for each in made[:2])
    assert "4 of the 24 rows of a dataset that is not on the Hub, chosen by Iterative kMQ before the first of" in first
    assert "chosen by Iterative kMQ, some before each of the first 2 of 3 rounds of training.**" in second
    assert "4 of these rows are those of the rounds before, and 4 are new: all were trained on for" in second
    assert "weights-light" not in first + second, "of which nothing has moved"


def test_rounds_that_grow_and_begin_again_from_the_base_model(rows, chosen_by):
    made = chosen_by("iterative_kmq", 12, restart_each_round=True, rounds=2)
    assert "for 1 epoch, each but the first from the base model again." in page(gather(made, rows, title="x"))
    assert "for 1 epoch, from the base model again." in page(gather(made[1:], rows, title="x"))


def test_a_warm_up_is_called_one(rows, chosen_by):
    made = chosen_by("cherry", 8)
    text = page(gather(made, rows, title="x"))
    assert (
        "8 of the 24 rows of a dataset that is not on the Hub, chosen by Cherry after a warm-up of the model on 4"
        in text
    )
    assert "| **kept** | 8 rows, 33.3% of the pool; 4 for the warm-up |" in text
    assert "| 0 (warm-up) | 24 | 4 |" in text
    assert "Round 0 was a warm-up: the model was trained on its rows for 1 epoch, and the choice made" in text
    assert "Round 1 began again from the base model, which was trained on its rows for 1 epoch." in text
    assert "round 1 and warm-up" in text, "what they share"
    first = page(gather(made[:1], rows, title="x"))
    assert "chosen by Cherry to warm the model up before the choice itself.**" in first
    assert "Round 0 is a warm-up: the model is trained on its rows for 1 epoch before the choice itself is made." in (
        first
    )


def test_a_quality_of_the_first_round_is_not_said_to_be_of_the_last(rows, chosen_by):
    facts = gather(chosen_by("iterative_kmq", 12, quality={"score": "length"}), rows, title="x")
    scored, kept = facts["choices"][-1]["means"]["response_words"]
    text = page(facts)
    assert f"| **mean** | `response_words` {kept:.4g} of the rows kept, {scored:.4g} of those scored |" in text
    assert "the rows scored, whose scores are the same in all rounds, on the left" in text
    assert "response_words of all scored rows and of those chosen, round by round" in text
    cherry = gather(chosen_by("cherry", 8), rows, title="x")
    assert " of those scored in the last round |" in page(cherry), "the whole pool, by the model as it is then"


def steps(made, *before):
    """The selections of a run, which chose after so many of its steps, as a version recorded them before restarts."""
    for each, step in zip(made, before, strict=True):
        each.provenance["model"] = {"name": "them/base", "global_step": step, "dtype": "torch.float32"}
    return made


def run_of(losses, held_out=(), steps=10):
    return {
        "model": "them/base", "settings": {}, "steps": steps, "epochs": 3.0, "loss": list(losses),
        "eval_loss": list(held_out), "selecting": None,
    }  # fmt: skip


def test_the_last_model_of_a_warmed_up_run_is_not_trained_on_the_warm_up(rows, chosen_by):
    made = steps(chosen_by("cherry", 8), 0, 4)
    logged = run_of([(3, 9.0), (6, 8.0), (9, 7.0)], [(4, 6.0), (10, 5.0)])
    text = page(gather(made, rows, title="x", training=logged))
    assert "with `them/base`, as it is after 4 steps of training, seed" in text
    assert (
        "`them/base` was trained on these rows for 6 steps, from the base model again, ending at a training loss of 7 "
        "and a loss of 5 on held-out rows. The whole run took 10 steps over 3 epochs, those of the warm-up included."
    ) in text
    assert "The warm-up ends at step 4. Training began again from the base model after step 4, where" in text
    mixed = page(gather(made, rows, title="x", training=run_of([(3, 9.0), (6, 8.0)], [(4, 6.0)])))
    assert "from the base model again. The whole" in mixed, "no loss is of the last model alone"
    early = page(gather(made, rows, title="x", training=run_of([(3, 9.0)], steps=4)))
    assert "was trained for 4 steps over 3 epochs, all of them of the warm-up, and on these rows not yet." in early


def test_steps_of_a_run_without_record_are_counted_from_the_restart(rows, chosen_by):
    made = steps(chosen_by("iterative_kmq", 12, restart_each_round=True), 0, 2, 7)
    assert ", as it is after 5 steps of training, seed" in page(gather(made, rows, title="x"))
    made[-1].provenance["model"]["steps"] = 1
    assert ", as it is after 1 step of training, seed" in page(gather(made[-1:], rows, title="x"))


@pytest.mark.parametrize("kind", [IFD, Loss])
def test_scores_of_a_paper_are_cited_with_all_their_authors(kind, rows):
    spec = {"score": kind.__name__, "computed": {}}
    cited = described(spec, None)["citation"]
    for key in ("title", "author", "year"):
        assert re.search(rf"\b{key}=\{{[^{{}}]+\}}", cited)
    assert cited.count(" and ") == 8 - (kind is Loss)
    assert {"IFD": "Zhou, Tianyi", "Loss": "Lin, Junyang"}[kind.__name__] in cited
    assert {"IFD": "2308.12032", "Loss": "2410.09335"}[kind.__name__] in cited


def test_a_selector_that_can_choose_anew_chose_once_without_training(rows):
    text = page(gather([select(rows, IterIT(quality="ifd"), size=5)], rows, title="x"))
    assert "Once, the rows with the highest IFD" in text
    assert "Before every epoch" not in text


def test_a_score_of_the_last_round_alone_has_no_plot_by_round(rows, chosen_by):
    facts = gather(chosen_by("less", 5), rows, title="x")
    assert facts["rounds"] == []
    assert [each["column"] for each in facts["distributions"]] == ["influence"]
    assert "The rows of the first round were drawn at random: another seed draws others" in page(facts)


def test_what_filters_left_out_is_no_window(rows, chosen_by):
    scored = Chain([InRange("loss", high=0.7)], Top(by=Length()))
    text = page(gather([select(rows, scored, size=5)], rows, title="x"))
    assert "that an earlier one had ranked" not in text
    left_out = sum(value >= 0.7 for value in rows["loss"])
    assert f"The other {24 - left_out - 5} rows could have been chosen, and came after those that were." in text


def test_a_run_of_an_earlier_version_is_shown_without_its_plan(rows, chosen_by):
    made = chosen_by("iterative_kmq", 12)
    for each in made:
        del each.provenance["plan"], each.provenance["chosen_before"]
    text = page(gather(made, rows, title="x"))
    assert "| Jaccard with the round before |" in text
    assert "so that what two rounds share" not in text


# -- settings in words -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("selector", "said"),
    [
        (Top(by=Loss("them/model", over="pair")), "Top by loss"),
        (per_source(Random(), "source"), "Random within each source"),
        (per_source(within_clusters(KMRandom()), "source"), "kM-Random within clusters within each source"),
        (Within(Longest(), Cluster(k=8)), "Longest within clusters"),
    ],
)
def test_names(selector, said):
    assert method_name(selector.spec()) == said


@pytest.mark.parametrize(
    ("value", "said"),
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
def test_settings_in_words(value, said):
    assert in_words(value) == said


def test_models_that_a_score_names():
    spec = {"model": "a/b", "quality_model": "c/d", "reward_model": None, "resolved_model": "a/b@1", "k": 3}
    assert models_of(spec) == ["a/b", "c/d"]


@pytest.mark.parametrize("path", ["outputs/run/checkpoint-3", "models\\checkpoint-3", "/home/me/checkpoint-3"])
def test_paths_are_told_from_names_on_the_hub(path):
    record = {"method": {"by": {"checkpoints": (path, "me/model"), "base_url": "http://host/v1/x"}}}
    assert without_paths(record) == {
        "method": {"by": {"checkpoints": ("checkpoint-3", "me/model"), "base_url": "http://host/v1/x"}}
    }


def test_what_is_taken_by_default_is_left_out_also_within():
    assert compact(Within(Superfiltering(convention="cherry")).spec()) == {
        "selector": "within",
        "method": {"selector": "superfiltering", "convention": "cherry"},
    }
    for name in ("cross_entropy", "selectit_top", "length_km", "zip", "deita"):
        assert compact(by_name(name).spec()) == {"selector": name}, name
    assert compact(by_name("cross_entropy", {"by": {"score": "loss", "over": "pair"}}).spec()) == {
        "selector": "cross_entropy",
        "by": {"score": "loss", "over": "pair"},
    }


# -- models and files ------------------------------------------------------------------------------------------------
def test_no_path_of_a_nested_setting_is_shown(pool_rows, tiny_model_dir, tmp_path, no_drawing):
    folder = tiny_model_dir.parent
    vectors = np.random.default_rng(0).normal(size=(len(pool_rows), 3)).astype(np.float32)
    rows = pool_rows.add_column("embedding", list(vectors))
    fitted = Cluster(k=3).fit(rows, tmp_path / "centroids.npy")
    scored = Superfiltering(model=str(tiny_model_dir))
    made = {
        "within": Within(Within(scored, fitted), Cluster(k=2), vectors=Embedding(str(tiny_model_dir), part="prompt")),
        "kmq": KMQ(quality=Loss(str(tiny_model_dir)), clusters=fitted),
        "deita": Deita(by=Loss(str(tiny_model_dir)), threshold=1.0),
    }
    for name, selector in made.items():
        facts = gather([select(rows, selector, size=6)], rows, title="x")
        written = write_report(facts, tmp_path / name)
        text = "".join(path.read_text() for path in written if path.suffix != ".png")
        assert str(folder) not in text
        assert str(tmp_path) not in text
        assert json.dumps(facts).count(tiny_model_dir.name) >= 3, "by its name alone, in settings, score and recipe"
        assert f"&#39;{tiny_model_dir.name}&#39; is a model in a folder of one machine" in text or (
            f"'{tiny_model_dir.name}' is a model in a folder of one machine" in text
        )
        assert ("'centroids.npy' is a file of one machine" in text) == (name != "deita")


def test_the_models_of_scores_are_named_where_the_page_begins(rows, tiny_model_dir):
    selection = select(rows, KMQ(quality=Loss(str(tiny_model_dir))), size=5)
    text = page(gather([selection], rows, title="x"))
    assert f"| **by** | kMQ with `{tiny_model_dir.name}`, seed 0 |" in text
    assert f"| `quality` | `loss of {tiny_model_dir.name}` |" in text
    assert "The scores are those of one model" in text


# -- recipes ---------------------------------------------------------------------------------------------------------
def test_the_commits_of_nested_models_are_in_the_recipe(rows):
    hub = {"name": "a/b", "revision": None, "config": None, "split": None, "changed": False, "sources": ["a/b"],
           "id": "0" * 64, "rows": 24}  # fmt: skip
    provenance = select(rows, KMQ(quality="reward"), size=5).provenance
    nested = {"score": "deita", "complexity_model": "c/d", "quality_model": "e/f", "quality_revision": "main"}
    within = {"selector": "top", "by": {"score": "loss", "model": "g/h"}}
    provenance["selector"] = {"selector": "within", "method": within, "groups": "x", "vectors": nested}
    provenance["scores"] = [
        {**nested, "resolved_complexity_model": f"c/d@{'1' * 40}", "resolved_quality_model": f"e/f@{'2' * 40}"},
        {"score": "Loss", "model": "g/h", "resolved_model": f"g/h@{'3' * 40}"},
    ]
    _, keys, _ = recipe(provenance, hub)
    settings = keys["selector_kwargs"]
    assert settings["method"]["by"] == {"score": "loss", "model": "g/h", "revision": "3" * 40}
    assert settings["vectors"] == {**nested, "complexity_revision": "1" * 40}, "which says main: that stays"


def test_somebody_elses_selector_within_needs_allow_imports(rows):
    provenance = select(rows, within_clusters(Random()), size=5).provenance
    parent = gather([select(rows, Random(), size=5)], title="x")["parent"]
    assert "allow_imports" not in recipe(provenance, parent)[1]
    provenance["selector"]["method"] = {"selector": "lab.mine:Mine", "width": 3}
    keys = recipe(provenance, parent)[1]
    assert keys["allow_imports"] is True
    assert keys["selector_kwargs"] == {"method": {"selector": "lab.mine:Mine", "width": 3}}


def test_what_clusters_that_are_known_were_made_of_is_asked_for(rows, tmp_path):
    clustered = score(
        rows.remove_columns(["cluster_id", "cluster_distance"]), [Cluster(k=3).fit(rows, tmp_path / "c.npy")]
    )
    missing = gather([select(clustered, KMRandom(), size=5)], clustered, title="x")["not_in_recipe"]
    assert "the clusters are those of column 'embedding': how that was computed is not recorded" in missing
    assert not any("c.npy" in each for each in missing), "the column is enough"


# -- tokens, and choices that were interrupted -----------------------------------------------------------------------
@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("with ifd >= 1", "ifd has to be below 1 for this method"),
        ("with loss < 0.2", "loss has to be at least 0.2 for this method"),
        ("near copies by embedding", "a row that they are near copies of is kept"),
        ("without ifd", "there is no value to rank it by"),
        ("left out by Mine", ""),
    ],
)
def test_reasons_of_filters_in_words(reason, said):
    assert long_reason(reason) == said


def test_a_budget_in_tokens(rows):
    counted = rows.remove_columns("num_tokens").add_column("num_tokens", [10] * 24)
    facts = gather([select(counted, Longest(), tokens=75)], counted, title="x")
    assert facts["choices"][0]["tokens"] == {"budget": 75, "chosen": 70}
    assert facts["recipe"]["selection_tokens"] == 75
    assert "selection_size" not in facts["recipe"]
    assert "7 rows, 29.2% of the pool; 70 tokens, of 75 at most" in page(facts)


def test_the_model_that_counts_tokens_is_in_the_recipe(pool_rows, tiny_model_dir):
    selection = select(pool_rows, Superfiltering(), tokens=150, model=str(tiny_model_dir))
    selection.provenance["model"] = {"name": "me/model", "resolved": f"me/model@{'b' * 40}"}
    keys = gather([selection], pool_rows, title="x")["recipe"]
    assert keys["model_name_or_path"] == "me/model", "not only that of the selector"
    assert keys["selection_tokens"] == 150


def test_an_interrupted_choice_is_said_to_be_a_beginning(rows, monkeypatch, tmp_path, no_drawing):
    def interrupted(*_, **__):
        raise Interrupted(np.array([3, 1, 4]))

    monkeypatch.setattr("hf_datasel.selectors.k_center.farthest_first", interrupted)
    with pytest.raises(Interrupted, match="3 rows had been chosen") as stopped:
        select(rows, KCenter(), size=9)
    facts = gather([stopped.value.selection], rows, title="x")
    write_report(facts, tmp_path)
    assert read_facts(tmp_path / "facts.json") == facts
    text = page(facts)
    assert "chosen by k-Center: the beginning of a choice of 9, which was interrupted.**" in text
    assert "interrupted when 3 of 9 rows had been chosen" in text
    assert "- The choice was interrupted: these are 3 of the 9 rows asked for" in text
    assert "the choice was interrupted after 3 of 9 rows: the command makes the whole of it" in text
    assert "only 3 could be chosen" not in text
    assert "came after those that were" not in text
    assert facts["recipe"]["selection_size"] == 9


# -- clusters, vectors, order ----------------------------------------------------------------------------------------
def test_how_many_clusters_are_reached(rows):
    facts = gather([select(rows, Within(Longest()), size=2)], rows, title="x")
    share = pytest.approx(1 / 3, rel=1e-5)
    found = facts["groups"]
    assert (found["column"], found["pool"], found["chosen"], found["largest"]) == ("cluster_id", 3, 2, share)
    assert "By `cluster_id` the pool falls into 3 groups, and the chosen rows are in 2 of them." in page(facts)


def test_groups_with_names_need_the_dataset(rows):
    selection = select(rows, per_source(Longest(), "source", {"sky": 0.0, "sea": 1.0}), size=4)
    found = gather([selection], rows, title="x")["groups"]
    assert found == {"column": "source", "pool": 2, "chosen": 1, "largest": 0.75, "largest_chosen": 0.0}
    assert gather([selection], title="x")["groups"] is None
    assert gather([select(rows, Longest(), size=4)], rows, title="x")["groups"] is None


def test_clusters_that_were_found_for_the_choice(rows):
    facts = gather([select(rows, KMClosest(Cluster(k=4), "equal"), size=8)], rows, title="x")
    assert (facts["groups"]["pool"], facts["groups"]["chosen"]) == (4, 4)
    assert list(facts["choices"][0]["means"]) == ["cluster_distance"], "and not the mean of the clusters' numbers"


def test_quality_goes_before_the_distance_to_a_centre(rows):
    facts = gather([select(rows, KMQ(quality="reward", clusters=Cluster(k=4)), size=5)], rows, title="x")
    assert list(facts["choices"][0]["means"]) == ["reward", "cluster_distance"]


def test_vectors_of_the_dataset_are_mapped(rows):
    selection = select(rows, KCenter(), size=5)
    found = gather([selection], rows, title="x")["map"]
    assert (found["column"], sum(map(sum, found["pool"])), sum(map(sum, found["chosen"]))) == ("embedding", 24, 5)
    assert gather([selection], title="x")["map"] is None


def test_rows_that_were_drawn_are_not_called_the_best(rows):
    configs = [
        {"name": "default", "holds": "rows", "splits": {"train": 5}, "files": {"train": "x"}, "bytes": 1,
         "default": True},
    ]  # fmt: skip
    for selector, ranked in ((KMQ(quality="reward"), False), (Top(by="reward"), True)):
        facts = {**gather([select(rows, selector, size=5)], rows, title="x"), "repo_id": "me/x", "configs": configs}
        text = page(facts)
        assert ("# best first" in text, "(0 is best)" in text) == (ranked, ranked)
        assert ("another seed draws others" in text) == (not ranked)
