"""Batches: plans that go on where they were, memory that runs out, and what the context makes of the results."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from hf_datasel import score
from hf_datasel.errors import ModelError
from hf_datasel.scores import IFD, Loss
from hf_datasel.scoring import logprobs as forward
from hf_datasel.scoring.batching import Batches, plan_batches, remaining
from hf_datasel.scoring.progress import Progress
from hf_datasel.scoring.runner import ModelContext

LENGTHS = np.random.default_rng(0).integers(1, 200, 300)


def test_batches_keep_to_the_token_budget_and_hold_each_row_once():
    batches = plan_batches(LENGTHS, 500)
    assert sorted(np.concatenate(batches).tolist()) == list(range(300))
    assert all(len(batch) * LENGTHS[batch].max() <= 500 for batch in batches)
    padded = sum(len(batch) * LENGTHS[batch].max() for batch in batches)
    assert padded < 1.1 * LENGTHS.sum()


def test_one_row_longer_than_the_budget_is_a_batch_of_its_own():
    assert [batch.tolist() for batch in plan_batches(np.array([3, 900, 4]), 8)] == [[1], [2, 0]]


def test_rows_in_a_batch_have_a_bound_of_their_own():
    assert {len(batch) for batch in plan_batches(np.ones(10, dtype=np.int64), 1000, 4)} == {4, 2}


@pytest.mark.parametrize("lengths", [np.empty(0, dtype=np.int64), np.zeros(3, dtype=np.int64)])
def test_nothing_to_plan(lengths):
    assert sum(map(len, plan_batches(lengths, 10))) == len(lengths)


def test_a_plan_that_was_interrupted_goes_on_with_the_same_batches():
    batches = plan_batches(LENGTHS, 500)
    known = np.zeros(300, dtype=bool)
    known[np.concatenate(batches[:7])] = True
    left = remaining(batches, known, LENGTHS, 500)
    assert [each.tolist() for each in left] == [each.tolist() for each in batches[7:]]


def test_what_is_left_of_broken_batches_is_put_together():
    batches = plan_batches(LENGTHS, 500)
    known = np.random.default_rng(1).random(300) < 0.9
    known[batches[3]] = False
    left = remaining(batches, known, LENGTHS, 500)
    assert left[0].tolist() == batches[3].tolist()
    assert sorted(np.concatenate(left).tolist()) == np.flatnonzero(~known).tolist()
    assert len(left) < len(batches) / 3
    assert remaining(batches, np.ones(300, dtype=bool), LENGTHS, 500) == []


# -- memory that runs out -----------------------------------------------------------------------------------------
class Short:
    """A device with room for so many rows."""

    def __init__(self, rows, error=torch.OutOfMemoryError):
        self.rows, self.error, self.tried = rows, error, []

    def __call__(self, part):
        self.tried.append(len(part))
        if len(part) > self.rows:
            raise self.error("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return [part[:, None] * 10.0]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_a_batch_that_does_not_fit_is_split_and_no_row_is_lost(error):
    device = Short(3, error)
    batches = Batches(np.full(40, 5), device)
    found = {}
    for batch in (np.arange(16), np.arange(16, 40)):
        for part, (values,) in batches.results(batch):
            found.update(zip(part.tolist(), values[:, 0].tolist(), strict=True))
    assert found == {row: 10.0 * row for row in range(40)}
    assert batches.room == 10
    assert device.tried[:4] == [16, 8, 4, 2]
    assert max(device.tried[4:]) <= 2  # what did not fit once is not tried again


def test_a_row_that_does_not_fit_alone():
    with pytest.raises(ModelError, match="A row of 7 tokens does not fit into the memory of the device, even alone"):
        list(Batches(np.array([7]), Short(0)).results(np.array([0])))


def test_another_error_is_not_taken_for_short_memory():
    def broken(part):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        list(Batches(np.array([7, 8]), broken).results(np.array([0, 1])))


def test_scores_are_the_same_with_less_memory(model, tokenizer, pool_rows, monkeypatch):
    expected = score(pool_rows, [IFD()], model=model, tokenizer=tokenizer)
    whole = forward.Forwards.hidden

    def short(self, batch):
        if len(batch) * max(len(each.ids) for each in batch) > 150:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(self, batch)

    monkeypatch.setattr(forward.Forwards, "hidden", short)
    found = score(pool_rows, [IFD()], model=model, tokenizer=tokenizer)
    np.testing.assert_allclose(found["ifd"], expected["ifd"], rtol=1e-5)


# -- the context --------------------------------------------------------------------------------------------------
def test_work_without_a_model():
    context = ModelContext(tokens_per_batch=10, progress=False)
    asked = []

    def compute(batch):
        asked.append(batch.tolist())
        return np.stack([batch, batch**2], axis=1)

    found = context.run(compute, np.array([4, 9, 5]), 2, label="squares")
    assert found.tolist() == [[0, 0], [1, 1], [2, 4]]
    assert asked == [[1], [2, 0]]


def test_what_was_not_announced_takes_another_pass(model, tokenizer, pool_rows):
    from hf_datasel.formats import Pool
    from hf_datasel.scoring.logprobs import PooledStates, SummedNLL
    from hf_datasel.tokens import TokenRows

    sequences = TokenRows(Pool(pool_rows), tokenizer).training().conditional
    context, seen = ModelContext(model, progress=False), []
    model.base_model.layers[0].register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    nll = context.reduced(sequences, SummedNLL(), "loss")
    first = sum(seen)
    assert context.reduced(sequences, SummedNLL(), "loss") is nll
    assert sum(seen) == first
    vectors = context.reduced(sequences, PooledStates("both", "mean"), "embedding")
    assert sum(seen) == first + 24
    again = ModelContext(model, progress=False)
    again.announce(sequences, SummedNLL())
    again.announce(sequences, PooledStates("both", "mean"))
    assert np.array_equal(again.reduced(sequences, PooledStates("both", "mean"), "embedding"), vectors)
    assert np.array_equal(again.reduced(sequences, SummedNLL(), "loss"), nll)
    assert sum(seen) == 2 * first + 24


# -- progress -----------------------------------------------------------------------------------------------------
def test_nothing_is_shown_where_stderr_is_no_terminal(capfd, tiny_model_dir, pool_rows):
    import datasets

    datasets.disable_progress_bars()
    try:
        score(pool_rows, [Loss()], model=tiny_model_dir)
    finally:
        datasets.enable_progress_bars()
    assert "loss" not in capfd.readouterr().err


def test_a_terminal_sees_rates_and_nulls(monkeypatch, capsys):
    import sys

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    nulls = Counter({"empty_response": 2})
    with Progress("ifd", 50, 4_000, nulls) as bar:
        bar.advance(20, 3_000)
        nulls["prompt_fills_window"] += 3
        bar.advance(30, 1_000)
    line = capsys.readouterr().err.rsplit("\r", 1)[-1]
    assert line.startswith("ifd: 100%")
    assert "50/50 rows" in line
    assert "rows/s" in line
    assert "tokens/s" in line
    assert "null: 3 prompt_fills_window, 2 empty_response" in line
