import json
import shutil

import numpy as np
import pytest
from datasets import concatenate_datasets

from hf_datasel import score, select
from hf_datasel.cards.score_values import numeric_scores
from hf_datasel.errors import DatasetMismatchError, SelectionError
from hf_datasel.formats import Pool
from hf_datasel.rounds.cache import RoundCache
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.plan import RoundPlan
from hf_datasel.scores import Cluster, Duplicates, Embedding, Length
from hf_datasel.scoring.engine import Engine
from hf_datasel.selection import Selection, explain
from hf_datasel.selectors import (
    Chain,
    Deita,
    DiverseEvol,
    GraphFilter,
    InRange,
    IterIT,
    KCenter,
    KMRandom,
    Random,
    Superfiltering,
    Top,
    within_clusters,
)


@pytest.fixture
def rows(pool_rows):
    data = pool_rows.select(range(12)).add_column(
        "ifd", [0.61, 1.2, 0.93, 0.35, None, 1.0, 0.72, 0.18, 0.9, 0.97, 0.4, 0.5]
    )
    return data.add_column("cluster_id", [0, 1, 0, 0, 1, 0, 2, 1, 0, 0, 1, 2])


def scores_of(explanation):
    return {item.pop("score"): item for item in explanation["scores"]}


def test_scores_and_ranks(rows):
    selection = select(rows, Top(by="ifd"), size=4)
    assert selection.indices.tolist() == [1, 5, 9, 2]
    taken = explain(selection, rows, 9)
    assert (taken["selected"], taken["rank"], taken["num_selected"]) == (True, 2, 4)
    assert scores_of(taken) == {
        "ifd": {
            "value": 0.97,
            "reason": "",
            "texts": {},
            "rank": 3,
            "ties": 0,
            "num_rows": 11,
            "selected_range": (0.93, 1.2),
        }
    }
    missed = explain(selection, rows, 8)
    assert (missed["selected"], missed["rank"]) == (False, None)
    assert scores_of(missed)["ifd"]["rank"] == 5
    assert scores_of(explain(selection, rows, 4))["ifd"] == {
        "value": None,
        "reason": "",
        "texts": {},
        "rank": None,
        "ties": 0,
        "num_rows": 11,
        "selected_range": (0.93, 1.2),
    }


def test_unusable_row(rows):
    outputs = [*rows["output"][:3], " ", *rows["output"][4:]]
    data = rows.remove_columns("output").add_column("output", outputs)
    explanation = explain(select(data, Top(by=Length()), size=4), data, 3)
    assert explanation["unusable"] == "empty_response"
    assert scores_of(explanation)["response_words"]["reason"] == "empty_response"
    assert explanation["decided"] == []


def test_duplicates_and_clusters(rows):
    data = rows.select([0, 1, 2, 0, 4, 5, 6, 7])
    explanation = explain(select(data, within_clusters(Random()), size=8), data, 3)
    assert explanation["duplicates"] == [0]
    assert explanation["cluster"] == (0, 4, 4)


@pytest.mark.parametrize("selector", [IterIT(quality="ifd", candidate_factor=2), GraphFilter(quality="ifd")])
def test_n_grams_of_a_saved_selection(rows, selector, tmp_path):
    select(rows, selector, size=4).save(tmp_path)
    selection = Selection.load(tmp_path)
    for rank, row in enumerate(selection.indices.tolist()):
        sentence = " ".join(explain(selection, rows, row)["decided"])
        assert f"when it was selected, after {rank} others" in sentence
        assert "Its heaviest n-grams: " in sentence
    missed = next(row for row in (6, 0, 11, 8) if row not in selection.indices)
    assert "at the end; the row selected last had" in " ".join(explain(selection, rows, missed)["decided"])
    assert "It was not among the" in explain(selection, rows, 4)["decided"][0]


def test_computed_scores_are_not_computed_again(rows, tiny_model_dir):
    bare = rows.remove_columns("ifd")
    selection = select(bare, IterIT(), size=2, model=str(tiny_model_dir))
    explanation = explain(selection, bare, int(selection.indices[0]))
    assert "after 0 others" in " ".join(explanation["decided"])
    assert set(scores_of(explanation)) == {"ifd", "loss", "loss_prior"}


def test_vectors_are_computed_again(rows, tiny_model_dir):
    model = str(tiny_model_dir)
    selection = select(rows, KCenter(vectors=Embedding()), size=4, model=model)
    row = int(selection.indices[2])
    assert "has no model to run" in explain(selection, rows, row)["decided"][0]
    sentence = explain(selection, rows, row, model=model)["decided"]
    vectors = np.array(score(rows, [Embedding()], model=model)["embedding"][:])
    nearest = np.linalg.norm(vectors[selection.indices[:2]] - vectors[row], axis=1)
    assert f"is {selection.indices[nearest.argmin()]}, {nearest.min():.4g} away" in sentence[0]


def test_saved_clusters_are_reused(rows, tiny_model_dir):
    data = rows.remove_columns("cluster_id")
    selection = select(data, KMRandom(Cluster(k=2), vectors=Embedding()), size=4, model=str(tiny_model_dir))
    ids, row = selection.scores("cluster_id"), int(selection.indices[0])
    inside, mine = (ids == ids[row]).sum(), (ids[selection.indices] == ids[row]).sum()
    assert explain(selection, data, row)["decided"] == [
        f"Cluster {ids[row]:.0f} has {inside} rows to select from, of which {mine} were selected: drawn at random, "
        "with seed 0."
    ]


# -- models that are not at hand -------------------------------------------------------------------------------------
@pytest.fixture
def moved(rows, tiny_model_dir):
    """Give a selection by a model of which the record holds no more than the last part of its path."""
    selection = select(rows, KCenter(vectors=Embedding(str(tiny_model_dir))), size=4)
    for record in (selection.provenance["selector"]["vectors"], selection.provenance["scores"][0]):
        record["model"] = "tiny-model-of-mine"
    return selection


def test_missing_model_can_be_passed(rows, moved, tiny_model_dir, tiny_text_model_dir):
    row = int(moved.indices[2])
    (sentence,) = explain(moved, rows, row)["decided"]
    assert sentence.startswith(
        "More cannot be said without what the selection relied on: Embedding was computed by 'tiny-mo"
    )
    assert "Pass the model's folder" in sentence
    vectors = np.array(score(rows, [Embedding(str(tiny_model_dir))])["embedding"][:])
    nearest = np.linalg.norm(vectors[moved.indices[:2]] - vectors[row], axis=1)
    assert explain(moved, rows, row, model=tiny_model_dir)["decided"] == [
        f"The nearest of the rows selected before it is {moved.indices[nearest.argmin()]}, {nearest.min():.4g} away.",
        f"What the selection does not contain was computed by {str(tiny_model_dir)!r}.",
    ]
    (sentence,) = explain(moved, rows, row, model=str(tiny_text_model_dir))["decided"]
    assert f"computed by 'tiny-model-of-mine', and {str(tiny_text_model_dir)!r} holds another model" in sentence


@pytest.fixture
def grown(rows, tiny_model_dir):
    """Give a function that selects the second round of a growing selection, by a model after 6 updates of training."""

    def select(selector):
        compute = Engine(Pool(rows), str(tiny_model_dir)).compute
        plan = (RoundPlan(3), RoundPlan(6))
        context = RoundContext(
            RoundCache(Pool(rows), compute),
            budget=6,
            index=1,
            eligible=np.ones(12, bool),
            selected=np.array([7, 2, 9]),
            plan=plan,
        )
        if isinstance(selector, Chain):
            first = RoundContext(RoundCache(Pool(rows), compute), budget=3, eligible=np.ones(12, bool), plan=plan)
            context.selected, context.state = selector.select(first), first.state
        more = {"model": {"name": "tiny", "global_step": 6, "dtype": "torch.float32"}}
        return Selection.from_round(context, selector, selector.select(context), **more)

    return select


@pytest.mark.parametrize("chained", [False, True])
def test_other_model_than_in_training_is_refused(rows, grown, tiny_model_dir, tmp_path, chained):
    evol = DiverseEvol(rounds=2)
    selection = grown(Chain([InRange("cluster_id", 0)], evol) if chained else evol)
    old, new = int(selection.indices[0]), int(selection.indices[-1])
    for model, passed in (
        (None, "training."),
        (str(tiny_model_dir), f"{str(tiny_model_dir)!r} is not known to be that."),
    ):
        explanation = explain(selection, rows, new, model=model)
        assert explanation["decided"][0] == "It is new in this round."
        assert "Embedding was that of 'tiny' after 6 updates of training" in explanation["decided"][1]
        assert f"{passed} Pass the checkpoint-6 of the run" in explanation["decided"][1]
        assert explanation["checkpoint"] == "checkpoint-6"
    assert "It was selected in an earlier round." in explain(selection, rows, old)["decided"]


@pytest.mark.parametrize(("step", "fits"), [(6, True), (4, False)])
def test_checkpoint_of_the_selection(rows, grown, tiny_model_dir, tmp_path, step, fits):
    selection = grown(DiverseEvol(rounds=2))
    checkpoint = tmp_path / f"checkpoint-{step}"
    shutil.copytree(tiny_model_dir, checkpoint)
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    explanation = explain(selection, rows, int(selection.indices[-1]), model=checkpoint)
    assert explanation["decided"][1].startswith("The nearest of the rows selected before it is") == fits
    assert (
        explanation["decided"][-1] == f"What the selection does not contain was computed by {str(checkpoint)!r}."
    ) == fits
    assert explanation["checkpoint"] == ("" if fits else "checkpoint-6")


def test_rows_are_truncated_as_for_the_selection(rows, tiny_model_dir):
    short = Embedding(max_length=8, normalize=False)
    selection = select(rows, KCenter(vectors=short), size=4, model=str(tiny_model_dir))
    first, second = selection.indices[:2].tolist()
    del selection.provenance["selector"]["vectors"]["max_length"]  # as where training says how rows are cut
    vectors = np.array(score(rows, [short], model=str(tiny_model_dir))["embedding"][:])
    apart = np.linalg.norm(vectors[first] - vectors[second])
    sentence = explain(selection, rows, second, model=str(tiny_model_dir))["decided"][0]
    assert sentence == f"The nearest of the rows selected before it is {first}, {apart:.4g} away."


def test_near_duplicate_is_named(rows):
    vectors = np.eye(12)
    vectors[8] = 0.99 * vectors[1] + 0.1 * vectors[8]
    data = rows.add_column("embedding", vectors.tolist())
    selection = select(data, Deita(by="ifd"), size=6)
    assert "Row 1, which was selected, has a cosine of 0.9949 with it" in explain(selection, data, 8)["decided"][0]


def test_neighbor_in_group_has_row_number_of_dataset(rows):
    vectors = np.random.default_rng(1).normal(size=(12, 3))
    data = rows.add_column("embedding", vectors.tolist())
    selection = select(data, within_clusters(KCenter()), size=6)
    inside = [row for row in selection.indices.tolist() if data["cluster_id"][row] == 0]
    row = next(row for row in range(12) if data["cluster_id"][row] == 0 and row not in inside)
    nearest = min(inside, key=lambda other: np.linalg.norm(vectors[other] - vectors[row]))
    sentence = explain(selection, data, row)["decided"]
    assert sentence[0] == f"Group '0' of cluster_id: {len(inside)} of its 6 rows were selected."
    assert sentence[1].startswith(f"The nearest of the rows selected is {nearest}, ")


def test_selector_that_cannot_be_imported(rows):
    selection = select(rows, Top(by="ifd"), size=2)
    selection.provenance["selector"] = {"selector": "my_lab:Mine", "by": "ifd"}
    for leave, why in ((False, "Permit it with allow_imports if you trust it."), (True, "No module named 'my_lab'.")):
        (sentence,) = explain(selection, rows, 0, allow_imports=leave)["decided"]
        assert sentence.startswith("The selector is not available, so it cannot say more. Selector 'my_lab:Mine'")
        assert why in sentence


def test_explanation_is_json(rows):
    explanation = explain(select(rows, IterIT(quality="ifd"), size=3), rows, 0)
    assert json.loads(json.dumps(explanation))["row"] == 0


@pytest.mark.parametrize("row", [12, -1, 1.0, "3"])
def test_row_out_of_range(rows, row):
    with pytest.raises(SelectionError, match=r"There is no row .*: the dataset has 12 rows, 0 to 11"):
        explain(select(rows, Top(by="ifd"), size=2), rows, row)


def test_row_numbers_have_no_rank(rows, tmp_path):
    data = concatenate_datasets([rows, rows.select([3])])
    selection = select(
        data,
        Chain([InRange(Duplicates().fit(data, tmp_path / "groups.npy"), high=3, column="duplicate_rows")], Random()),
        size=6,
    )
    scores = scores_of(explain(selection, data, 12))
    assert scores["duplicate_of"] == {
        "value": 3.0,
        "reason": "",
        "texts": {},
        "rank": None,
        "ties": 1,
        "num_rows": 13,
        "selected_range": None,
    }
    assert scores["duplicate_rows"]["rank"] == 1
    assert "duplicate_of" not in selection.summary()
    assert numeric_scores(selection) == ["duplicate_rows", "duplicate_similarity"]


def test_other_dataset_is_refused(rows):
    with pytest.raises(DatasetMismatchError, match="another dataset"):
        explain(select(rows, Top(by="ifd"), size=2), rows.select(range(11, -1, -1)), 0)


def test_rank_skips_excluded_rows(pool_rows):
    rows = pool_rows.select(range(10)).add_column("ifd", [1.3, 0.2, 1.1, 0.9, 1.0, 0.5, 0.7, 0.1, 0.4, 1.7])
    selection = select(rows, Superfiltering(quality="ifd"), size=2)
    assert selection.indices.tolist() == [3, 6]
    explanation = explain(selection, rows, 8)
    assert (explanation["scores"][0]["rank"], explanation["scores"][0]["num_rows"]) == (4, 6)
    assert explanation["decided"][0].startswith("Of the 6 rows to select from 3 have a higher ifd")
    first = explain(selection, rows, 3)["scores"][0]
    assert (first["rank"], first["num_rows"]) == (1, 6)


def test_rank_of_excluded_row(pool_rows):
    rows = pool_rows.select(range(4)).add_column("ifd", [1.3, 0.2, 1.1, 0.9])
    explanation = explain(select(rows, Superfiltering(quality="ifd"), size=1), rows, 2)["scores"][0]
    assert (explanation["rank"], explanation["num_rows"]) == (2, 4)


def test_rank_without_exclusions(pool_rows):
    rows = pool_rows.select(range(6)).add_column("ifd", np.linspace(0.5, 1.5, 6))
    explanation = explain(select(rows, Top(by="ifd"), size=1), rows, 0)["scores"][0]
    assert (explanation["rank"], explanation["num_rows"]) == (6, 6)
