"""Cost of selections: what was paid, what was reused, and what nested selectors cost."""

from __future__ import annotations

import json
import logging

import pytest
from datasets import Dataset

from hf_datasel import Selection, select
from hf_datasel.errors import SelectionError
from hf_datasel.scores import Loss
from hf_datasel.selection import select_streaming
from hf_datasel.selection.saved_format import with_digests
from hf_datasel.selection.select_rows import SelectionSession
from hf_datasel.selectors import Chain, InRange, IterIT, Random, Top, per_source
from tests.scoring.test_cost import token_rows


@pytest.fixture
def num_tokens(pool_rows, tokenizer):
    """Give the number of tokens of the two passes of IFD."""
    tokens = token_rows(pool_rows, tokenizer).training()
    return [int(tokens.conditional.lengths.sum()), int(tokens.prior.lengths.sum())]


def test_a_second_selection_pays_nothing(pool_rows, tiny_model_dir, num_tokens):
    session = SelectionSession(pool_rows, str(tiny_model_dir))
    first, second = session.select(IterIT(), size=5), session.select(IterIT(), size=7)
    paid, free = first.provenance["cost"], second.provenance["cost"]
    assert paid["tokens_forward"] == sum(num_tokens)
    assert paid["flops"] > 0
    assert "cost_reused" not in first.provenance
    assert first.provenance["seconds"] == paid["wall_seconds"]
    assert (free["tokens_forward"], free["flops"]) == (0, 0.0)
    reused = second.provenance["cost_reused"]
    assert (reused["tokens_forward"], reused["flops"]) == (paid["tokens_forward"], paid["flops"])
    assert second.provenance["seconds"] == free["wall_seconds"] + reused["wall_seconds"]
    assert free["wall_seconds"] < reused["wall_seconds"] <= paid["wall_seconds"]


@pytest.mark.parametrize("nested", ["chain", "per_source"])
def test_nested_selectors(nested, pool_rows, tiny_model_dir, num_tokens):
    inner = Top(by=Loss())
    if nested == "chain":
        selector = Chain([InRange("index", low=0)], inner)
    else:
        selector = per_source(inner, "source", "proportional")
    rows = pool_rows.add_column("source", ["ab"[row % 2] for row in range(24)]).add_column("index", list(range(24)))
    selection = select(rows, selector, size=6, model=str(tiny_model_dir))
    assert selection.provenance["cost"]["tokens_forward"] == num_tokens[0]


def test_without_a_model(pool_rows):
    cost = select(pool_rows, Random(), size=5).provenance["cost"]
    assert (cost["tokens_forward"], cost["tokens_backward"], cost["flops"], cost["device"]) == (0, 0, 0.0, "cpu")
    assert cost["wall_seconds"] > 0


def test_saved_and_loaded(pool_rows, tmp_path):
    selection = select(pool_rows, Random(), size=5)
    selection.save(tmp_path)
    assert Selection.load(tmp_path).provenance["cost"] == selection.provenance["cost"]


@pytest.mark.parametrize("content", ["absent", "damaged"])
def test_other_records(content, pool_rows, tmp_path):
    selection = select(pool_rows, Random(), size=5)
    selection.save(tmp_path)
    record = json.loads((tmp_path / "selection.json").read_text())
    if content == "absent":
        del record["cost"]
    else:
        record["cost"]["flops"] = "many"
    (tmp_path / "selection.json").write_text(with_digests(record, record.pop("sha256")))
    if content == "absent":
        assert Selection.load(tmp_path) == selection
    else:
        with pytest.raises(SelectionError, match=r"cost\.flops is not a number"):
            Selection.load(tmp_path)


def test_streaming_logs_its_cost(pool_rows, tiny_model_dir, num_tokens, caplog):
    stream = Dataset.from_dict(pool_rows.to_dict()).to_iterable_dataset()
    with caplog.at_level(logging.INFO, "hf_datasel.scoring.cost"):
        select_streaming(stream, Top(by=Loss(str(tiny_model_dir))), size=4, batch_size=10)
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("Selecting from 24 streamed rows took ")
    assert f"models processed {num_tokens[0]:,} tokens" in line
