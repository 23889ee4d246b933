"""LESS: a slow and plain computation of it, several checkpoints, subtasks and aggregates, and what is kept."""

from __future__ import annotations

import inspect
import json
import logging
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset, Value
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.llama.modeling_llama import LlamaForCausalLM
from trl import SFTConfig, SFTTrainer

from hf_datasel import score
from hf_datasel.errors import ColumnError, ConfigError, FormatError, ModelError, ScoreError
from hf_datasel.formats import Pool, convert_pool
from hf_datasel.scores.influence import Influence
from hf_datasel.scoring import measure_cost, target_rows
from hf_datasel.testing import contract
from hf_datasel.tokens import TokenRows

CHECKED = 4
"""Two rows of the first batch go through each checkpoint together and alone, to see that it makes no difference."""
NAMED = Influence(checkpoints=("to be named",), validation="to be named", projection_dim=16)


@pytest.fixture(scope="module")
def train(tmp_path_factory, tiny_model_dir, pool_rows):
    """Give a function that warms the small model up for four steps, and returns its two checkpoints."""

    def run(**more):
        folder = tmp_path_factory.mktemp("warm_up")
        config = SFTConfig(
            output_dir=str(folder),
            max_steps=4,
            per_device_train_batch_size=4,
            logging_steps=1,
            save_steps=2,
            learning_rate=1e-2,
            adam_beta1=0.8,
            weight_decay=0.1,
            report_to="none",
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
        )
        data = convert_pool(Pool(pool_rows.select(range(8))), chat_template=True)
        SFTTrainer(model=str(tiny_model_dir), args=config, train_dataset=data, **more).train()
        return (str(folder / "checkpoint-2"), str(folder / "checkpoint-4"))

    return run


@pytest.fixture(scope="module")
def adapters(train):
    return train(peft_config=LoraConfig(r=2, target_modules=["q_proj", "v_proj", "down_proj"]))


@pytest.fixture(scope="module")
def models(train):
    return train()


@pytest.fixture(scope="module")
def validation(tmp_path_factory, pool_rows):
    """Give the path of five rows of two subtasks."""
    rows = pool_rows.select(range(16, 21)).add_column("task", ["b", "a", "b", "a", "b"])
    path = tmp_path_factory.mktemp("validation") / "rows.jsonl"
    rows.to_json(path)
    return str(path)


@pytest.fixture(autouse=True)
def empty_cache():
    target_rows._CACHE.clear()


@pytest.fixture
def passes(monkeypatch):
    """Give a list of how many rows went through a model in each forward pass."""
    calls = []
    forward = LlamaForCausalLM.forward

    def counted(self, *args, **kwargs):
        calls.append(len(kwargs["input_ids"]))
        return forward(self, *args, **kwargs)

    counted.__signature__ = inspect.signature(forward)
    monkeypatch.setattr(LlamaForCausalLM, "forward", counted)
    return calls


# -- the plain way ----------------------------------------------------------------------------------------------------
def plain_gradients(folder, rows):
    """The gradient of each row's mean loss over its response, by autograd on the row alone, as {name: (rows, n)}."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    adapter = any("lora" in name for name, _ in model.named_parameters())
    requested = {name: item for name, item in model.named_parameters() if not adapter or "lora" in name}
    for entry in requested.values():
        entry.requires_grad_(True)
    result = []
    sequences = TokenRows(Pool(rows), tokenizer).training().conditional
    for row in sequences.fetch(np.arange(len(sequences))):
        labels = torch.full((1, len(row.ids)), -100)
        labels[0, row.scored] = torch.from_numpy(row.ids[row.scored])
        loss = model(input_ids=torch.from_numpy(row.ids)[None], labels=labels).loss
        result.append([item.flatten().numpy() for item in torch.autograd.grad(loss, list(requested.values()))])
    return {name: np.stack(item) for name, item in zip(requested, zip(*result, strict=True), strict=True)}


def plain_steps(folder, gradients):
    """Adam's step with each gradient, as LESS has it."""
    state = torch.load(f"{folder}/optimizer.pt", weights_only=True)
    ordered = sorted(gradients, key=lambda name: "norm" in name)  # those without weight decay come last
    steps = {}
    for index, name in enumerate(ordered):
        m, v = (state["state"][index][key].flatten().numpy() for key in ("exp_avg", "exp_avg_sq"))
        g = gradients[name]
        steps[name] = (0.8 * m + 0.2 * g) / np.sqrt(0.999 * v + 0.001 * g**2 + 1e-8)
    return {name: steps[name] for name in gradients}


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def joined(parts):
    return np.concatenate(list(parts.values()), axis=1).astype(np.float64)


def plain_influence(folders, weights, rows, valid, tasks, aggregate):
    total = 0
    for folder, weight in zip(folders, weights, strict=True):
        steps = unit(joined(plain_steps(folder, plain_gradients(folder, rows))))
        towards = joined(plain_gradients(folder, valid))
        result = []
        for task in sorted(set(tasks)):
            of_task = towards[[item == task for item in tasks]]
            if aggregate == "paper":
                result.append(steps @ unit(of_task.mean(axis=0)))
            else:
                result.append((steps @ unit(of_task).T).mean(axis=1))
        total = total + weight * np.stack(result, axis=1)
    return total.max(axis=1)


@pytest.mark.parametrize("kind", ["adapters", pytest.param("models", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("aggregate", "subtask"), [("code", "task"), ("paper", "task"), ("mean", None), ("code", None)]
)
def test_equals_reference(request, pool_rows, validation, kind, aggregate, subtask):
    folders, rows, valid = request.getfixturevalue(kind), pool_rows.select(range(6)), pool_rows.select(range(16, 21))
    subject = Influence(
        checkpoints=folders, validation=validation, subtask=subtask, aggregate=aggregate, projection_dim=1 << 30
    )
    # two steps an epoch, at 0.01, 0.0075, 0.005 and 0.0025
    weights = np.array([0.00875, 0.00375]) / 0.0125
    tasks = list("babab") if subtask else [""] * 5
    expected = plain_influence(folders, weights, rows, valid, tasks, aggregate)
    scored = score(rows, [subject])
    assert scored.column_names == [*rows.column_names, "influence", "influence_reason"]
    assert scored.features["influence"] == Value("float32")
    np.testing.assert_allclose(scored["influence"], expected, atol=2e-6)
    passed = replace(subject, learning_rates=[1, 3])
    expected = plain_influence(folders, [0.25, 0.75], rows, valid, tasks, aggregate)
    np.testing.assert_allclose(score(rows, [passed])["influence"], expected, atol=2e-6)


def test_aggregates_differ(pool_rows, validation, adapters):
    rows = pool_rows.select(range(6))
    subject = Influence(checkpoints=adapters, validation=validation, projection_dim=1 << 30)
    result = [
        score(rows, [replace(subject, aggregate=aggregate, subtask=subtask)])["influence"][:]
        for aggregate, subtask in [("code", "task"), ("paper", "task"), ("mean", None)]
    ]
    assert len({round(item[0], 4) for item in result}) == 3
    assert result[2] == score(rows, [subject])["influence"][:]


def test_projection_approximates_cosines(pool_rows, validation, adapters):
    subject = Influence(checkpoints=adapters, validation=validation, projection_dim=640)
    exact = np.array(score(pool_rows, [replace(subject, projection_dim=1 << 30)])["influence"])
    near, other = (np.array(score(pool_rows, [replace(subject, seed=seed)])["influence"]) for seed in (0, 1))
    for item in (near, other):
        assert 1e-4 < np.abs(item - exact).max() < 4 / 640**0.5
        assert np.corrcoef(item, exact)[0, 1] > 0.7
    assert not np.allclose(near, other, atol=1e-4)


# -- the contract -----------------------------------------------------------------------------------------------------
@contract(
    Influence(
        checkpoints=("to be named",),
        validation="to be named",
        subtask="task",
        aggregate="paper",
        projection_dim=512,
        column_prefix="less_",
    )
)
def test_contract(check, score, pool_rows, adapters, validation):
    check(replace(score, checkpoints=adapters, validation=validation), pool_rows.select(range(4)))


@contract(replace(NAMED, gradients="to be named"))
def test_contract_with_stored_gradients(check, score, pool_rows, models, validation, tmp_path):
    named = replace(score, checkpoints=models[1:], validation=validation, gradients=str(tmp_path / "kept"))
    check(named, pool_rows.select(range(4)))


# -- what is kept -----------------------------------------------------------------------------------------------------
@pytest.fixture
def subject(adapters, validation):
    return Influence(checkpoints=adapters, validation=validation, subtask="task", projection_dim=32)


def test_store_resumes(pool_rows, subject, tmp_path, passes):
    expected = score(pool_rows, [subject])["influence"][:]
    target_rows._CACHE.clear()
    assert score(pool_rows.select(range(9)), [subject], store=tmp_path)["influence"][:] == pytest.approx(
        expected[:9], abs=1e-5
    )
    target_rows._CACHE.clear()
    passes.clear()
    assert score(pool_rows, [subject], store=tmp_path)["influence"][:] == pytest.approx(expected, abs=1e-5)
    assert sum(passes) == 2 * (24 - 9 + CHECKED)
    passes.clear()
    assert score(pool_rows, [subject], store=tmp_path)["influence"][:] == pytest.approx(expected, abs=1e-5)
    assert passes == []
    other = replace(subject, seed=1)
    result = score(pool_rows, [other], store=tmp_path)["influence"][:]
    assert result == score(pool_rows, [other])["influence"][:]
    assert result != pytest.approx(expected, abs=1e-3)


def test_stored_gradients_are_reused(pool_rows, subject, tmp_path, passes):
    remaining = replace(subject, gradients=str(tmp_path / "kept"))
    first = score(pool_rows, [remaining])["influence"][:]
    assert first == pytest.approx(score(pool_rows, [subject])["influence"][:], abs=1e-3)
    other = tmp_path / "other.jsonl"
    pool_rows.select(range(3)).to_json(other)
    passes.clear()
    result = score(pool_rows, [replace(remaining, validation=str(other), subtask=None)])["influence"][:]
    assert sum(passes) == 2 * (3 + CHECKED)
    fresh = replace(subject, validation=str(other), subtask=None)
    assert result == pytest.approx(score(pool_rows, [fresh])["influence"][:], abs=1e-3)
    passes.clear()
    assert score(pool_rows, [remaining])["influence"][:] == first
    assert passes == []  # both are known


def test_cost_of_gradients(pool_rows, tokenizer, subject, tmp_path):
    def num_tokens(path):
        return int(TokenRows(Pool(Dataset.from_json(path)), tokenizer).training().conditional.lengths.sum())

    def cost(validation, **more):
        with measure_cost() as meter:
            score(pool_rows, [replace(remaining, validation=validation, **more)])
        return meter.cost["tokens_forward"], meter.cost["tokens_backward"]

    remaining = replace(subject, gradients=str(tmp_path / "kept"))
    other, pool = str(tmp_path / "other.jsonl"), str(tmp_path / "pool.jsonl")
    pool_rows.select(range(3)).to_json(other)
    pool_rows.to_json(pool)
    both = 2 * (num_tokens(pool) + num_tokens(subject.validation))  # at two checkpoints
    assert cost(subject.validation) == (both, both)
    assert cost(other, subtask=None) == (2 * num_tokens(other),) * 2
    assert cost(subject.validation) == (0, 0)


def test_damaged_gradients_are_computed_again(pool_rows, subject, tmp_path, passes, caplog):
    remaining = replace(subject, checkpoints=subject.checkpoints[:1], gradients=str(tmp_path))
    rows = pool_rows.select(range(6))
    first = score(rows, [remaining])["influence"][:]
    [file] = tmp_path.glob("*/part-*.features.npy")
    stored = np.load(file, mmap_mode="r+")
    stored[2, 5] += 1
    stored.flush()
    passes.clear()
    with caplog.at_level(logging.WARNING, "hf_datasel"):
        assert score(rows, [remaining])["influence"][:] == pytest.approx(first, abs=1e-3)
    assert passes == [1]
    assert "A feature in" in caplog.text


_SCRIPT = """
import json, sys
from accelerate import PartialState
from datasets import Dataset, disable_progress_bars
from hf_datasel import score
from hf_datasel.scores.influence import Influence
from hf_datasel.scoring.distributed import Processes
disable_progress_bars()
folder, settings = sys.argv[1], json.loads(sys.argv[2])
rows = Dataset.from_parquet(f"{folder}/rows.parquet", cache_dir=f"{folder}/cache")
found = score(rows, [Influence(**settings)], scoring_tokens_per_batch=200, store=f"{folder}/store", on_summary=str)
processes = Processes.current()
with open(f"{folder}/result-{processes.num_processes}-{processes.process_index}.json", "w") as file:
    json.dump(found["influence"][:], file)
PartialState().destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes(pool_rows, subject, tmp_path, passes):
    (tmp_path / "script.py").write_text(_SCRIPT)
    rows = pool_rows.select(range(10))
    rows.to_parquet(tmp_path / "rows.parquet")
    remaining = replace(subject, gradients=str(tmp_path / "kept"))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launcher, str(tmp_path / "script.py"), str(tmp_path), json.dumps(remaining.settings())],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"result-2-{rank}.json").read_text()) for rank in range(2))
    assert first == second
    result = score(rows, [remaining])["influence"][:]
    assert sum(passes) == 2 * (5 + CHECKED)  # the validation rows: what both processes kept is found
    assert result == pytest.approx(first, abs=1e-5)


# -- rows without a score ---------------------------------------------------------------------------------------------
def test_rows_without_score(subject):
    data = Dataset.from_dict(
        {"prompt": ["Hi?", "a", None, "a long question " * 9], "completion": ["Yo.", " ", "x", "No"]}
    )
    scored = score(data, [replace(subject, max_length=64)], on_summary=str)
    assert [value is None for value in scored["influence"]] == [False, True, True, True]
    assert scored["influence_reason"][:] == ["", "empty_response", "wrong_type", "prompt_fills_window"]
    nothing = score(data.select([1, 2]), [subject], on_summary=str)
    assert nothing["influence"][:] == [None, None]


@pytest.fixture
def without_oslo(adapters, tmp_path):
    """Checkpoints whose chat template raises an error for rows about Oslo."""
    folder = tmp_path / "checkpoint-4"
    shutil.copytree(adapters[1], folder)
    template = folder / "chat_template.jinja"
    template.write_text(
        "{% if 'Oslo' in messages[0].content %}{{ raise_exception('No Oslo') }}{% endif %}" + template.read_text()
    )
    return (str(folder),)


def test_rows_that_are_not_rendered(subject, without_oslo, tmp_path, caplog):
    rows = Dataset.from_dict({"instruction": ["Hi?", "Is Oslo far?", "a"], "output": ["Yo.", "No.", "b"]})
    rows.to_json(tmp_path / "rows.jsonl")
    lines = []
    task = replace(subject, checkpoints=without_oslo, validation=str(tmp_path / "rows.jsonl"), subtask=None)
    with caplog.at_level(logging.WARNING, "hf_datasel"):
        score(rows, task, on_summary=lines.append)
    assert lines == ["influence: 2 of 3 rows scored, 1 without: 1 template_error (row 1: No Oslo)"]
    assert "1 of the 3 validation rows" in caplog.text
    assert "1 template_error (No Oslo)" in caplog.text


def test_validation_rows_with_other_names(pool_rows, subject, tmp_path):
    plain = [{"prompt": row["instruction"], "completion": row["output"]} for row in pool_rows.select([3, 4])]
    for name, keys in (("plain", ("prompt", "completion")), ("other", ("frage", "antwort"))):
        lines = [json.dumps(dict(zip(keys, row.values(), strict=True))) for row in plain]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    named = replace(subject, subtask=None, validation=str(tmp_path / "plain.jsonl"))
    other = replace(named, validation=str(tmp_path / "other.jsonl"))
    with pytest.raises(FormatError, match="match none of the supported formats"):
        score(pool_rows.select(range(2)), other)
    mapped = replace(other, validation_columns={"prompt": "frage", "completion": "antwort"})
    expected, result = (score(pool_rows.select(range(2)), each)["influence"][:] for each in (named, mapped))
    assert result == expected
    assert mapped.spec()["validation_columns"] == {"prompt": "frage", "completion": "antwort"}
    with pytest.raises(FormatError, match="validation_columns has to be a dict such as"):
        replace(other, validation_columns="frage")


def test_unusable_validation_rows(pool_rows, subject, tmp_path, caplog):
    rows = [
        {"prompt": row["instruction"], "completion": row["output"], "task": "a"} for row in pool_rows.select([3, 4])
    ]
    for name, more in (("good", []), ("mixed", [{"prompt": "x", "completion": " ", "task": "none"}])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows + more))
    data = pool_rows.select(range(4))
    expected = score(data, [replace(subject, validation=str(tmp_path / "good.jsonl"))])["influence"][:]
    with caplog.at_level(logging.WARNING, "hf_datasel"):
        result = score(data, [replace(subject, validation=str(tmp_path / "mixed.jsonl"))])["influence"][:]
    assert result == expected
    assert "1 of the 3 validation rows" in caplog.text
    assert "1 empty_response. Subtasks without any row: none." in caplog.text


def test_no_usable_validation_rows(pool_rows, subject, tmp_path):
    def fails(rows, error, match, **more):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in rows))
        with pytest.raises(error, match=match):
            score(pool_rows, [replace(subject, validation=str(path), **more)])

    empty = {"prompt": "x", "completion": " ", "task": "a"}
    fails([empty], ScoreError, r"None of the 1 rows of .* can be used: 1 empty_response")
    fails([{"text": "x", "task": "a"}], FormatError, "have only a text column")
    fails([{**empty, "task": None}, empty], ColumnError, "has nulls")
    fails([empty], ColumnError, r"subtask='tasc'.*Did you mean 'task'\?", subtask="tasc")
    with pytest.raises(FormatError, match=r"There is no file or folder 'nothing\.jsonl'"):
        score(pool_rows, [replace(subject, validation="nothing.jsonl")])


# -- settings ---------------------------------------------------------------------------------------------------------
def test_spec_depends_on_files(adapters, validation, pool_rows, tmp_path):
    point = tmp_path / "checkpoint-2"
    shutil.copytree(adapters[0], point)
    rows = tmp_path / "rows.jsonl"
    shutil.copy(validation, rows)
    subject = Influence(checkpoints=[str(point)], validation=str(rows), subtask="task")
    before = subject.spec()
    assert before["resolved_learning_rates"] == [pytest.approx(0.00875)]
    state = torch.load(point / "optimizer.pt", weights_only=True)
    state["state"][0]["exp_avg"] += 1
    torch.save(state, point / "optimizer.pt")
    changed = subject.spec()
    assert changed["resolved_optimizers"] != before["resolved_optimizers"]
    assert changed["resolved_checkpoints"] == before["resolved_checkpoints"]
    pool_rows.select(range(5)).add_column("task", list("babab")).to_json(rows)
    assert subject.spec()["resolved_validation"] != before["resolved_validation"]


def test_map_computes_validation_gradients_once(pool_rows, subject, passes):
    once = replace(subject, checkpoints=subject.checkpoints[:1])
    rows = pool_rows.select(range(4))
    result = rows.map(once, batched=True, batch_size=2, load_from_cache_file=False, keep_in_memory=True)
    assert sum(passes) == 5 + 4 + 2 * CHECKED  # the checkpoint is looked at anew for the second batch
    assert result["influence"][:] == pytest.approx(score(rows, [once])["influence"][:], abs=1e-5)


def test_checkpoints_of_two_runs(adapters, validation, pool_rows, tmp_path):
    point = tmp_path / "checkpoint-2"
    shutil.copytree(adapters[0], point)
    (point / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    subject = Influence(checkpoints=(adapters[0], str(point)), validation=validation)
    with pytest.raises(ScoreError, match="checkpoints have to come from one run"):
        score(pool_rows, [subject])


def test_checkpoint_without_optimizer(adapters, validation, pool_rows, tmp_path):
    point = tmp_path / "checkpoint-2"
    shutil.copytree(adapters[0], point, ignore=shutil.ignore_patterns("optimizer.pt"))
    with pytest.raises(ModelError, match=r"has no optimizer\.pt.*save_only_model=False"):
        score(pool_rows, [Influence(checkpoints=(str(point),), validation=validation)])


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"model": "x"}, "remove model and revision"),
        ({"checkpoints": "x"}, "has to be a list of folders"),
        ({"checkpoints": ()}, "at least one"),
        ({"checkpoints": ("x", "x")}, "names a folder twice"),
        ({"validation": ""}, r"validation=''\): it has to be a text"),
        ({"aggregate": "papr"}, r"Did you mean 'paper'\?"),
        ({"aggregate": "mean", "subtask": "task"}, "remove subtask"),
        ({"projection_dim": 0}, "projection_dim=0"),
        ({"seed": -1}, "seed=-1"),
        ({"learning_rates": (1.0, 2.0)}, "one number of at least 0 for each of the 1 checkpoints"),
        ({"learning_rates": (0,)}, "not all of them 0"),
    ],
)
def test_errors(settings, match):
    with pytest.raises(ConfigError, match=match):
        replace(NAMED, **settings)
