"""Batches: plans, resuming, running out of memory, and the runner."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from hf_datasel import score
from hf_datasel.errors import ModelError
from hf_datasel.scores import IFD
from hf_datasel.scoring import logprobs as forward
from hf_datasel.scoring.batching import BatchRunner, plan_batches, remaining_batches
from hf_datasel.scoring.distributed import Processes
from hf_datasel.scoring.outputs import Output
from hf_datasel.scoring.runner import ModelRunner

LENGTHS = np.random.default_rng(0).integers(1, 200, 300)


def test_batches_respect_the_token_budget():
    batches = plan_batches(LENGTHS, 500)
    assert sorted(np.concatenate(batches).tolist()) == list(range(300))
    assert all(len(batch) * LENGTHS[batch].max() <= 500 for batch in batches)
    padded = sum(len(batch) * LENGTHS[batch].max() for batch in batches)
    assert padded < 1.1 * LENGTHS.sum()


def test_long_row_is_a_batch_of_its_own():
    assert [batch.tolist() for batch in plan_batches(np.array([3, 900, 4]), 8)] == [[1], [2, 0]]


def test_batch_size():
    assert {len(batch) for batch in plan_batches(np.ones(10, dtype=np.int64), 1000, 4)} == {4, 2}


@pytest.mark.parametrize("lengths", [np.empty(0, dtype=np.int64), np.zeros(3, dtype=np.int64)])
def test_plan_without_tokens(lengths):
    assert sum(map(len, plan_batches(lengths, 10))) == len(lengths)


def test_remaining_batches_after_interruption():
    batches = plan_batches(LENGTHS, 500)
    is_cached = np.zeros(300, dtype=bool)
    is_cached[np.concatenate(batches[:7])] = True
    left = remaining_batches(batches, is_cached, LENGTHS, 500)
    assert [item.tolist() for item in left] == [item.tolist() for item in batches[7:]]


def test_remaining_batches_are_merged():
    batches = plan_batches(LENGTHS, 500)
    is_cached = np.random.default_rng(1).random(300) < 0.9
    is_cached[batches[3]] = False
    left = remaining_batches(batches, is_cached, LENGTHS, 500)
    assert left[0].tolist() == batches[3].tolist()
    assert sorted(np.concatenate(left).tolist()) == np.flatnonzero(~is_cached).tolist()
    assert len(left) < len(batches) / 3
    assert remaining_batches(batches, np.ones(300, dtype=bool), LENGTHS, 500) == []


# -- out of memory -----------------------------------------------------------------------------------------------
class Short:
    """A device with memory for a number of rows."""

    def __init__(self, rows, error=torch.OutOfMemoryError):
        self.rows, self.error, self.tried = rows, error, []

    def __call__(self, part):
        self.tried.append(len(part))
        if len(part) > self.rows:
            raise self.error("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return [part[:, None] * 10.0]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_out_of_memory_splits_the_batch(error):
    device = Short(3, error)
    batches = BatchRunner(np.full(40, 5), device)
    result = {}
    for batch in (np.arange(16), np.arange(16, 40)):
        for part, (values,) in batches.run(batch):
            result.update(zip(part.tolist(), values[:, 0].tolist(), strict=True))
    assert result == {row: 10.0 * row for row in range(40)}
    assert batches.max_tokens == 10
    assert device.tried[:4] == [16, 8, 4, 2]
    assert max(device.tried[4:]) <= 2  # a size that did not fit is not tried again


def test_out_of_memory_for_a_single_row():
    with pytest.raises(ModelError, match="A row of 7 tokens does not fit into the memory of the device, even alone"):
        list(BatchRunner(np.array([7]), Short(0)).run(np.array([0])))


def test_other_errors_are_raised():
    def broken(part):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        list(BatchRunner(np.array([7, 8]), broken).run(np.array([0, 1])))


def test_scores_do_not_depend_on_memory(model, tokenizer, pool_rows, monkeypatch):
    expected = score(pool_rows, [IFD()], model=model, processing_class=tokenizer)
    complete = forward.LogprobRunner.hidden

    def short(self, batch):
        if len(batch) * max(len(item.ids) for item in batch) > 150:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return complete(self, batch)

    monkeypatch.setattr(forward.LogprobRunner, "hidden", short)
    result = score(pool_rows, [IFD()], model=model, processing_class=tokenizer)
    np.testing.assert_allclose(result["ifd"], expected["ifd"], rtol=1e-5)


# -- the runner ---------------------------------------------------------------------------------------------------
def test_runner_without_model():
    runner = ModelRunner(tokens_per_batch=10, progress=False)
    asked = []

    def compute(batch):
        asked.append(batch.tolist())
        return np.stack([batch, batch**2], axis=1)

    result = runner.run(compute, np.array([4, 9, 5]), 2, label="squares")
    assert result.tolist() == [[0, 0], [1, 1], [2, 4]]
    assert asked == [[1], [2, 0]]


def test_announced_reductions_share_a_pass(model, tokenizer, pool_rows):
    from hf_datasel.formats import Pool
    from hf_datasel.scoring.logprobs import PooledStates, SummedNLL
    from hf_datasel.tokens import TokenRows

    sequences = TokenRows(Pool(pool_rows), tokenizer).training().conditional
    runner, seen = ModelRunner(model, progress=False), []
    model.base_model.layers[0].register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    nll = runner.reduce(sequences, SummedNLL(), "loss")
    first = sum(seen)
    assert runner.reduce(sequences, SummedNLL(), "loss") is nll
    assert sum(seen) == first
    vectors = runner.reduce(sequences, PooledStates("both", "mean"), "embedding")
    assert sum(seen) == first + 24
    again = ModelRunner(model, progress=False)
    again.announce(sequences, SummedNLL())
    again.announce(sequences, PooledStates("both", "mean"))
    assert np.array_equal(again.reduce(sequences, PooledStates("both", "mean"), "embedding"), vectors)
    assert np.array_equal(again.reduce(sequences, SummedNLL(), "loss"), nll)
    assert sum(seen) == 2 * first + 24


@dataclass(frozen=True)
class OneOfTwo(Processes):
    """One of two processes, run one after the other: what the main process sends, the other one receives later."""

    sent: list[np.ndarray] = field(default_factory=list)

    def broadcast(self, values):
        if self.is_main_process:
            self.sent.append(values)
        return self.sent[0]

    def all_reduce(self, values):
        return values

    def gather_object(self, value):
        return [value]


def test_results_that_are_known_in_part_are_summed_over_processes():
    lengths, known = np.array([5, 4, 3, 2]), np.array([[1.0], [np.nan], [np.nan], [4.0]])
    sent: list[np.ndarray] = []
    parts = [
        ModelRunner(progress=False, tokens_per_batch=5, processes=OneOfTwo(index, 2, sent)).run_many(
            lambda batch: [batch[:, None] + 10.0], lengths, [Output(1, cached=known)], label="x"
        )[0]
        for index in range(2)
    ]
    assert all(part.any() for part in parts), "each process computes one of the two rows"
    assert (parts[0] + parts[1]).ravel().tolist() == [1.0, 11.0, 12.0, 4.0]
