import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import get_dataset_config_names, load_dataset

from hf_datasel import Selection, select
from hf_datasel.cards import pull_evaluation, push_selections
from hf_datasel.errors import PublishError
from hf_datasel.evaluation import MatchedAnswers
from hf_datasel.selectors import Longest, Random

from .test_results import LOSS, LOSS_RANDOM, RANDOM, SELECTED

REPO = "tester/selected"
RESULTS = [SELECTED, RANDOM, LOSS, LOSS_RANDOM]


@pytest.fixture
def selection(parent):
    return select(parent, Longest(), size=6)


def answers(*texts, model="tester/model", **settings):
    """Return results of questions with these answers, of which the first is correct."""
    count = len(texts)
    return MatchedAnswers(
        row_ids=np.arange(32 * count, dtype=np.uint8).reshape(count, 32),
        reasons=np.full(count, ""),
        groups=np.full(count, ""),
        settings={"model": {"name": model}, "group_by": None, **settings},
        correct=np.eye(count)[0],
        truncated=np.zeros(count, dtype=bool),
        answers=np.array(texts, dtype=object),
        references=np.array(["yes"] * count, dtype=object),
    )


@pytest.fixture
def items(tmp_path):
    """Give a folder of an experiment: results of questions of two runs, and scores of a selection."""
    folder = tmp_path / "bench"
    for run in range(2):
        answers("yes", f"no {run}").save(folder / f"cells/iterit-seed-{run}/facts.parquet")
    pq.write_table(pa.table({"ifd": [1.0]}), folder / "cells/iterit-seed-0/scores.parquet")
    return folder


def test_evaluation_round_trip(hub, parent, selection, items):
    selection.push_to_hub(REPO, results=RESULTS, items=items)
    again = pull_evaluation(REPO)
    assert again.results == RESULTS
    assert again.items.keys() == {"cells/iterit-seed-0/facts", "cells/iterit-seed-1/facts"}
    loaded = MatchedAnswers.load(again.items["cells/iterit-seed-1/facts"])
    assert loaded.answers.tolist() == ["yes", "no 1"]
    assert loaded.values.tolist() == [1.0, 0.0]
    assert Selection.from_hub(REPO) == selection


def test_items_are_no_rows(hub, parent, selection, items):
    selection.push_to_hub(REPO, results=RESULTS, items=items)
    assert get_dataset_config_names(REPO) == ["default", "scores"]
    assert load_dataset(REPO, split="train")[:] == selection.apply(parent)[:]
    card = hub.files(REPO)["README.md"].decode()
    assert "`evaluation/default/cells/iterit-seed-0/facts.parquet`" in card
    assert "plots/forest-light.png" in card
    assert {path for path in hub.files(REPO) if path.startswith("evaluation/")} == {
        "evaluation/default/results.json",
        "evaluation/default/cells/iterit-seed-0/facts.parquet",
        "evaluation/default/cells/iterit-seed-1/facts.parquet",
    }


def test_second_push_with_items_uploads_nothing(hub, selection, items):
    answers("yes", model="/home/me/models/mine").save(items / "local.parquet")
    named = {"mine": items / "local.parquet", "other": items / "cells/iterit-seed-0/facts.parquet"}
    first = selection.push_to_hub(REPO, results=RESULTS, items=named)
    assert selection.push_to_hub(REPO, results=RESULTS, items=named).oid == first.oid
    assert len(hub.commits(REPO)) == 2


def test_results_of_an_earlier_push_are_removed(hub, selection, items):
    selection.push_to_hub(REPO, results=RESULTS, items=items)
    selection.push_to_hub(REPO)
    assert not [path for path in hub.files(REPO) if path.startswith(("evaluation/", "plots/forest"))]
    assert "No model trained on these rows has been evaluated." in hub.files(REPO)["README.md"].decode()


def test_results_of_several_selections(hub, parent, selection, items):
    selection.push_to_hub(REPO, results=RESULTS, items=items)
    rounds = [select(parent, Random(), size=5, seed=seed) for seed in range(2)]
    for index, item in enumerate(rounds):
        item.provenance |= {"round": index, "seed": 0}
    push_selections(rounds, REPO, parent, config_name="other", results=[RANDOM])
    assert pull_evaluation(REPO).results == RESULTS
    assert pull_evaluation(REPO, config_name="other").results == [RANDOM]
    assert pull_evaluation(REPO, config_name="other").items == {}
    with pytest.raises(PublishError, match=r"no evaluation results of 'othr'. Did you mean 'other'\?"):
        pull_evaluation(REPO, config_name="othr")


def test_local_paths_in_items_are_not_published(hub, selection, tmp_path):
    own = answers("yes", model="/home/me/models/mine", task={"dataset_name": "/home/me/exam.jsonl"})
    own.save(tmp_path / "mine.parquet")
    selection.push_to_hub(REPO, results=RESULTS, items={"mine": tmp_path / "mine.parquet"})
    assert b"/home/me" not in hub.files(REPO)["evaluation/default/mine.parquet"]
    loaded = MatchedAnswers.load(pull_evaluation(REPO).items["mine"])
    assert loaded.settings["model"] == {"name": "mine"}
    assert loaded.settings["task"] == {"dataset_name": "exam.jsonl"}
    assert loaded.answers.tolist() == ["yes"]


def test_secrets_in_answers_are_refused(hub, selection, tmp_path):
    token = "hf_" + "aB3dE5gH7jK9mN1pQ2sT4vW6xY8zR0uI"
    answers("yes", f"the token is {token}").save(tmp_path / "mine.parquet")
    items = {"mine": tmp_path / "mine.parquet"}
    with pytest.raises(
        PublishError, match=r"evaluation/default/mine\.parquet: row 1 \(Hugging Face token hf_a… in answers\)"
    ):
        selection.push_to_hub(REPO, results=RESULTS, items=items)
    assert not [seen for seen in hub.requests if "/commit/" in seen.path and REPO in seen.path]
    selection.push_to_hub(REPO, results=RESULTS, items=items, allow_secrets=True)
    assert "mine" in pull_evaluation(REPO).items


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "missing", r"has no Parquet files with results of questions"),
        (lambda folder: {"a": folder / "missing.parquet"}, r"Cannot read '.*missing\.parquet': No such file"),
        (lambda folder: {"a": folder / "cells/iterit-seed-0/scores.parquet"}, "RowResults.save did not write it"),
        (lambda folder: {"../a": folder / "cells/iterit-seed-0/facts.parquet"}, r"'\.\./a' is no name"),
        (lambda folder: {"a": folder / "text.parquet"}, "is damaged, or no Parquet file"),
    ],
)
def test_invalid_items_are_refused(hub, selection, items, make, message):
    (items / "text.parquet").write_text("no table")
    before = len(hub.requests)
    with pytest.raises(PublishError, match=message):
        selection.push_to_hub(REPO, results=RESULTS, items=make(items))
    assert len(hub.requests) == before, "refused before anything is asked of the Hub"


def test_items_need_results(hub, selection, items):
    with pytest.raises(PublishError, match="Pass results, too"):
        selection.push_to_hub(REPO, items=items)


def test_invalid_results_are_not_pushed(hub, selection):
    before = len(hub.requests)
    with pytest.raises(PublishError, match=r"results\[0\] has an unknown key 'metrik'"):
        selection.push_to_hub(REPO, results=[{**RANDOM, "metrik": "loss"}])
    assert len(hub.requests) == before


def test_repository_without_results(hub, selection):
    selection.push_to_hub(REPO)
    with pytest.raises(PublishError, match="holds no evaluation results"):
        pull_evaluation(REPO)


def test_damaged_results_are_named(hub, selection):
    selection.push_to_hub(REPO, results=RESULTS)
    hub.commit(REPO, {"evaluation/default/results.json": json.dumps([{**RANDOM, "p": 2.0}]).encode()})
    with pytest.raises(PublishError, match=r"results\.json\[0\] has 'p' without 'versus'|\['p'\] is 2"):
        pull_evaluation(REPO)
