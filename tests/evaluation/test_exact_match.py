"""Exact match of generated answers: normalization, answers against `generate`, counts, the metric of `evaluate`."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_datasel.errors import ConfigError, EvaluationError, FormatError, ModelError
from hf_datasel.evaluation import MatchedAnswers, Normalization, match_answers
from hf_datasel.testing.guards import no_network, unchanged_random_state

NEW = 12


def chat(*texts):
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


# -- normalization ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "text", "expected"),
    [
        ({}, "  Yes,\n\tit  is. ", "Yes, it is."),
        ({"collapse_whitespace": False}, "  Yes,\n\tit  is. ", "Yes,\n\tit  is."),
        ({"ignore_case": True}, "STRAßE", "strasse"),
        ({"ignore_punctuation": True}, "« Bonsoir ! » — C'est $5.", "Bonsoir Cest 5"),
        ({"ignore_case": True, "ignore_punctuation": True}, "Yes, it is!", "yes it is"),
        ({"ignore_punctuation": True}, "?!", ""),
    ],
)
def test_text_normalization(settings, text, expected):
    assert Normalization(**settings)(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("#### 42", "42"),
        ("6 * 7 = <<6*7=42>>42 apples.\n#### 42", "42"),
        ("She has 3 cats and 12 dogs.", "12"),
        ("12 #### 7 (of 9)", "9"),
        ("It costs $1,234,567.50.", "1234567.5"),
        ("1,000", "1000"),
        ("1000.0", "1000"),
        ("one of 1, 2, 3", "3"),
        ("in 2024,500", "500"),
        ("007", "7"),
        ("-5", "-5"),
        ("x = −5", "-5"),
        ("-$5", "-5"),
        ("-0.0", "0"),
        ("10-3", "3"),
        ("f(x)-3", "3"),
        ("GPT-4", "4"),
        ("about .5", "0.5"),
        ("20%", "20"),
        ("123456789012345678901234567890.10", "123456789012345678901234567890.1"),
        ("#### none, but 5", "5"),
        ("5 #### none", None),
        ("none", None),
    ],
)
def test_last_number(text, expected):
    assert Normalization(last_number=True)(text) == expected


def test_normalization_settings_are_checked():
    with pytest.raises(ConfigError, match=r"Normalization\(ignore_case='yes'\): it has to be True or False"):
        Normalization(ignore_case="yes")
    for name in ("ignore_case", "ignore_punctuation"):
        with pytest.raises(ConfigError, match="compares numbers only: omit ignore_case and ignore_punctuation"):
            Normalization(last_number=True, **{name: True})


# -- answers ----------------------------------------------------------------------------------------------------------
def answer_by_hand(model, tokenizer, messages, new=NEW):
    """Return the answer of `generate` to one conversation, and whether it was cut."""
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    with torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=new, do_sample=False, eos_token_id=ends, pad_token_id=0)
    answer = ids[0, inputs["input_ids"].shape[1] :].tolist()
    return tokenizer.decode(answer, skip_special_tokens=True).strip(), not set(answer) & set(ends)


@pytest.fixture
def chats(pool_rows):
    """Return conversations of one and of two turns."""
    rows = [chat(row["instruction"], row["output"]) for row in pool_rows.select(range(8))]
    rows += [chat("Say hello.", "Hello.", row["instruction"], row["output"]) for row in pool_rows.select(range(8, 12))]
    return Dataset.from_dict({"messages": rows, "source": ["a", "b"] * 6})


def test_answers_equal_generate(chats, model, tokenizer):
    result = match_answers(chats, model, tokenizer, max_new_tokens=NEW)
    expected = [answer_by_hand(model, tokenizer, row["messages"][:-1]) for row in chats]
    assert result.answers.tolist() == [answer for answer, _ in expected]
    assert result.truncated.tolist() == [is_cut for _, is_cut in expected]
    assert result.references.tolist() == [row["messages"][-1]["content"] for row in chats]
    assert result.values.tolist() == [0.0] * 12


def test_correct_answers_by_group(chats, model, tokenizer):
    answers = [answer_by_hand(model, tokenizer, row["messages"][:-1])[0] for row in chats]
    own = [f" {answer.upper()}\n" if index in (0, 1, 4) else "No." for index, answer in enumerate(answers)]
    rows = [
        [*row["messages"][:-1], {"role": "assistant", "content": text}] for row, text in zip(chats, own, strict=True)
    ]
    dataset = Dataset.from_dict({"messages": rows, "source": chats["source"][:]})
    kwargs = {"max_new_tokens": NEW, "group_by": "source"}
    result = match_answers(dataset, model, tokenizer, normalization=Normalization(ignore_case=True), **kwargs)
    assert np.flatnonzero(result.values).tolist() == [0, 1, 4]
    summary = result.to_dict()
    assert summary["exact_match"] == 0.25
    assert [summary["groups"][name]["correct"] for name in "ab"] == [2, 1]
    assert summary["truncated_answers"] == result.truncated.sum() > 0
    assert summary["settings"]["normalization"]["ignore_case"] is True
    assert not match_answers(dataset, model, tokenizer, **kwargs).values.any()


@pytest.mark.parametrize("tokens", [1, 150, 100_000])
def test_batches_and_order_do_not_matter(chats, model, tokenizer, tokens):
    expected = match_answers(chats, model, tokenizer, max_new_tokens=NEW)
    order = np.random.default_rng(0).permutation(len(chats))
    result = match_answers(
        chats.select(order), model, tokenizer, max_new_tokens=NEW, scoring_tokens_per_batch=tokens
    )  # fmt: skip
    assert result.answers.tolist() == expected.answers[order].tolist()
    assert len(set(result.answers)) > 6


def test_model_by_name(chats, tiny_model_dir, model, tokenizer):
    named = match_answers(chats, tiny_model_dir, max_new_tokens=NEW)
    assert named.answers.tolist() == match_answers(chats, model, tokenizer, max_new_tokens=NEW).answers.tolist()
    assert named.settings["model"]["identity"]["weights"]


def test_an_answer_that_ends_in_time_is_not_cut(chats, model, tokenizer):
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    bias = torch.zeros(len(tokenizer))
    bias[end] = 1e4
    model.lm_head.register_forward_hook(lambda module, inputs, output: output + bias)
    result = match_answers(chats, model, tokenizer, max_new_tokens=1)
    assert result.answers.tolist() == [""] * 12
    assert not result.truncated.any()
    assert result.to_dict()["truncated_answers"] == 0


def test_rows_without_a_value_are_counted(model, tokenizer):
    call = {"type": "function", "function": {"name": "tide", "arguments": {"port": "Vlore"}}}
    thinking = {"role": "assistant", "content": "4", "reasoning_content": "Two and two make 5 less 1."}
    rows = [
        chat("2 + 3?", "It is 5."),
        [*chat("Tide?"), {"role": "assistant", "content": "I look.", "tool_calls": [call]}],
        chat("Hi", "Hello."),
        [*chat("2 + 2?"), thinking],
        chat("word " * 1100, "It is 5."),
        chat("2 + 3?", ""),
    ]
    dataset = Dataset.from_list([{"messages": row} for row in rows])
    result = match_answers(
        dataset, model, tokenizer, max_new_tokens=2, normalization=Normalization(last_number=True)
    )  # fmt: skip
    reasons = ["", "tool_calls", "no_number_in_reference", "", "prompt_fills_window", "empty_response"]
    assert result.reasons.tolist() == reasons
    assert np.isnan(result.values).tolist() == [bool(reason) for reason in reasons]
    assert result.references[3] == "4"
    assert result.to_dict()["rows_without_value"] == {reason: 1 for reason in sorted(reasons) if reason}
    marks = Dataset.from_list([{"messages": chat("Hi", text)} for text in ("?", "Ho.")])
    normalization = Normalization(ignore_punctuation=True)
    result = match_answers(marks, model, tokenizer, max_new_tokens=2, normalization=normalization)
    assert result.reasons.tolist() == ["empty_reference", ""]


def test_saved_results_are_equal(chats, model, tokenizer, tmp_path):
    result = match_answers(chats, model, tokenizer, max_new_tokens=NEW, group_by="source", excluded={"seen": [3]})
    loaded = MatchedAnswers.load(result.save(tmp_path / "answers.parquet"))
    for name in ("row_ids", "reasons", "groups", "correct", "truncated", "answers", "references"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(result, name))
    assert loaded.to_dict() == result.to_dict() == json.loads(json.dumps(result.to_dict()))
    from hf_datasel.evaluation import HeldoutLoss

    with pytest.raises(EvaluationError, match="contains exact_match, not heldout_loss"):
        HeldoutLoss.load(tmp_path / "answers.parquet")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_new_tokens": 0}, ConfigError, "max_new_tokens=0"),
        ({"max_new_tokens": 1024}, ModelError, "leaves no room for a prompt"),
        ({"max_new_tokens": 1023}, EvaluationError, "None of the 12 held-out rows .*: 12 prompt_fills_window"),
        ({"excluded": {"seen": range(12)}}, EvaluationError, "None of the 12 held-out rows .*: 12 seen"),
        ({"dtype": "float32"}, EvaluationError, "for a model that is named"),
    ],
)
def test_errors(chats, model, tokenizer, arguments, error, message):
    with pytest.raises(error, match=message):
        match_answers(chats, model, tokenizer, **{"max_new_tokens": 2, **arguments})


def test_errors_of_rows(chats, model, tokenizer):
    with pytest.raises(EvaluationError, match="12 of 12 held-out rows are in the training pool"):
        match_answers(chats, model, tokenizer, training_pool=chats)
    with pytest.raises(FormatError, match="no response to compare answers with"):
        match_answers(Dataset.from_dict({"text": ["Hi"]}), model, tokenizer)
    with pytest.raises(FormatError, match="match_answers reads the text of rows"):
        match_answers(Dataset.from_dict({"input_ids": [[1, 5, 6]], "labels": [[-100, 5, 6]]}), model, tokenizer)
    with pytest.raises(EvaluationError, match=r"None of the 1 held-out rows .*: 1 no_number_in_reference"):
        match_answers(
            Dataset.from_dict({"prompt": ["Hi"], "completion": ["Ho"]}),
            model,
            tokenizer,
            normalization=Normalization(last_number=True),
        )


# -- the metric of evaluate -------------------------------------------------------------------------------------------
def test_metric_of_known_answers():
    from hf_datasel.evaluation import ExactMatch

    texts = {"predictions": ["Yes.", "so 7", "no"], "references": ["yes", "#### 7", "No!"]}
    assert ExactMatch().compute(**texts) == {"exact_match": 0.0}
    lenient = ExactMatch(Normalization(ignore_case=True, ignore_punctuation=True))
    assert lenient.compute(**texts) == {"exact_match": pytest.approx(2 / 3)}
    assert lenient.name == "exact_match"
    for prediction, reference in zip(*texts.values(), strict=True):
        lenient.add(prediction=prediction, reference=reference)
    lenient.add_batch(predictions=["a"], references=["A"])
    assert lenient.compute() == {"exact_match": 0.75}
    assert lenient.compute(predictions=["a"], references=["b"]) == {"exact_match": 0.0}


def test_metric_in_combine_and_save(tmp_path):
    import evaluate

    from hf_datasel.evaluation import ExactMatch

    class Longer(evaluate.Metric):
        def __init__(self):
            super().__init__(keep_in_memory=True, cache_dir=str(tmp_path / "cache"))

        def _info(self):
            return ExactMatch()._info()

        def _compute(self, predictions, references):
            return {"longer": sum(len(a) > len(b) for a, b in zip(predictions, references, strict=True))}

    modules = {"strict": ExactMatch(), "number": ExactMatch(Normalization(last_number=True)), "longer": Longer()}
    combined = evaluate.combine(modules)
    with no_network(), unchanged_random_state():
        result = combined.compute(predictions=["It is 7.", "8"], references=["7", "8.0"])
    assert result == {"strict_exact_match": 0.0, "number_exact_match": 1.0, "longer": 1}
    path = evaluate.save(tmp_path / "result.json", **result)
    assert json.loads(path.read_text())["number_exact_match"] == 1.0


def test_metric_leaves_the_cache_alone(tmp_path):
    from hf_datasel.evaluation import ExactMatch

    cache = tmp_path / "cache"
    assert ExactMatch(cache_dir=str(cache)).compute(predictions=["a"], references=["a"]) == {"exact_match": 1.0}
    assert not cache.exists()
    on_disk = ExactMatch(cache_dir=str(cache), keep_in_memory=False)
    assert on_disk.compute(predictions=["a"], references=["a"]) == {"exact_match": 1.0}
    assert cache.exists()


def test_metric_errors():
    from hf_datasel.evaluation import ExactMatch

    with pytest.raises(EvaluationError, match="no predictions to compare: pass them"):
        ExactMatch().compute()
    with pytest.raises(EvaluationError, match="predictions is empty"):
        ExactMatch().compute(predictions=[], references=[])
    with pytest.raises(EvaluationError, match=r"references\[1\]='none' contains no number"):
        ExactMatch(Normalization(last_number=True)).compute(predictions=["1", "2"], references=["1", "none"])
    with pytest.raises(EvaluationError, match=r"references\[0\]=' ' is empty after normalization"):
        ExactMatch().compute(predictions=[""], references=[" "])
    with pytest.raises(ValueError, match="Mismatch in the number of predictions"):
        ExactMatch().compute(predictions=["a"], references=["a", "b"])
    with pytest.raises(ValueError, match="don't match the expected format"):
        ExactMatch().compute(predictions=[1], references=["1"])


def test_import_is_cheap_and_silent():
    heavy = {"torch", "transformers", "datasets", "scipy", "evaluate", "lm_eval"}
    code = f"import sys, hf_datasel.evaluation as e; dir(e); e.Normalization()('a'); print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert (done.stdout.strip(), done.stderr) == ("set()", "")
    code = (
        "import sys; from hf_datasel.evaluation import match_answers, heldout_loss; print('evaluate' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "False"
