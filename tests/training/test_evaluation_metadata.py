"""Evaluation results in the repository of a model."""

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from hf_datasel.errors import PublishError
from hf_datasel.training import model_results, push_model_results

GSM8K = {
    "trained_on": "this selection", "metric": "exact match", "dataset": "openai/gsm8k", "value": 41.0,
    "runs": 3, "values": [40.0, 41.0, 42.0], "items": 200,
    "task": {"name": "gsm8k_cot", "version": "3", "shots": 8, "limit": 200.0},
    "harness": {"name": "lm_eval", "version": "0.4.13"},
}  # fmt: skip
OTHERS = [
    {**GSM8K, "trained_on": "random rows", "value": 30.0, "values": [29.0, 30.0, 31.0]},
    {"trained_on": "this selection", "metric": "bits per byte", "dataset": "heldout rows", "value": 1.25, "runs": 3,
     "values": [1.2, 1.25, 1.3], "task": {"name": "heldout"}},
    {"trained_on": "this selection", "metric": "average", "dataset": "two tasks", "value": 20.0, "note": "of both"},
]  # fmt: skip
RESULTS = [GSM8K, *OTHERS]
CARD = """---
license: mit  # as its parent
model-index:
- name: mine
  results:
  - task: {type: text-generation}
    dataset: {name: GSM8K, type: openai/gsm8k}
    metrics: [{type: loss, value: 2.5}]
---

# A model
"""


@pytest.fixture
def hub(local_hub, monkeypatch):
    monkeypatch.setattr("hf_datasel.hub.retry.WAIT", 0.01)
    local_hub.commit("tester/model", {"README.md": CARD.encode()}, repo_type="model")
    return local_hub


def files_of(hub):
    return {path: content.decode() for path, content in hub.files("tester/model", "model").items()}


def test_results_of_one_run_in_both_formats(hub, tmp_path):
    push_model_results("tester/model", RESULTS, run=2)
    files = files_of(hub)
    (tmp_path / "README.md").write_text(files["README.md"])
    card = ModelCard.load(tmp_path / "README.md")
    found = {(item.dataset_type, item.metric_type): item.metric_value for item in card.data.eval_results}
    assert found == {
        ("openai/gsm8k", "loss"): 2.5,
        ("openai/gsm8k", "exact_match"): 42.0,
        ("heldout rows", "bits_per_byte"): 1.3,
    }
    assert card.data.model_name == "mine"
    assert card.data.license == "mit"
    assert card.text.strip() == "# A model"
    [entry] = parse_eval_result_entries(yaml.safe_load(files[".eval_results/hf_datasel.yaml"]))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("openai/gsm8k", "gsm8k_cot", 42.0)
    assert entry.notes == "exact match, gsm8k_cot, 8 shots, limit 200, lm_eval 0.4.13"


def test_second_push_replaces_the_same_measurements(hub):
    first = push_model_results("tester/model", RESULTS, run=0)
    assert push_model_results("tester/model", RESULTS, run=0).oid == first.oid
    push_model_results("tester/model", RESULTS, run=1)
    index = yaml.safe_load(files_of(hub)["README.md"].split("---\n")[1])["model-index"]
    values = [metric["value"] for result in index[0]["results"] for metric in result["metrics"]]
    assert sorted(values) == [1.25, 2.5, 41.0]
    push_model_results("tester/model", OTHERS[1:], run=1)
    assert ".eval_results/hf_datasel.yaml" not in files_of(hub), "none of the results is on a dataset of the Hub"


def test_two_tasks_on_one_dataset_keep_their_names(hub):
    other = {**GSM8K, "task": {"name": "gsm8k", "shots": 5}}
    push_model_results("tester/model", [{**GSM8K, "metric": "flexible match"}, other], run=0)
    index = yaml.safe_load(files_of(hub)["README.md"].split("---\n")[1])["model-index"]
    assert [entry["task"].get("name") for entry in index[0]["results"]] == [None, "gsm8k_cot", "gsm8k"]


def test_dataset_ids_name_the_dataset_on_the_hub(hub):
    result = {**GSM8K, "dataset": "grade school", "runs": 1, "values": [40.5], "value": 40.5}
    push_model_results("tester/model", [result], dataset_ids={"grade school": "openai/gsm8k"})
    [entry] = yaml.safe_load(files_of(hub)[".eval_results/hf_datasel.yaml"])
    assert entry["dataset"] == {"id": "openai/gsm8k", "task_id": "gsm8k_cot"}
    assert entry["value"] == 40.5


@pytest.mark.parametrize("dataset", ["data/exam.jsonl", "heldout rows", "gsm8k"])
def test_local_datasets_are_not_in_eval_results(hub, dataset):
    push_model_results("tester/model", [{**GSM8K, "dataset": dataset}], run=0)
    assert ".eval_results/hf_datasel.yaml" not in files_of(hub)
    assert dataset in files_of(hub)["README.md"]


def test_model_without_a_card(hub):
    hub.commit("tester/new", {"config.json": b"{}"}, repo_type="model")
    push_model_results("tester/new", RESULTS, run=0)
    metadata = yaml.safe_load(hub.files("tester/new", "model")["README.md"].decode().split("---\n")[1])
    assert metadata["model-index"][0]["name"] == "new"


@pytest.mark.parametrize(
    ("results", "more", "message"),
    [
        (RESULTS, {}, r"exact match on openai/gsm8k is the mean of 3 runs, .* Pass run, from 0 to 2"),
        (RESULTS, {"run": 3}, "has no value of run 3: there are 3 values"),
        (RESULTS, {"run": -1}, "has no value of run -1"),
        (OTHERS[2:], {}, "No result of 'this selection' names its task"),
        (
            RESULTS,
            {"run": 0, "trained_on": "random row"},
            r"None of the results is of 'random row'.* mean 'random rows'\?",
        ),
        (RESULTS, {"run": 0, "dataset_ids": {"gsm": "a/b"}}, "dataset_ids names 'gsm', but the results are on"),
        ([{**GSM8K, "task": {"nam": "x"}}], {"run": 0}, r"results\[0\]\['task'\] has an unknown key 'nam'"),
    ],
)
def test_results_that_cannot_be_published(results, more, message):
    with pytest.raises(PublishError, match=message):
        model_results(results, **more)


def test_model_that_does_not_exist(hub):
    with pytest.raises(PublishError, match=r"There is no model 'tester/missing' .* push it first"):
        push_model_results("tester/missing", RESULTS, run=0)
    assert ("model", "tester/missing") not in hub.repos


def test_damaged_model_index(hub):
    hub.commit("tester/model", {"README.md": b"---\nmodel-index: [{name: x}]\n---\n"}, repo_type="model")
    with pytest.raises(PublishError, match="The model-index in the card of the model is not valid: KeyError"):
        push_model_results("tester/model", RESULTS, run=0)


def test_results_for_the_trainer():
    results = model_results(RESULTS, run=1)
    assert [(item.dataset_type, item.metric_value) for item in results] == [
        ("openai/gsm8k", 41.0),
        ("heldout rows", 1.25),
    ]
    assert results[0].dataset_args == {"num_few_shot": 8}
