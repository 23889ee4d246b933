"""The section on cost, of cards and of model cards."""

from __future__ import annotations

import copy
import json

import pytest

from hf_datasel import select
from hf_datasel.cards.build import gather, read_run
from hf_datasel.cards.cost_wording import compare_costs, describe_cost, describe_flops
from hf_datasel.cards.report import read_facts
from hf_datasel.cards.sections.cost import SECTION
from hf_datasel.errors import PublishError
from hf_datasel.selection.select_rows import SelectionSession
from hf_datasel.selectors import IterIT, Random

COST = {
    "tokens_forward": 12_345_678,
    "tokens_backward": 0,
    "flops": 3.14159e15,
    "wall_seconds": 5400.0,
    "device_seconds": 43_200.0,
    "device": "NVIDIA H100 80GB HBM3",
    "peak_memory": 35_200_000_000,
}
TRAINING = {**COST, "flops": 6.6e14, "device_seconds": 60.0}


@pytest.fixture(scope="module")
def selections(pool_rows, tiny_model_dir):
    session = SelectionSession(pool_rows, str(tiny_model_dir))
    return [session.select(IterIT(), size=5), session.select(IterIT(), size=5)]


def text(selection, **more):
    return SECTION.text(gather([selection], title="selected", **more), None)


def run(costs=None):
    facts = {"model": "m", "settings": {}, "steps": 1, "epochs": 1.0, "loss": [], "eval_loss": []}
    return {**facts, "selection_time_share": 0.25, **({"costs": costs} if costs else {})}


def test_cost_of_the_scores(selections):
    first, second = selections
    cost = first.provenance["cost"]
    tokens, mega = cost["tokens_forward"], cost["flops"] / 1e6
    shown = f"Models processed {tokens:,} tokens and about {mega:.3g} MFLOPs, in "
    assert shown in text(first)
    assert " seconds of device time on a CPU (peak memory " in text(first)
    assert shown in text(second)  # also if an earlier selection of the session had paid for them


def test_cost_beside_training(selections):
    shown = text(selections[0], training=run({"selecting": COST, "training": TRAINING}))
    assert "Training took 12.3 million tokens and about 660 TFLOPs, in 60.0 seconds of device time on NVIDIA" in shown
    assert shown.endswith("Selecting took 4.76 times the FLOPs of training.")
    assert "Training took" not in text(selections[0], training=run())


def test_selections_without_a_cost(selections, pool_rows):
    old = copy.copy(selections[0])
    old.provenance = {key: value for key, value in old.provenance.items() if key != "cost"}
    shown = text(old)
    assert "cost" not in gather([old], title="old")["rounds"][0]
    assert shown.startswith("Scoring and selecting took ")
    assert "tokens" not in shown
    assert "tokens" not in text(select(pool_rows, Random(), size=5))  # no model ran


def test_facts_with_costs_are_read_again(selections, tmp_path):
    facts = gather(selections[:1], title="selected", training=run({"selecting": COST, "training": TRAINING}))
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    assert read_facts(tmp_path / "facts.json") == facts
    facts["rounds"][0]["cost"]["flops"] = "many"
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    with pytest.raises(PublishError, match=r"\['cost'\]\['flops'\] has to be a number"):
        read_facts(tmp_path / "facts.json")


def test_costs_of_a_saved_run(selections, tmp_path):
    selections[0].save(tmp_path / "selections" / "round-0")
    state = {"global_step": 1, "epoch": 1.0, "log_history": []}
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    assert "costs" not in read_run(tmp_path)[1]
    costs = {"selecting": COST, "training": TRAINING}
    (tmp_path / "cost.json").write_text(json.dumps(costs))
    assert read_run(tmp_path)[1]["costs"] == costs


@pytest.mark.parametrize(
    ("flops", "shown"),
    [(0, "0 FLOPs"), (999, "999 FLOPs"), (1.234e7, "12.3 MFLOPs"), (9.999e14, "1,000 TFLOPs"), (2e18, "2 EFLOPs")],
)
def test_units(flops, shown):
    assert describe_flops(flops) == shown


def test_costs_that_are_not_known():
    endpoint = {**COST, "flops": 0.0, "peak_memory": None, "device": "cpu", "device_seconds": 600.0}
    assert describe_cost(endpoint) == "12.3 million tokens, in 10 minutes of device time on a CPU"
    assert compare_costs({"selecting": COST}) == ""
    assert "times the FLOPs" not in compare_costs({"selecting": endpoint, "training": TRAINING})
