import json
import shutil

import numpy as np
import pytest

from hf_datasel import score, select
from hf_datasel.errors import DatasetMismatchError, SelectionError
from hf_datasel.formats import Pool
from hf_datasel.rounds.context import Round, RoundPlan
from hf_datasel.scores import Cluster, Embedding, Length
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


def scores_of(found):
    return {each.pop("score"): each for each in found["scores"]}


def test_scores_and_their_places(rows):
    selection = select(rows, Top(by="ifd"), size=4)
    assert selection.indices.tolist() == [1, 5, 9, 2]
    taken = explain(selection, rows, 9)
    assert (taken["taken"], taken["rank"], taken["of"]) == (True, 2, 4)
    assert scores_of(taken) == {"ifd": {"value": 0.97, "reason": "", "place": 3, "of": 11, "chosen": (0.93, 1.2)}}
    missed = explain(selection, rows, 8)
    assert (missed["taken"], missed["rank"]) == (False, None)
    assert scores_of(missed)["ifd"]["place"] == 5
    assert scores_of(explain(selection, rows, 4))["ifd"] == {
        "value": None,
        "reason": "",
        "place": None,
        "of": 11,
        "chosen": (0.93, 1.2),
    }


def test_a_row_that_cannot_be_used(rows):
    outputs = [*rows["output"][:3], " ", *rows["output"][4:]]
    data = rows.remove_columns("output").add_column("output", outputs)
    found = explain(select(data, Top(by=Length()), size=4), data, 3)
    assert found["unusable"] == "empty_response"
    assert scores_of(found)["response_words"]["reason"] == "empty_response"
    assert found["decided"] == []


def test_copies_and_clusters(rows):
    data = rows.select([0, 1, 2, 0, 4, 5, 6, 7])
    found = explain(select(data, within_clusters(Random()), size=8), data, 3)
    assert found["copies"] == [0]
    assert found["cluster"] == (0, 4, 4)


@pytest.mark.parametrize("selector", [IterIT(quality="ifd", candidate_factor=2), GraphFilter(quality="ifd")])
def test_n_grams_of_a_saved_choice(rows, selector, tmp_path):
    select(rows, selector, size=4).save(tmp_path)
    selection = Selection.load(tmp_path)
    for rank, row in enumerate(selection.indices.tolist()):
        said = " ".join(explain(selection, rows, row)["decided"])
        assert f"when it was chosen, after {rank} others" in said
        assert "Its heaviest n-grams: " in said
    missed = next(row for row in (6, 0, 11, 8) if row not in selection.indices)
    assert "at the end; the row chosen last had" in " ".join(explain(selection, rows, missed)["decided"])
    assert "It was not among the" in explain(selection, rows, 4)["decided"][0]


def test_computed_scores_are_not_computed_again(rows, tiny_model_dir):
    bare = rows.remove_columns("ifd")
    selection = select(bare, IterIT(), size=2, model=str(tiny_model_dir))
    found = explain(selection, bare, int(selection.indices[0]))
    assert "after 0 others" in " ".join(found["decided"])
    assert set(scores_of(found)) == {"ifd", "loss", "loss_prior"}


def test_vectors_that_the_selection_does_not_hold(rows, tiny_model_dir):
    model = str(tiny_model_dir)
    selection = select(rows, KCenter(vectors=Embedding()), size=4, model=model)
    row = int(selection.indices[2])
    assert "has no model to run" in explain(selection, rows, row)["decided"][0]
    said = explain(selection, rows, row, model=model)["decided"]
    vectors = np.array(score(rows, [Embedding()], model=model)["embedding"][:])
    nearest = np.linalg.norm(vectors[selection.indices[:2]] - vectors[row], axis=1)
    assert f"is {selection.indices[nearest.argmin()]}, {nearest.min():.4g} away" in said[0]


def test_clusters_that_the_selection_holds_are_not_found_again(rows, tiny_model_dir):
    data = rows.remove_columns("cluster_id")
    selection = select(data, KMRandom(Cluster(k=2), vectors=Embedding()), size=4, model=str(tiny_model_dir))
    ids, row = selection.scores("cluster_id"), int(selection.indices[0])
    inside, mine = (ids == ids[row]).sum(), (ids[selection.indices] == ids[row]).sum()
    assert explain(selection, data, row)["decided"] == [
        f"Cluster {ids[row]:.0f} has {inside} rows to choose from, of which {mine} were chosen: drawn at random, "
        "with seed 0."
    ]


# -- models that are not at hand -------------------------------------------------------------------------------------
@pytest.fixture
def moved(rows, tiny_model_dir):
    """Give a choice by a model of which the record holds no more than the last part of its path."""
    selection = select(rows, KCenter(vectors=Embedding(str(tiny_model_dir))), size=4)
    for record in (selection.provenance["selector"]["vectors"], selection.provenance["scores"][0]):
        record["model"] = "tiny-model-of-mine"
    return selection


def test_a_model_that_the_record_has_no_path_of_can_be_passed(rows, moved, tiny_model_dir, tiny_text_model_dir):
    row = int(moved.indices[2])
    (said,) = explain(moved, rows, row)["decided"]
    assert said.startswith("More cannot be said without what the choice relied on: Embedding was computed by 'tiny-mo")
    assert "Pass --model_name_or_path with the model's folder" in said
    vectors = np.array(score(rows, [Embedding(str(tiny_model_dir))])["embedding"][:])
    nearest = np.linalg.norm(vectors[moved.indices[:2]] - vectors[row], axis=1)
    assert explain(moved, rows, row, model=tiny_model_dir)["decided"] == [
        f"The nearest of the rows chosen before it is {moved.indices[nearest.argmin()]}, {nearest.min():.4g} away.",
        f"What the selection does not hold was computed by {str(tiny_model_dir)!r}.",
    ]
    (said,) = explain(moved, rows, row, model=str(tiny_text_model_dir))["decided"]
    assert f"computed by 'tiny-model-of-mine', and {str(tiny_text_model_dir)!r} holds another model" in said


@pytest.fixture
def grown(rows, tiny_model_dir):
    """Give a function that chooses the second round of a growing choice, by a model after 6 updates of training."""

    def choose(selector):
        compute = Engine(Pool(rows), str(tiny_model_dir)).compute
        plan = (RoundPlan(3), RoundPlan(6))
        round = Round(1, Pool(rows), np.ones(12, bool), 6, compute, chosen=np.array([7, 2, 9]), plan=plan)
        if isinstance(selector, Chain):
            first = Round(0, Pool(rows), np.ones(12, bool), 3, compute, plan=plan)
            round.chosen, round.state = selector.choose(first), first.state
        more = {"model": {"name": "tiny", "global_step": 6, "dtype": "torch.float32"}}
        return Selection.from_round(round, selector, selector.choose(round), **more)

    return choose


@pytest.mark.parametrize("chained", [False, True])
def test_another_model_than_the_one_in_training_is_refused(rows, grown, tiny_model_dir, tmp_path, chained):
    evol = DiverseEvol(rounds=2)
    selection = grown(Chain([InRange("cluster_id", 0)], evol) if chained else evol)
    old, new = int(selection.indices[0]), int(selection.indices[-1])
    for model, given in (
        (None, "training."),
        (str(tiny_model_dir), f"{str(tiny_model_dir)!r} is not known to be that."),
    ):
        found = explain(selection, rows, new, model=model)
        assert found["decided"][0] == "It is new in this round."
        assert "Embedding was that of 'tiny' after 6 updates of training" in found["decided"][1]
        assert f"{given} Pass the checkpoint-6 of the run" in found["decided"][1]
        assert found["checkpoint"] == "checkpoint-6"
    assert "It was chosen in an earlier round." in explain(selection, rows, old)["decided"]


@pytest.mark.parametrize(("step", "fits"), [(6, True), (4, False)])
def test_the_checkpoint_of_the_time_of_the_choice(rows, grown, tiny_model_dir, tmp_path, step, fits):
    selection = grown(DiverseEvol(rounds=2))
    checkpoint = tmp_path / f"checkpoint-{step}"
    shutil.copytree(tiny_model_dir, checkpoint)
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    found = explain(selection, rows, int(selection.indices[-1]), model=checkpoint)
    assert found["decided"][1].startswith("The nearest of the rows chosen before it is") == fits
    assert (found["decided"][-1] == f"What the selection does not hold was computed by {str(checkpoint)!r}.") == fits
    assert found["checkpoint"] == ("" if fits else "checkpoint-6")


def test_rows_are_cut_as_they_were_for_the_choice(rows, tiny_model_dir):
    short = Embedding(max_length=8, normalize=False)
    selection = select(rows, KCenter(vectors=short), size=4, model=str(tiny_model_dir))
    first, second = selection.indices[:2].tolist()
    del selection.provenance["selector"]["vectors"]["max_length"]  # as where training says how rows are cut
    vectors = np.array(score(rows, [short], model=str(tiny_model_dir))["embedding"][:])
    apart = np.linalg.norm(vectors[first] - vectors[second])
    said = explain(selection, rows, second, model=str(tiny_model_dir))["decided"][0]
    assert said == f"The nearest of the rows chosen before it is {first}, {apart:.4g} away."


def test_the_near_copy_that_decided(rows):
    vectors = np.eye(12)
    vectors[8] = 0.99 * vectors[1] + 0.1 * vectors[8]
    data = rows.add_column("embedding", vectors.tolist())
    selection = select(data, Deita(by="ifd"), size=6)
    assert "Row 1, which was chosen, has a cosine of 0.9949 with it" in explain(selection, data, 8)["decided"][0]


def test_a_neighbour_in_a_group_has_the_number_of_the_dataset(rows):
    vectors = np.random.default_rng(1).normal(size=(12, 3))
    data = rows.add_column("embedding", vectors.tolist())
    selection = select(data, within_clusters(KCenter()), size=6)
    inside = [row for row in selection.indices.tolist() if data["cluster_id"][row] == 0]
    row = next(row for row in range(12) if data["cluster_id"][row] == 0 and row not in inside)
    nearest = min(inside, key=lambda other: np.linalg.norm(vectors[other] - vectors[row]))
    said = explain(selection, data, row)["decided"]
    assert said[0] == f"Group '0' of cluster_id: {len(inside)} of its 6 rows were chosen."
    assert said[1].startswith(f"The nearest of the rows chosen is {nearest}, ")


def test_a_selector_that_is_not_at_hand(rows):
    selection = select(rows, Top(by="ifd"), size=2)
    selection.provenance["selector"] = {"selector": "my_lab:Mine", "by": "ifd"}
    for leave, why in ((False, "Pass --allow-imports if you trust it."), (True, "No module named 'my_lab'.")):
        (said,) = explain(selection, rows, 0, allow_imports=leave)["decided"]
        assert said.startswith("The method is not at hand, so that it cannot say more. Selector 'my_lab:Mine'")
        assert why in said


def test_it_goes_straight_to_json(rows):
    found = explain(select(rows, IterIT(quality="ifd"), size=3), rows, 0)
    assert json.loads(json.dumps(found))["row"] == 0


@pytest.mark.parametrize("row", [12, -1, 1.0, "3"])
def test_a_row_that_is_not_there(rows, row):
    with pytest.raises(SelectionError, match=r"row=.* is none of the 12 rows: 0 to 11"):
        explain(select(rows, Top(by="ifd"), size=2), rows, row)


def test_another_dataset_is_refused(rows):
    with pytest.raises(DatasetMismatchError, match="another dataset"):
        explain(select(rows, Top(by="ifd"), size=2), rows.select(range(11, -1, -1)), 0)


def test_rows_that_were_ruled_out_are_not_counted_above(pool_rows):
    rows = pool_rows.select(range(10)).add_column("ifd", [1.3, 0.2, 1.1, 0.9, 1.0, 0.5, 0.7, 0.1, 0.4, 1.7])
    selection = select(rows, Superfiltering(quality="ifd"), size=2)
    assert selection.indices.tolist() == [3, 6]
    found = explain(selection, rows, 8)
    assert (found["scores"][0]["place"], found["scores"][0]["of"]) == (4, 6)
    assert found["decided"][0].startswith("Of the 6 rows to choose from 3 have a higher ifd")
    first = explain(selection, rows, 3)["scores"][0]
    assert (first["place"], first["of"]) == (1, 6)


def test_a_row_that_was_ruled_out_has_its_place_among_all(pool_rows):
    rows = pool_rows.select(range(4)).add_column("ifd", [1.3, 0.2, 1.1, 0.9])
    found = explain(select(rows, Superfiltering(quality="ifd"), size=1), rows, 2)["scores"][0]
    assert (found["place"], found["of"]) == (2, 4)


def test_where_nothing_is_ruled_out_all_rows_count(pool_rows):
    rows = pool_rows.select(range(6)).add_column("ifd", np.linspace(0.5, 1.5, 6))
    found = explain(select(rows, Top(by="ifd"), size=1), rows, 0)["scores"][0]
    assert (found["place"], found["of"]) == (6, 6)
