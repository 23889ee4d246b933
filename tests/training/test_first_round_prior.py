"""`prior="first-round"`: later rounds keep the loss without the prompt of the first round that scored a row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from hf_datasel import score, select
from hf_datasel.cards.build import gather
from hf_datasel.cards.card import page
from hf_datasel.errors import ConfigError
from hf_datasel.rounds.selector import Selector
from hf_datasel.scores import IFD
from hf_datasel.selection import explain
from hf_datasel.selectors import IterIT, Within
from hf_datasel.strategies.ngram import ngram_greedy

COLUMNS = ("ifd", "loss", "loss_prior")
FIRST = IterIT(prior="first-round")
RUN = {"selection_size": 3, "num_train_epochs": 3}
WINDOW = 9


@dataclass(frozen=True)
class Moving(Selector):
    """Scores rows 0 to 7, then 4 to 11 in reverse, then all of these, and selects the first of them."""

    prior: str | None = "first-round"
    reselects = True

    def select(self, context):
        rows = [np.arange(8), np.arange(11, 3, -1), np.arange(12)][context.index]
        context.score(IFD(prior=self.prior), rows)
        return np.sort(rows)[: context.budget]


def columns(trainer, index):
    return {name: trainer.selections[index].scores(name) for name in COLUMNS}


def reused(trainer):
    specs = [selection.provenance["scores"] for selection in trainer.selections]
    return [[spec["computed"].get("reused_prior_loss", 0) for spec in scores] for scores in specs]


# -- the numbers ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("more", [{}, {"packing": True}], ids=["plain", "packing"])
def test_ifd_of_later_rounds_by_hand(train, pool_rows, passes, more):
    exact = train(IterIT(), "exact", num_train_epochs=2, selection_size=3, **more)
    both = sum(passes)
    passes.clear()
    first = train(FIRST, "first", num_train_epochs=2, selection_size=3, **more)
    start, now, ours = columns(exact, 0), columns(exact, 1), columns(first, 1)
    window = np.flatnonzero(np.isfinite(now["ifd"]))
    assert len(window) == WINDOW
    assert both - sum(passes) == WINDOW, "one pass less for each row of the window"
    assert all(np.array_equal(columns(first, 0)[name], start[name], equal_nan=True) for name in COLUMNS)
    np.testing.assert_array_equal(ours["loss"], now["loss"])
    np.testing.assert_array_equal(ours["loss_prior"][window], start["loss_prior"][window])
    assert (start["loss_prior"] != now["loss_prior"])[window].all(), "the exact way has another prior"
    by_hand = np.exp(now["loss"] - start["loss_prior"])
    np.testing.assert_allclose(ours["ifd"][window], by_hand[window], rtol=1e-6)
    valid = window[ours["ifd"][window] < 1]
    texts = [f"{pool_rows[int(row)]['output']}<|end_of_text|>" for row in valid]
    picked = valid[ngram_greedy(texts, ours["ifd"][valid], 3, 0.1)]
    assert first.selections[1].indices.tolist() == picked.tolist()


def test_rows_that_are_new_in_a_later_round_have_the_prior_of_that_round(train, passes):
    options = {"selection_size": 4, "num_train_epochs": 3}
    exact, ours = (train(Moving(prior), str(prior), **options) for prior in (None, "first-round"))
    expected = [columns(exact, index)["loss_prior"] for index in range(3)]
    expected[1][4:8] = expected[0][4:8]
    expected[2][:8], expected[2][8:12] = expected[0][:8], expected[1][8:12]
    for index in range(3):
        np.testing.assert_array_equal(columns(ours, index)["loss_prior"], expected[index])
        np.testing.assert_array_equal(columns(ours, index)["loss"], columns(exact, index)["loss"])
    assert reused(ours) == [[0], [4], [12]]
    assert reused(exact) == [[0], [0], [0]]


def test_groups_and_a_score_store_have_the_same_rows(train, pool_rows, tmp_path, passes):
    rows = pool_rows.add_column("source", ["a", "b"] * 12)
    grouped = Within(FIRST, "source")
    plain = train(grouped, "plain", rows=rows, **RUN)
    train(Within(IterIT(), "source"), "filled", rows=rows, score_store=str(tmp_path / "scores"), **RUN)
    passes.clear()
    stored = train(grouped, "stored", rows=rows, score_store=str(tmp_path / "scores"), **RUN)
    assert [each.indices.tolist() for each in stored.selections] == [
        each.indices.tolist() for each in plain.selections
    ]
    assert reused(stored) == reused(plain) == [[0], [6, 3], [6, 3]], "the windows of both groups"
    assert sum(passes) <= 2 * WINDOW, "the first round is stored, and later ones run one pass for each row"


# -- checkpoints ------------------------------------------------------------------------------------------------------
def test_resume_is_exact_from_every_checkpoint(train, resumed, passes):
    options = {**RUN, "save_strategy": "steps", "save_steps": 1, "per_device_train_batch_size": 2}
    whole = train(FIRST, "whole", **options)
    for again in resumed(whole, FIRST, **options):
        assert reused(again) == reused(whole) == [[0], [WINDOW], [WINDOW]]
        for index in range(3):
            for name, values in columns(whole, index).items():
                np.testing.assert_array_equal(columns(again, index)[name], values)


def test_exact_runs_keep_nothing_for_later_rounds(train, tmp_path):
    train(IterIT(), "run", save_strategy="epoch", **RUN)
    saved = list((tmp_path / "run").glob("checkpoint-*/*.npz"))
    assert len(saved) == 3
    assert all("first_round" not in name for path in saved for name in np.load(path).files)
    train(FIRST, "first", save_strategy="epoch", **RUN)
    arrays = np.load(next((tmp_path / "first").glob("checkpoint-1/*.npz")))
    assert arrays["state/first_round/digests"].shape == (24, 16)


# -- the record -------------------------------------------------------------------------------------------------------
def test_the_approximation_is_recorded(train, tmp_path, pool_rows):
    trainer = train(FIRST, "run", **RUN)
    assert reused(trainer) == [[0], [WINDOW], [WINDOW]]
    for selection in trainer.selections:
        assert selection.provenance["selector"]["prior"] == "first-round"
        assert selection.provenance["scores"][0]["prior"] == "first-round"
    sentence = "In later rounds the losses without the prompt (`loss_prior`) are those of the first round"
    trainer.create_model_card(model_name="run")
    model_card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert sentence in model_card
    assert "`prior` = `first-round`" in model_card
    card = page(gather(trainer.selections, pool_rows, title="x"))
    assert sentence in card
    assert "| `prior` | `first-round` |" in card


def test_explanation_names_the_approximation(train, pool_rows):
    trainer = train(FIRST, "run", **RUN)
    said = [explain(selection, pool_rows, int(selection.indices[0]))["decided"] for selection in trainer.selections]
    assert not any("approximation" in sentence for sentence in said[0])
    for sentences in said[1:]:
        assert sentences[0].startswith(
            "The ifd of this round is an approximation: its loss_prior is that of the first"
        )
        assert len(sentences) > 1, "n-grams are explained from the recorded values, without a model"


def test_one_round_is_exact(pool_rows, tiny_model_dir):
    exact, ours = (score(pool_rows, IFD(prior=prior), model=str(tiny_model_dir)) for prior in (None, "first-round"))
    assert all(ours[name][:] == exact[name][:] for name in COLUMNS)
    selections = [select(exact, selector, size=3) for selector in (IterIT(), FIRST)]  # from the columns
    assert selections[0].indices.tolist() == selections[1].indices.tolist()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IFD(prior="first"), r"IFD\(prior='first'\): it has to be 'first-round' or None\."),
        (lambda: IFD("m/n", prior="first-round"), r"is for the model in training, and 'm/n' does not change"),
        (lambda: IterIT(model="m/n", prior="first-round"), r"Leave out prior or model\."),
        (lambda: IterIT(quality="ifd", prior="first-round"), r"the column is used as it is in every round\."),
    ],
)
def test_settings_that_have_no_effect_are_errors(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
