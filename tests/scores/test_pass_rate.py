"""The share of right answers: exact rates, answers that are reused, verifiers that fail, rows without a reference."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset, Value

from hf_datasel import Selection, score, select
from hf_datasel.cli import main
from hf_datasel.errors import ColumnError, ConfigError, ScoreError
from hf_datasel.scores import PassRate, RewardGap
from hf_datasel.scoring.generation import Generator
from hf_datasel.selection import explain
from hf_datasel.selectors import Closest
from hf_datasel.spec import outside_names
from hf_datasel.testing import contract
from tests.scores.endpoint_server import Reply, completion, serving

NEW = 6
LAST_NUMBER = {"last_number": True}


def length_of(answer, reference, row):
    """Return a number that depends on the answer, the reference and the row."""
    return (len(answer) + len(reference) + len(row["output"])) % 11 / 10


def fails_on_forty(answer, reference, row):
    if "40" in answer:
        raise KeyError("forty")
    return None if "41" in answer else answer == reference


def always_raises(answer, reference, row):
    return row["gold"]


def says_yes(answer, reference, row):
    return "yes"


def reads_marked(answer, reference, row):
    return "42" in answer.split("####")[1]


def in_gold(answer, reference, row):
    assert set(row) == {"prompt", "completion", "gold"}
    return answer in row["gold"]


LENGTH = f"{__name__}:length_of"


@contract(
    PassRate(num_generations=1, temperature=0.0, max_new_tokens=NEW),
    PassRate(
        verifier=LENGTH,
        num_generations=2,
        max_new_tokens=NEW,
        top_p=0.9,
        write_answers=True,
        verifier_columns=("instruction",),
        column_prefix="old_",
    ),
)
def test_contract(check, score, pool_rows, tiny_model_dir):
    check(score, pool_rows.select(range(6)), tiny_model_dir)


# -- a model here -----------------------------------------------------------------------------------------------------
@pytest.fixture
def generated(monkeypatch):
    """Give a list of the number of prompts of each batch that is generated."""
    sizes, original = list[int](), Generator._generate

    def counted(self, prompts):
        sizes.append(len(prompts))
        return original(self, prompts)

    monkeypatch.setattr(Generator, "_generate", counted)
    return sizes


def test_more_answers_reuse_those_in_the_store(model, tokenizer, pool_rows, tmp_path, generated):
    rows = pool_rows.select(range(5))
    rate = PassRate(verifier=LENGTH, max_new_tokens=NEW, write_answers=True)

    def run(number, data=rows, **options):
        generated.clear()
        scored = score(data, replace(rate, num_generations=number), model, tokenizer, **options)
        return scored["pass_rate_texts"][:], scored["pass_rate"][:], sum(generated)

    two, _, count = run(2, store=tmp_path)
    assert count == 10
    four, rates, count = run(4, store=tmp_path)
    assert count == 10, "the first two answers to each prompt are in the store"
    assert [texts[:2] for texts in four] == two
    assert len({text for texts in four for text in texts}) > 15, "answers to a prompt differ"
    assert run(3, store=tmp_path)[2] == 0
    assert run(4)[:2] == (four, rates), "the same without a store"
    backwards = rows.select([4, 2, 0])
    assert run(4, backwards, scoring_tokens_per_batch=40)[0] == [four[row] for row in (4, 2, 0)], "order and batches"
    expected = [
        np.mean([length_of(text, row["output"], row) for text in texts]) for row, texts in zip(rows, four, strict=True)
    ]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


def test_first_answer_is_that_of_the_reward_gap(model, tokenizer, pool_rows, tmp_path, generated):
    gap = RewardGap(scorer="perplexity", max_new_tokens=NEW, temperature=0.7, seed=3)
    score(pool_rows.select(range(4)), gap, model, tokenizer, store=tmp_path)
    generated.clear()
    rate = PassRate(num_generations=2, max_new_tokens=NEW, temperature=0.7, seed=3)
    score(pool_rows.select(range(4)), rate, model, tokenizer, store=tmp_path)
    assert sum(generated) == 4


def test_written_answers_in_a_selection(model, tokenizer, pool_rows, tmp_path):
    rate = PassRate(verifier=LENGTH, num_generations=2, max_new_tokens=NEW, write_answers=True)
    rows = pool_rows.select(range(6))
    selection = select(rows, Closest(rate, target=0.5), size=2, model=model, processing_class=tokenizer)
    selection.save(tmp_path)
    selection = Selection.load(tmp_path)
    assert selection.score_columns == ["pass_rate", "pass_rate_answers"]
    row = next(row for row in range(6) if row not in selection.indices)
    explained = explain(selection, rows, row, model=model, processing_class=tokenizer)
    assert [rank["score"] for rank in explained["scores"]] == ["pass_rate", "pass_rate_answers"]


def test_prompt_fills_window(model, tokenizer):
    rows = Dataset.from_dict({"prompt": ["Long? " * 400, "Short?"], "completion": ["Yes.", "No."]})
    rate = PassRate(num_generations=2, max_new_tokens=NEW)
    scored = score(rows, rate, model, tokenizer, on_summary=str)
    assert scored["pass_rate_reason"][:] == ["prompt_fills_window", ""]
    assert scored["pass_rate_answers"][:] == [None, 2]


# -- an endpoint with known answers -----------------------------------------------------------------------------------
ANSWERS = {
    "always": ["42", "It is 42.", "So x = 42.0", "#### 42"],
    "half": ["42", "41", "42", "7"],
    "never": ["1", "2", "3", "no number"],
    "raises": ["42", "40", "40", "42"],
    "returns None": ["42", "41", "42", "42"],
}


@pytest.fixture
def server():
    """Give an endpoint whose answers to a prompt are those of `ANSWERS`, in turn."""
    with serving("sk-do-not-show") as result:
        asked = Counter[str]()

        def reply(text):
            asked[text] += 1
            return Reply(completion(ANSWERS[text][asked[text] - 1]))

        result.reply = reply
        yield result


def rows_of(*prompts, **columns):
    return Dataset.from_dict(
        {"prompt": list(prompts), "completion": ["6 * 7 = 42. #### 42"] * len(prompts), **columns}
    )


def remote(server, **settings):
    settings = {"normalization": LAST_NUMBER, "num_generations": 4, "concurrency": 1, "timeout": 5.0, **settings}
    return PassRate("m", base_url=server.url, **settings)


def test_rates_of_known_answers(server, tmp_path):
    data, rate = rows_of("always", "half", "never"), remote(server, write_answers=True)
    first = score(data, replace(rate, num_generations=2), store=tmp_path)
    assert first["pass_rate"][:] == [1.0, 0.5, 0.0]
    assert len(server.bodies) == 6
    scored = score(data, rate, store=tmp_path)
    assert scored["pass_rate"][:] == [1.0, 0.5, 0.0]
    assert scored["pass_rate_answers"][:] == [4, 4, 4]
    assert scored["pass_rate_texts"][:] == [ANSWERS[prompt] for prompt in data["prompt"]]
    assert scored.features["pass_rate"] == Value("float32")
    assert len(server.bodies) == 12, "two more answers to each prompt"
    assert len({body["seed"] for body in server.bodies}) == 12, "each answer has a seed of its own"
    assert {(body["temperature"], body["max_tokens"], body.get("top_p")) for body in server.bodies} == {
        (1.0, 512, None)
    }


def test_function_in_map_gets_the_columns_that_are_named(server):
    rate = remote(server, normalization=None, verifier=f"{__name__}:in_gold", verifier_columns=["gold"])
    mapped = rows_of("half", "never", gold=["42, 41", "3"], other=[1, 2]).map(rate, batched=True)
    assert mapped["pass_rate"][:] == [0.75, 0.25]


def test_conversation_is_answered_before_its_last_response(server):
    server.reply = lambda text: Reply(completion("42"))
    turns = [("user", "always"), ("assistant", "Which?"), ("user", "The last."), ("assistant", "It is 42.")]
    chat = [{"role": role, "content": content} for role, content in turns]
    scored = score(Dataset.from_dict({"messages": [chat]}), remote(server, num_generations=1))
    assert scored["pass_rate"][:] == [1.0]
    assert server.bodies[0]["messages"] == chat[:3]


def test_rows_without_reference_are_not_answered(server):
    data = rows_of(*["always"] * 4, gold=["42", None, " ", "none"])
    scored = score(data, remote(server, reference="gold"), on_summary=str)
    assert scored["pass_rate_reason"][:] == ["", "empty_reference", "no_number_in_reference", "no_number_in_reference"]
    assert scored["pass_rate"][:] == [1.0, None, None, None]
    assert len(server.bodies) == 4
    numbers = score(rows_of("half", gold=[7]), remote(server, reference="gold"))
    assert numbers["pass_rate"][:] == [0.25]


def test_integer_references_that_a_null_made_floats(server):
    server.reply = lambda text: Reply(completion("42"))
    data = rows_of(*["always"] * 3, gold=[42.0, 42.5, None])
    scored = score(data, remote(server, reference="gold", normalization=None, num_generations=1))
    assert scored["pass_rate"][:] == [1.0, 0.0, None]


def test_thoughts_without_an_answer_are_wrong(server):
    texts = iter(["<think>It is 42", "<think>1</think>42"])
    server.reply = lambda text: Reply(completion(next(texts, " "), finish="length"))
    scored = score(rows_of("always"), remote(server, num_generations=3))
    assert scored["pass_rate"][:] == pytest.approx([1 / 3])


def test_failing_verifier(server):
    lines = list[str]()
    rate = remote(server, normalization=None, verifier=f"{__name__}:fails_on_forty", reference="gold")
    data = rows_of("always", "raises", "returns None", gold=["42"] * 3)
    scored = score(data, rate, on_summary=lines.append)
    assert scored["pass_rate"][:] == [0.25, None, None]
    assert scored["pass_rate_reason"][:] == ["", "verifier_error", "verifier_error"]
    [line] = lines
    assert "2 without: 2 verifier_error (rows 1, 2: KeyError: 'forty')" in line


@pytest.mark.parametrize(
    ("verifier", "message"),
    [
        ("always_raises", "KeyError: 'gold'.*row` has the columns that make the row, and those"),
        ("says_yes", "says_yes returned 'yes'"),
        ("math_verify", "math-verify finds no mathematics in '\\$\\$'.*The setting reference names the column"),
    ],
)
def test_verifier_that_always_fails_stops_before_anything_is_generated(server, verifier, message):
    name = verifier if verifier == "math_verify" else f"{__name__}:{verifier}"
    rate = remote(server, normalization=None, verifier=name, reference="count")
    data = rows_of("always", "half", "never", "raises", count=["$$"] * 4)
    with pytest.raises(
        ScoreError, match=f"tried before answers are generated.* of 4 rows.*could judge none.*{message}"
    ):
        score(data, rate)
    assert server.bodies == []


@pytest.mark.parametrize(
    ("answer", "verifier", "message"),
    [
        (
            "#### 42",
            f"{__name__}:reads_marked",
            "is 1 for all 3 rows .* prompts are too easy .* accepts wrong answers",
        ),
        (
            "About 43",
            "exact_match",
            "is 0 for all 3 rows .* too difficult .* in the format .* truncated at 512 tokens",
        ),
    ],
)
def test_equal_rates_are_named(server, caplog, answer, verifier, message):
    server.reply = lambda text: Reply(completion(answer))
    exact = remote(server, reference="gold")
    rate = exact if verifier == "exact_match" else replace(exact, verifier=verifier, normalization=None)
    data = rows_of("always", "raises", "never", gold=["42"] * 3)
    with caplog.at_level(logging.WARNING):
        score(data, rate)
        [record] = [record for record in caplog.records if "separates no rows" in record.message]
        assert re.search(f"pass_rate {message}", record.message)
        caplog.clear()
        score(rows_of("always", "half", "never", gold=["42", "43", "41"]), exact)
        score(data.select([0, 1]), exact)
    assert "separates" not in caplog.text


def test_budget_leaves_rows_without_a_rate(server, tmp_path):
    rate = remote(server, max_tokens_spent=45)  # 10 each
    first = score(rows_of("always", "half"), rate, store=tmp_path, on_summary=str)
    assert first["pass_rate_reason"][:] == ["budget_spent", "budget_spent"]
    second = score(rows_of("always", "half"), rate, store=tmp_path, on_summary=str)
    assert second["pass_rate"][:] == [1.0, 0.5]
    assert len(server.bodies) == 8


# -- settings ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_generations": 0}, "num_generations=0: it has to be an int above 0"),
        ({"temperature": 0.0}, r"num_generations=8: the answers of greedy decoding .* are all equal"),
        ({"verifier": "math_verfy"}, "it has to be 'exact_match', 'math_verify' or .* Did you mean 'math_verify'"),
        ({"verifier": "a:b", "normalization": LAST_NUMBER}, "is for verifier='exact_match', and verifier is 'a:b'"),
        ({"normalization": {"last": True}}, r"normalization=\{'last': True\}: its settings are ignore_case"),
        ({"verifier_columns": ("a",)}, r"verifier_columns=\('a',\)\) is for a function"),
        ({"verifier_columns": "a", "verifier": "a:b"}, "has to be a list of names"),
        ({"reference": ""}, "reference=''\\): it has to be the name of a column"),
        ({"write_answers": 1}, "write_answers=1"),
        ({"concurrency": 3}, r"PassRate\(concurrency=3\) is for an endpoint"),
        ({"base_url": "http://localhost/v1", "model": "m", "dtype": "float32"}, "the server decides"),
    ],
)
def test_invalid_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        PassRate(**settings)


def test_columns_that_do_not_fit(server):
    data = rows_of("always", gold=[["42"]])
    with pytest.raises(ColumnError, match=r"needs column 'golden', but the dataset has .* Did you mean 'gold'\?"):
        score(data, remote(server, reference="golden"))
    with pytest.raises(
        ColumnError, match=r"row 0 holds a list, and verifier='exact_match' compares texts and numbers"
    ):
        score(data, remote(server, reference="gold"))


def test_function_in_python_needs_the_score_itself(pool_rows):
    with pytest.raises(ConfigError, match="is code outside hf_datasel: in Python pass an instance of PassRate"):
        score(pool_rows, {"pass_rate": {"verifier": LENGTH}})


def test_function_is_recorded_by_name_and_source():
    rate = PassRate("m", base_url="http://localhost/v1", verifier=LENGTH)
    assert rate.spec()["verifier"] == LENGTH
    assert rate.spec()["resolved_verifier"].startswith("sha256:")
    assert outside_names({"selector": "top", "by": {"score": "pass_rate", "verifier": LENGTH}}) == [LENGTH]


# -- command line -----------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("without_histograms")
def test_command_line(server, tmp_path, monkeypatch, capsys):
    (tmp_path / "my_checks.py").write_text("def same(answer, reference, row):\n    return row['gold'] in answer\n")
    data = rows_of("always", "half", "never", gold=["42", "42", "42"])
    data.to_json(tmp_path / "rows.jsonl")
    monkeypatch.chdir(tmp_path)
    settings = {"model": "m", "base_url": server.url, "num_generations": 4, "concurrency": 1}
    settings |= {"verifier": "my_checks:same", "verifier_columns": ["gold"]}
    command = ["score", "--dataset_name", "rows.jsonl", "--scores", "pass_rate", "--output_dir", "out"]
    command += ["--scores_kwargs", json.dumps({"pass_rate": settings})]
    assert main(command) == 2
    assert "verifier='my_checks:same' is code outside hf_datasel. Permit it with --allow_im" in capsys.readouterr().err
    assert server.bodies == []
    assert main([*command, "--allow_imports"]) == 0
    assert "pass_rate: 3 of 3 rows scored" in capsys.readouterr().out
    scored = Dataset.from_parquet("out/scored.parquet")
    assert scored["pass_rate"][:] == [1.0, 0.5, 0.0]
    (tmp_path / "score.yaml").write_text(json.dumps({"scores_kwargs": {"pass_rate": settings}}))
    assert main(["score", "--config", "score.yaml"]) == 2
    assert "calls the function my_checks:same (verifier)" in capsys.readouterr().err
