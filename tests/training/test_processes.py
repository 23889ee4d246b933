"""Training in two processes: one selection, the same scores and weights, and an exact resume."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from datasets import Dataset
from packaging.version import Version

from tests.training.hand_written import needs_row_losses

pytestmark = pytest.mark.usefixtures("warm_python")

CAN_RESUME = Version(transformers.__version__) >= Version("5.18")
"""Earlier versions cannot load the optimizer in several processes on CPUs."""

_SCRIPT = """
import hashlib, json, sys
import numpy as np
from accelerate import PartialState
from datasets import disable_progress_bars, load_from_disk
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from hf_datasel import SelectiveSFTConfig, SelectiveSFTTrainer
from hf_datasel.selectors import get_selector

disable_progress_bars()
folder, model, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
output, resume, selector = settings.pop("output"), settings.pop("resume"), settings.pop("selector")
pool, dropout = settings.pop("pool", "pool"), settings.pop("dropout", 0.1)
set_seed(0)

class Seen(SelectiveSFTTrainer):
    steps = []
    def training_step(self, model, inputs, *args, **kwargs):
        rows = [row[mask.bool()].tolist() for row, mask in zip(inputs["input_ids"], inputs["attention_mask"])]
        self.steps.append([hashlib.sha256(json.dumps(row).encode()).hexdigest() for row in rows])
        return super().training_step(model, inputs, *args, **kwargs)

args = SelectiveSFTConfig(
    f"{folder}/{output}", **{**dict(
        num_train_epochs=3, per_device_train_batch_size=2, learning_rate=1e-2, bf16=False, logging_steps=1,
        gradient_checkpointing=False, report_to="none", save_strategy="steps", save_steps=1, use_cpu=True,
        max_length=128, disable_tqdm=True,
    ), **settings},
)
trainer = Seen(
    model=AutoModelForCausalLM.from_pretrained(model, attention_dropout=dropout), args=args,
    train_dataset=load_from_disk(f"{folder}/{pool}"), processing_class=AutoTokenizer.from_pretrained(model),
    selector=get_selector(**selector),
)
trainer.train(resume_from_checkpoint=f"{folder}/{resume}" if resume else None)
digest = hashlib.sha256()
for name, weight in sorted(trainer.accelerator.unwrap_model(trainer.model).state_dict().items()):
    digest.update(name.encode() + weight.numpy().tobytes())
scores = [{name: np.nan_to_num(each.scores(name), nan=-1).tolist() for name in each.score_columns}
          for each in trainer.selections]
result = {
    "size": trainer.accelerator.num_processes, "weights": digest.hexdigest(), "steps": trainer.steps,
    "selected": [each.indices.tolist() for each in trainer.selections], "scores": scores,
    "prepared": {hashlib.sha256(json.dumps(row["input_ids"]).encode()).hexdigest(): row["pool_row"]
                 for row in trainer._candidates},
    "global_step": trainer.state.global_step,
    "excluded": [each["selection_rows_excluded"] for each in trainer.state.log_history if "selection_round" in each],
    "costs": trainer.costs,
    "num_tokens": [each["num_tokens"] for each in trainer.state.log_history if "num_tokens" in each],
    "losses": [each["loss"] for each in trainer.state.log_history if "loss" in each],
    "dropped": [each["step_filter_dropped"] for each in trainer.state.log_history if "step_filter_dropped" in each],
    "rates": [each["learning_rate"] for each in trainer.state.log_history if "learning_rate" in each],
}
with open(f"{folder}/{output}-{trainer.args.process_index}.json", "w") as file:
    json.dump(result, file)
PartialState().destroy_process_group()
"""

ITERIT = {"name": "iterit", "settings": {}}
CHOSEN = {"selection_size": 8}


@pytest.fixture
def run(tmp_path: Path, pool_rows: Any, tiny_model_dir: Path) -> Callable[..., list[dict[str, Any]]]:
    """Give a function that trains, and returns what each process saw."""
    (tmp_path / "script.py").write_text(_SCRIPT)
    pool_rows.save_to_disk(tmp_path / "pool")

    def call(output: str, processes: int = 2, resume: str = "", selector: Any = ITERIT, **more: Any) -> Any:
        settings = {"output": output, "resume": resume, "selector": selector, **more}
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        done = subprocess.run(
            [
                sys.executable,
                *(launcher if processes > 1 else []),
                *map(str, (tmp_path / "script.py", tmp_path, tiny_model_dir, json.dumps(settings))),
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"},
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return [json.loads((tmp_path / f"{output}-{rank}.json").read_text()) for rank in range(processes)]

    return call


def rows_by_round(results: list[dict[str, Any]], steps: list[int]) -> list[Counter[int]]:
    """How often each row was trained on in each round, over all processes."""
    rounds: list[Counter[int]] = []
    starts = [sum(steps[:at]) for at in range(len(steps) + 1)]
    for start, end in itertools.pairwise(starts):
        seen = [row for each in results for step in each["steps"][start:end] for row in step]
        rounds.append(Counter(results[0]["prepared"][row] for row in seen))
    return rounds


def tokens_of(result: dict[str, Any]) -> dict[str, int]:
    """Return the tokens of each phase."""
    return {phase: cost["tokens_forward"] for phase, cost in result["costs"].items()}


def test_two_processes_agree_and_resume_exactly(run):
    whole, other = run("whole", **CHOSEN)
    assert (whole["size"], whole["global_step"]) == (2, 6)
    for name in ("weights", "selected", "scores", "rates"):
        assert whole[name] == other[name], name
    assert len(whole["selected"]) == 3
    for selected, trained in zip(whole["selected"], rows_by_round([whole, other], [2, 2, 2]), strict=True):
        assert trained == Counter(selected)
    assert tokens_of(whole) == tokens_of(other)
    assert tokens_of(whole)["training"] == whole["num_tokens"][-1]  # of both processes
    if not CAN_RESUME:
        with pytest.raises(AssertionError, match=r"cannot resume 2 processes on CPUs.*Use transformers 5\.18"):
            run("whole", resume="whole/checkpoint-3", **CHOSEN)
        return
    resumed = run("whole", resume="whole/checkpoint-3", **CHOSEN)
    assert [each["weights"] for each in resumed] == [whole["weights"]] * 2
    assert resumed[0]["selected"] == whole["selected"]
    assert tokens_of(resumed[0]) == tokens_of(whole)


@pytest.mark.slow
def test_rows_that_are_not_rendered(run, pool_rows, tmp_path):
    def turn(role, content):
        return {"role": role, "content": content}

    rows = [[turn("user", row["instruction"]), turn("assistant", row["output"])] for row in pool_rows]
    bad = [1, 2, 17]
    for row in bad:
        rows[row].insert(1, turn("tool", "rain"))
    Dataset.from_dict({"messages": rows}).save_to_disk(tmp_path / "mixed")
    template = tmp_path / "template.jinja"
    template.write_text(
        "{% for message in messages %}{% if message.role == 'tool' %}{{ raise_exception('No tools') }}{% endif %}"
        "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    more = {"pool": "mixed", "chat_template_path": str(template), "num_train_epochs": 1, **CHOSEN}
    first, second = run("two", **more)
    [alone] = run("one", processes=1, per_device_train_batch_size=4, **more)
    usable = sorted(set(range(len(rows))) - set(bad))
    for result in (first, second, alone):
        assert sorted(result["prepared"].values()) == usable
        assert result["excluded"] in ([3], [])  # only the main process logs
        assert result["prepared"] == alone["prepared"]
        assert result["selected"] == alone["selected"]
    assert first["excluded"] == alone["excluded"] == [3]
    assert first["weights"] == second["weights"]


@pytest.mark.slow
@needs_row_losses
@pytest.mark.parametrize(
    "step_filter", [None, {"tail_sft": {"fraction": 0.5}}, "top_loss"], ids=["none", "tail", "top"]
)
def test_row_weights_and_step_filters_equal_one_process(run, pool_rows, tmp_path, step_filter):
    pool_rows.add_column("weight", [0.04 * row for row in range(24)]).save_to_disk(tmp_path / "rated")
    selector = {"name": "weighted", "settings": {"method": {"selector": "random"}, "by": "weight"}}
    more = {"pool": "rated", "dropout": 0.0, "optim": "sgd", "selection_size": 16, "gradient_accumulation_steps": 2}
    more |= {"selector": selector, "loss_type": "nll", "step_filter": step_filter, "num_train_epochs": 2}
    first, second = run("two", **more)
    [alone] = run("one", processes=1, per_device_train_batch_size=4, **more)
    assert first["weights"] == second["weights"]
    assert len(alone["losses"]) == 4
    assert first["losses"] == pytest.approx(alone["losses"], rel=1e-4)
    assert first["dropped"] == pytest.approx(alone["dropped"])
    if CAN_RESUME:
        assert run("two", resume="two/checkpoint-3", **more)[0]["weights"] == first["weights"]


@pytest.mark.slow
def test_scores_equal_one_process(run):
    more = {"scoring_tokens_per_batch": 100_000, **CHOSEN}  # all rows in one batch: the second process has none
    first, second = run("two", **more)
    [alone] = run("one", processes=1, per_device_train_batch_size=4, **more)
    assert first["scores"][0] == second["scores"][0] == alone["scores"][0]
    assert first["selected"][0] == second["selected"][0] == alone["selected"][0]
    assert first["selected"] == second["selected"]
    assert first["weights"] == second["weights"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        {"train_sampling_strategy": "group_by_length"},
        {"train_sampling_strategy": "batch_rebalance"},
        {"gradient_accumulation_steps": 2},
        {"dataloader_num_workers": 1, "dataloader_persistent_workers": True},
        {"reselection_strategy": "steps", "reselection_steps": 2},
    ],
    ids=["group_by_length", "batch_rebalance", "accumulation", "workers", "steps"],
)
def test_two_processes_rows_per_round(run, more):
    whole = run("whole", **CHOSEN, **more)
    assert whole[0]["weights"] == whole[1]["weights"]
    for selected, trained in zip(whole[0]["selected"], rows_by_round(whole, [2, 2, 2]), strict=True):
        assert trained == Counter(selected)
    steps = 2 // more.get("gradient_accumulation_steps", 1)
    assert whole[0]["global_step"] == 3 * steps
    for step in sorted({1, steps, steps + 1}) if CAN_RESUME else ():
        resumed = run(f"from-{step}", resume=f"whole/checkpoint-{step}", **CHOSEN, **more)
        assert [each["weights"] for each in resumed] == [whole[0]["weights"]] * 2
        assert resumed[0]["rates"] == whole[0]["rates"]


@pytest.mark.slow
def test_two_processes_with_restarts(run):
    selector = {"name": "diverse_evol", "settings": {"rounds": 2}}
    more = {"selection_size": 16, "num_train_epochs": 1, "selector": selector}
    whole = run("whole", **more)
    assert whole[0]["weights"] == whole[1]["weights"]
    assert [len(each) for each in whole[0]["selected"]] == [8, 16]
    for step in (1, 2, 4) if CAN_RESUME else ():
        resumed = run(f"from-{step}", resume=f"whole/checkpoint-{step}", **more)
        assert [each["weights"] for each in resumed] == [whole[0]["weights"]] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    ["reversed", {"by": {"score": "loss"}, "pattern": "segmented", "segments": 2}],
    ids=["reversed", "segmented"],
)
def test_two_processes_train_in_order(run, setting):
    """The rows of a step, of all processes together and in order, are those of one process."""
    more = {
        "selector": {"name": "longest", "settings": {}},
        "selection_order": setting,
        "num_train_epochs": 2,
        **CHOSEN,
    }
    first, second = run("two", **more)
    [alone] = run("one", processes=1, per_device_train_batch_size=4, **more)
    together = [[*one, *other] for one, other in zip(first["steps"], second["steps"], strict=True)]
    assert together == alone["steps"]
    rows = [alone["prepared"][row] for step in alone["steps"] for row in step]
    assert setting != "reversed" or rows == alone["selected"][0][::-1] * 2
    for step in (1, 3) if CAN_RESUME else ():  # in the middle of each epoch
        resumed = run(f"from-{step}", resume=f"two/checkpoint-{step}", **more)
        assert [each["weights"] for each in resumed] == [first["weights"]] * 2
        assert resumed[1]["steps"] == second["steps"][step:]
