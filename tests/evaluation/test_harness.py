"""Tasks of lm-eval: values per item, identity, groups, models apart, and what is missing in words."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import lm_eval.tasks
import numpy as np
import pytest
import torch
import yaml
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_datasel.errors import ConfigError, EvaluationError
from hf_datasel.evaluation import HarnessResults, HarnessTask
from hf_datasel.testing.guards import no_network, unchanged_random_state

QUICKSTART = Path(__file__).resolve().parents[2] / "recipes" / "quickstart"
STOCK = Path(lm_eval.tasks.__file__).parent
pytestmark = [
    # What lm-eval and its dependencies warn about on import and of a generation config without sampling.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
]


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_task(folder, name="mine", rows=None, **changes):
    """Write a task with generated answers over local rows, and return its file."""
    rows = rows or [{"prompt": f"What does {who} eat?", "response": what} for who, what in PAIRS]
    config = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": jsonl(folder / f"{name}.jsonl", rows)}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "prompt",
        "doc_to_target": "response",
        "generation_kwargs": {"until": ["\n\n"], "do_sample": False, "max_gen_toks": 8},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    } | changes
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return str(path)


def write_choices(folder, name="choices", **changes):
    rows = [{"question": f"Is {n} odd?", "options": ["yes", "not at all"], "answer": (n + 1) % 2} for n in range(10)]
    metrics = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")]
    changes = {"output_type": "multiple_choice", "doc_to_text": "question", "doc_to_target": "answer"} | changes
    changes = {"doc_to_choice": "options", "generation_kwargs": None, "metric_list": metrics} | changes
    return write_task(folder, name, rows, **changes)


PAIRS = [("Ann", "figs"), ("Bo", "plums"), ("Cy", "pears"), ("Di", "limes"), ("Ed", "dates"), ("Flo", "kiwis")]


@pytest.fixture(scope="module")
def other_model_dir(tiny_model_dir, tmp_path_factory):
    """Return the folder of a second model with the same name of architecture and tokenizer, and other weights."""
    folder = tmp_path_factory.mktemp("other")
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(5)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(folder)
    return str(folder)


# -- values -----------------------------------------------------------------------------------------------------------
def test_accuracy_equals_that_of_the_quickstart(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(QUICKSTART))
    world = __import__("world")
    base = str(QUICKSTART / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    rows = [
        {"prompt": prompt, "response": tokenizer.decode(tokenizer(answer, add_special_tokens=False).input_ids)}
        for prompt, answer in world.questions()
    ]
    generation = {"until": ["<eos>"], "do_sample": False, "max_gen_toks": 12}
    task = HarnessTask("facts", task=write_task(tmp_path, "facts", rows, generation_kwargs=generation), batch_size=512)
    with no_network():
        results = task.evaluate(base, dtype="float32")
    assert results.mean() == world.exact_match(model, tokenizer, world.questions()) == 0.25390625
    assert task.numbers(results) == {"facts": 25.390625}
    assert len(results) == 512 and results.values.sum() == 130
    assert not results.truncated.any()


def test_values_and_number_equal_those_of_lm_eval(tmp_path, tiny_model_dir):
    path = write_choices(tmp_path)
    for metric in ("acc", "acc_norm"):
        task = HarnessTask("odd", task=path, metric_name=metric, num_fewshot=2, limit=7, batch_size=2)
        with unchanged_random_state():
            results = task.evaluate(str(tiny_model_dir))
        lm = HFLM(pretrained=AutoModelForCausalLM.from_pretrained(tiny_model_dir), batch_size=2,
                  tokenizer=AutoTokenizer.from_pretrained(tiny_model_dir))  # fmt: skip
        reference = simple_evaluate(
            lm, tasks=[path], num_fewshot=2, limit=7, task_manager=TaskManager(include_defaults=False),
            bootstrap_iters=0, random_seed=1234, fewshot_random_seed=1234,
        )  # fmt: skip
        samples = reference["samples"]["choices"]
        assert task.number(results) == 100 * reference["results"]["choices"][f"{metric},none"]
        assert results.values.tolist() == [sample[metric] for sample in samples]
        assert [row.tobytes().hex() for row in results.row_ids] == [sample["doc_hash"] for sample in samples]
        assert [row.tobytes().hex() for row in results.prompt_hashes] == [sample["prompt_hash"] for sample in samples]
        correct = np.array([["yes", "not at all"][(n + 1) % 2] for n in range(7)])
        assert ((results.answers == correct) == (results.values == 1)).all()


def test_two_models_never_share_an_answer(tmp_path, tiny_model_dir, other_model_dir):
    task = HarnessTask("mine", task=write_task(tmp_path))
    first, other, again = (task.evaluate(str(m)) for m in (tiny_model_dir, other_model_dir, tiny_model_dir))
    assert (first.answers != other.answers).all()
    assert (first.answers == again.answers).all()
    assert (first.prompt_hashes == other.prompt_hashes).all()
    assert first.settings["task"] == other.settings["task"]
    assert first.settings["model"]["identity"] != other.settings["model"]["identity"]


def test_each_adapter_answers_for_itself(tmp_path, tiny_model_dir):
    task, answers = HarnessTask("mine", task=write_task(tmp_path)), []
    for seed in range(2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
            adapted = get_peft_model(
                base, LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, r=8, lora_alpha=64)
            )
        adapted.save_pretrained(tmp_path / f"adapter{seed}")
        AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(tmp_path / f"adapter{seed}")
        results = task.evaluate(str(tmp_path / f"adapter{seed}"))
        merged = tmp_path / f"merged{seed}"
        adapted.merge_and_unload().save_pretrained(merged)
        AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(merged)
        assert (results.answers == task.evaluate(str(merged)).answers).all()
        answers.append(results.answers)
    assert (answers[0] != answers[1]).any()


def test_truncated_answers_and_prompts_are_counted(tmp_path, tiny_model_dir):
    rows = [{"prompt": "Hello", "response": "x"}, {"prompt": "word " * 1200, "response": "x"}]
    path = write_task(tmp_path, rows=rows)
    results = HarnessTask("mine", task=path, batch_size=1).evaluate(str(tiny_model_dir))
    tokenizer, model = (kind.from_pretrained(tiny_model_dir) for kind in (AutoTokenizer, AutoModelForCausalLM))
    ids = tokenizer("Hello", return_tensors="pt").input_ids
    new = model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
    assert results.truncated[0] == (tokenizer.eos_token_id not in new and "\n\n" not in tokenizer.decode(new))
    assert results.truncated_prompts.tolist() == [False, True]
    summary = results.to_dict()
    assert summary["truncated_prompts"] == 1 and summary["truncated_answers"] == results.truncated.sum()
    stop = tokenizer.decode(new[:1])
    ended = write_task(tmp_path, "ended", rows[:1], generation_kwargs={"until": [stop], "max_gen_toks": 8})
    assert not HarnessTask("mine", task=ended).evaluate(str(tiny_model_dir)).truncated.any()


def test_results_are_read_by_the_class_of_the_task(tmp_path, tiny_model_dir):
    results = HarnessTask("mine", task=write_task(tmp_path)).evaluate(str(tiny_model_dir))
    assert HarnessTask.results_type is HarnessResults
    loaded = HarnessTask.results_type.load(results.save(tmp_path / "mine.parquet"))
    for name in (
        "row_ids",
        "reasons",
        "groups",
        "scores",
        "truncated",
        "truncated_prompts",
        "answers",
        "prompt_hashes",
    ):
        assert (getattr(loaded, name) == getattr(results, name)).all()
    assert loaded.settings == json.loads(json.dumps(results.settings))
    assert loaded.to_dict()["exact_match"] == results.mean()


# -- groups -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("by_size", [True, False])
def test_group_is_aggregated_as_its_config_says(tmp_path, tiny_model_dir, by_size):
    write_choices(tmp_path, "big")
    write_choices(tmp_path, "small", dataset_kwargs={"data_files": {"test": str(tmp_path / "few.jsonl")}})
    jsonl(tmp_path / "few.jsonl", [{"question": "Is 7 odd?", "options": ["yes", "not at all"], "answer": 0}] * 3)
    rule = {"metric": "acc", "weight_by_size": by_size}
    group = {"group": "exam", "task": ["big", "small"], "aggregate_metric_list": [rule], "metadata": {"version": 2}}
    (tmp_path / "exam.yaml").write_text(yaml.safe_dump(group), encoding="utf-8")
    task = HarnessTask("exam", include_path=str(tmp_path))
    results = task.evaluate(str(tiny_model_dir))
    means = {name: results.values[results.groups == name].mean() for name in ("big", "small")}
    expected = (10 * means["big"] + 3 * means["small"]) / 13 if by_size else (means["big"] + means["small"]) / 2
    numbers = task.numbers(results)
    assert math.isclose(numbers.pop("exam"), 100 * expected)
    assert numbers == {"exam/big": 100 * means["big"], "exam/small": 100 * means["small"]}
    assert means["big"] != means["small"]
    assert set(results.to_dict()["groups"]) == {"big", "small"}
    assert task.identity()["version"] == "2"
    assert task.num_items() == len(results) == 13
    assert HarnessTask("exam", include_path=str(tmp_path), limit=5).num_items() == 8


# -- identity ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "config"),
    [
        ({"batch_size": 4}, {}),
        ({"limit": 3}, {}),
        ({"num_fewshot": 1}, {}),
        ({"max_gen_toks": 4}, {}),
        ({"apply_chat_template": True}, {}),
        ({"seed": 7}, {}),
        ({}, {"doc_to_text": "Q: {{prompt}}"}),
        ({}, {"metadata": {"version": 2.0}}),
        ({}, {"rows": [{"prompt": "Why?", "response": "So."}]}),
        ({}, {"metric_list": [{"metric": "exact_match", "ignore_case": True, "aggregation": "mean"}]}),
    ],
)
def test_change_gives_another_identity(tmp_path, settings, config):
    before = HarnessTask("mine", task=write_task(tmp_path)).identity()
    assert HarnessTask("other name", task=write_task(tmp_path)).identity() == before
    after = HarnessTask("mine", task=write_task(tmp_path, **config), **settings).identity()
    assert after != before
    assert json.loads(json.dumps(after)) == after


def test_prompts_with_another_template_have_other_hashes(tmp_path, tiny_model_dir):
    path = write_task(tmp_path)
    plain = HarnessTask("mine", task=path).evaluate(str(tiny_model_dir))
    chat = HarnessTask("mine", task=path, apply_chat_template=True).evaluate(str(tiny_model_dir))
    assert (plain.row_ids == chat.row_ids).all()
    assert (plain.prompt_hashes != chat.prompt_hashes).any(axis=1).all()
    assert plain.settings["chat_template"] is None and chat.settings["chat_template"]


def test_place_of_the_rows_is_not_part_of_the_identity(tmp_path):
    identities = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        identities.append(HarnessTask("mine", task=write_task(tmp_path / name)).identity())
    assert identities[0] == identities[1]


# -- tasks of lm-eval on local rows -----------------------------------------------------------------------------------
def write_stock_task(tmp_path, name, path, rows, splits):
    files = {split: jsonl(tmp_path / f"{name}-{split}.jsonl", rows) for split in splits.split()}
    lines = [f"include: {STOCK / path}", f"task: {name}", "dataset_path: json"]
    lines += [f"dataset_kwargs: {json.dumps({'data_files': files})}"]
    (tmp_path / f"{name}.yaml").write_text("\n".join(lines), encoding="utf-8")
    return str(tmp_path / f"{name}.yaml")


SUMS = [{"question": f"Ann has {n} figs and buys 2. How many?", "answer": f"{n}+2\n#### {n + 2}"} for n in range(12)]
OPTIONS = {"text": ["one", "a lot"], "label": ["A", "B"]}
ARC = [{"question": f"Which is {n}?", "choices": OPTIONS, "answerKey": "AB"[n % 2]} for n in range(8)]
MMLU = [{"question": f"Is {n} small?", "choices": ["a", "b", "c", "d"], "answer": n % 4} for n in range(8)]


@pytest.mark.parametrize(
    ("name", "path", "rows", "splits", "settings", "shots"),
    [
        ("sums", "gsm8k/gsm8k.yaml", SUMS, "train test", {"filter_name": "flexible-extract", "max_gen_toks": 16}, 5),
        ("sums_cot", "gsm8k/gsm8k-cot.yaml", SUMS, "test", {"num_fewshot": 8, "max_gen_toks": 16}, 8),
        ("science", "arc/arc_challenge.yaml", ARC, "train test", {"num_fewshot": 3, "metric_name": "acc_norm"}, 3),
        ("exam", "mmlu/default/mmlu_anatomy.yaml", MMLU, "dev test", {"num_fewshot": 5}, 5),
    ],
)
def test_stock_task_on_local_rows(tmp_path, tiny_text_model_dir, name, path, rows, splits, settings, shots):
    task = HarnessTask(name, task=write_stock_task(tmp_path, name, path, rows, splits), limit=5, **settings)
    with no_network():
        task.check()
        results = task.evaluate(str(tiny_text_model_dir))
    assert len(results) == task.num_items() == 5 and (results.reasons == "").all()
    assert task.identity()["shots"] == shots
    assert rows[0]["question"] in task.questions()[0] and len(task.questions()) == 5


# -- what is missing, before any work ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"name": "gsm8k_cott"},
            r"lm-eval 0\.\S+ has no task 'gsm8k_cott', and .*\. Did you mean 'gsm8k_cot'\? .* include_path",
        ),
        (
            {"name": "gsm8k_cot", "num_fewshot": 8},
            r"The data of the task 'gsm8k_cot' \(openai/gsm8k\) is neither on this",
        ),
        ({"name": "mmlu"}, r"The data of the task 'mmlu' \(cais/mmlu\) is neither on this machine"),
        ({"name": "ifeval"}, r"'ifeval' needs data of NLTK, which is a download: python -m nltk.downloader punkt_tab"),
        ({"name": "humaneval"}, r"'humaneval' runs programs that the model writes\. .*allow_code_execution=True"),
        ({"name": "x", "task": "no.yaml"}, r"The file 'no.yaml' of the task 'x' cannot be read: .*No such file"),
        ({"name": "x", "include_path": "nowhere"}, r"include_path='nowhere', which is no folder"),
        ({"name": "x", "backend": "vllm"}, r"backend='vllm', and vLLM is not installed: pip install vllm"),
    ],
)
def test_missing_is_said_in_words(settings, message, monkeypatch, tmp_path):
    monkeypatch.setenv("NLTK_DATA", str(tmp_path))
    monkeypatch.setattr("nltk.data.path", [str(tmp_path)])
    with pytest.raises(EvaluationError, match=message):
        HarnessTask(**settings).check()


@pytest.mark.parametrize(
    ("settings", "config", "message"),
    [
        ({"metric_name": "acc_nrm"}, {}, r"has no metric 'acc_nrm'\. Did you mean 'acc_norm'\? It has acc, acc_norm"),
        ({"filter_name": "strict"}, {}, r"has no filter 'strict'\. It has none"),
        ({"max_gen_toks": 9}, {}, r"max_gen_toks=9, and 'choices' generates no answers"),
        ({"num_fewshot": 3}, {"num_fewshot": 0}, r"num_fewshot=3, and 'choices' of lm-eval fixes it at 0"),
        ({}, {"unsafe_code": True}, r"runs programs that the model writes"),
        ({}, {"doc_to_text": "{{nothing.here}}"}, r"'odd' cannot be loaded: UndefinedError: 'nothing' is undefined"),
        (
            {},
            {"metric_list": [{"metric": "f1", "aggregation": "f1"}, {"metric": "acc", "aggregation": "mean"}]},
            r"'f1' of the task 'odd' is not a mean over items.* Set metric_name to one of acc\.",
        ),
    ],
)
def test_settings_that_do_not_fit_the_task(tmp_path, settings, config, message):
    with pytest.raises(EvaluationError, match=message):
        HarnessTask("odd", task=write_choices(tmp_path, **config), **settings).check()


def test_chat_template_that_does_not_exist(tmp_path, tiny_text_model_dir):
    task = HarnessTask("mine", task=write_task(tmp_path), apply_chat_template=True)
    with pytest.raises(EvaluationError, match=r"has no chat template\. Omit it"):
        task.evaluate(str(tiny_text_model_dir))


def test_answer_that_lm_eval_would_read_as_a_list(tmp_path):
    rows = [{"prompt": "Two odd numbers?", "response": "1, 3"}, {"prompt": "As a list?", "response": "[1, 3]"}]
    with pytest.raises(
        EvaluationError, match=r"answer of item 1 \(from 0\) of the task 'mine' as a list.* response\."
    ):
        HarnessTask("mine", task=write_task(tmp_path, rows=rows, doc_to_target="{{response}}")).check()
    HarnessTask("mine", task=write_task(tmp_path, rows=rows)).check()


def test_answers_longer_than_the_window(tmp_path, tiny_model_dir):
    task = HarnessTask("mine", task=write_task(tmp_path), max_gen_toks=2000)
    with pytest.raises(EvaluationError, match=r"'mine' cannot be evaluated on .*generate \(2000\) must be less than"):
        task.evaluate(str(tiny_model_dir))


def test_backend_of_vllm(tmp_path, tiny_model_dir, monkeypatch):
    """A stand-in for vLLM, which is not a dependency: what it is given, and answers without a sign of their end."""
    given = []

    class VLLM(HFLM):
        def __init__(self, pretrained, tokenizer, batch_size, **kwargs):
            given.append(kwargs)
            model = AutoModelForCausalLM.from_pretrained(pretrained)
            super().__init__(
                pretrained=model, tokenizer=AutoTokenizer.from_pretrained(tokenizer), batch_size=batch_size
            )

    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: name == "vllm" or find(name, *rest))
    monkeypatch.setitem(sys.modules, "lm_eval.models.vllm_causallms", SimpleNamespace(VLLM=VLLM))
    path = write_task(tmp_path)
    vllm = HarnessTask("mine", task=path, backend="vllm")
    results, reference = (task.evaluate(str(tiny_model_dir)) for task in (vllm, HarnessTask("mine", task=path)))
    assert (results.answers == reference.answers).all()
    assert (results.truncated >= reference.truncated).all()
    assert vllm.identity() != HarnessTask("mine", task=path).identity()
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    adapted = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=12))
    adapted.save_pretrained(tmp_path / "adapter")
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(tmp_path / "adapter")
    vllm.evaluate(str(tmp_path / "adapter"), dtype="float32")
    assert given[1]["lora_local_path"] == str(tmp_path / "adapter") and given[1]["max_lora_rank"] == 16
    assert given[1]["dtype"] == "float32" and given[1]["seed"] == 1234 and "lora_local_path" not in given[0]


@pytest.mark.parametrize("setting", [{"batch_size": "auto"}, {"limit": 0}, {"num_fewshot": 1.5}, {"backend": "jax"}])
def test_invalid_setting(setting):
    name, value = next(iter(setting.items()))
    with pytest.raises(ConfigError, match=f"The task 'x' has {name}={value!r}: it has to be"):
        HarnessTask("x", **setting)


def test_several_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(EvaluationError, match="on one device, since more of them change answers"):
        HarnessTask("mine", task=write_task(tmp_path)).check()


def test_without_lm_eval():
    code = (
        "import sys, importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name.startswith('lm_eval') else find(name, *rest)\n"
        "from hf_datasel.evaluation import HarnessTask, HeldoutTask\n"
        "HarnessTask('gsm8k_cot', num_fewshot=8)\n"
        "try:\n    HarnessTask('gsm8k_cot').check()\n"
        "except ValueError as error:\n    print(error)\n"
        "assert not any(name.startswith('lm_eval') for name in sys.modules)\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, env=dict(os.environ))
    assert run.stdout.startswith("The task 'gsm8k_cot' needs lm-eval: pip install 'hf-datasel[eval]'."), run.stderr
