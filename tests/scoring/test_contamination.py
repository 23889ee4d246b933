"""N-grams shared with evaluation questions, against a plain comparison."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from datasets import Dataset

from hf_datasel.errors import ConfigError, FormatError
from hf_datasel.formats import Pool
from hf_datasel.scoring import contaminated_rows, contamination
from hf_datasel.scoring.contamination import QuestionIndex

QUESTION = "Mia has 12 plums. She gives 5 plums to Tom and eats 2. How many plums does Mia have left?"


def pool(*rows):
    prompts, completions = zip(*[row if isinstance(row, tuple) else (row, "No.") for row in rows], strict=True)
    return Dataset.from_dict({"prompt": list(prompts), "completion": list(completions)})


def plain_overlap(text, questions, n):
    """The highest share of a question's words in common n-grams, and the first question that has it."""
    words = text.split()
    ngrams = {tuple(words[start : start + n]) for start in range(len(words) - n + 1)}
    best, number = np.float32(0), -1
    for position, question in enumerate(questions):
        asked = question.split()
        covered = set()
        for start in range(len(asked) - n + 1):
            if tuple(asked[start : start + n]) in ngrams:
                covered |= set(range(start, start + n))
        if covered and np.float32(len(covered) / len(asked)) > best:
            best, number = np.float32(len(covered) / len(asked)), position
    return best, number


@pytest.mark.parametrize("max_matches", [4_000_000, 3])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 8, 9, 13])
def test_equals_plain_comparison(n, max_matches, monkeypatch):
    monkeypatch.setattr(contamination, "_MAX_MATCHES", max_matches)
    monkeypatch.setattr(contamination, "_TEXTS_PER_BLOCK", 4)
    draw = random.Random(n)

    def texts(most, longest):
        words = "abcde"[: draw.randint(1, 5)]
        return [" ".join(draw.choices(words, k=draw.randint(0, longest))) for _ in range(draw.randint(0, most))]

    found = 0
    for _ in range(60):
        questions, rows = {name: texts(5, 20) for name in "xyz"}, texts(5, 30)
        asked = [question.split() for name in "xyz" for question in questions[name]]
        rows += [" ".join([*"fa", *words[draw.randint(0, 3) :], *"bc"]) for words in asked]
        shares, numbers = QuestionIndex(questions, n).compare(rows)
        for row, text in enumerate(rows):
            for position, name in enumerate(questions):
                expected = plain_overlap(text, questions[name], n)
                assert (shares[row, position], numbers[row, position]) == expected
                found += expected[0] > 0
    assert found > 20


def test_boilerplate_of_all_questions():
    """A row that shares an n-gram with thousands of questions is matched with the one it repeats most of."""
    asked = [
        f"The following is a multiple choice question about the number {number} and no other" for number in range(3000)
    ]
    rows = ["the following is a multiple choice question about cooking", asked[1234]]
    shares, numbers = QuestionIndex({"exam": asked}, 8).compare(rows)
    assert numbers[:, 0].tolist() == [0, 1234]
    assert shares[:, 0].tolist() == [pytest.approx(8 / 14), 1]


def test_case_and_punctuation_do_not_matter():
    changed = "“MIA has 12 plums; she gives 5 plums to Tom — and eats 2: how many plums does Mia have left”"
    result = contaminated_rows(pool(changed, "Mia has 12 pears."), {"exam": [QUESTION]})
    assert result.rows.tolist() == [0]
    assert result.shares[0, 0] == 1


def test_scripts_without_spaces():
    question = "小明有十二个苹果他给了小红五个还剩几个"
    result = contaminated_rows(pool(f"请回答：{question}？", "小明有一只猫"), {"exam": [question]})
    assert result.rows.tolist() == [0]


def test_part_of_rows():
    data = pool(("Solve it.", f"You ask: {QUESTION}"), (QUESTION, "5"))
    for part, expected in (("both", [0, 1]), ("prompt", [1]), ("response", [0])):
        assert contaminated_rows(data, {"exam": [QUESTION]}, part=part).rows.tolist() == expected


def test_every_row_format():
    question, answer = QUESTION, "Five plums."
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    chat += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    formats = [
        {"instruction": [question], "input": [""], "output": [answer]},
        {"messages": [chat]},
        {"conversations": [[{"from": "human", "value": question}, {"from": "gpt", "value": answer}]]},
        {"prompt": [question], "chosen": [answer], "rejected": ["No."]},
        {"text": [f"Q: {question} A: {answer}"]},
        {"question": [question], "answer": [answer]},
    ]
    for columns in formats:
        result = contaminated_rows(Pool(Dataset.from_dict(columns)), {"exam": [question]})
        assert result.rows.tolist() == [0], columns
        assert result.shares.tolist() == [[1.0]]


def test_threshold():
    words = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    half = " ".join(words.split()[:8])
    more = " ".join(words.split()[:9])
    data = pool(half, more, words)
    for threshold, expected in ((0, [0, 1, 2]), (0.5, [1, 2]), (9 / 16, [2])):
        assert contaminated_rows(data, {"exam": [words]}, threshold=threshold).rows.tolist() == expected
    assert contaminated_rows(data, {"exam": [words]}, n=9).rows.tolist() == [1, 2]


def test_result_names_sets_and_counts_short_questions():
    other = "name the capital of the country that lies north of Spain"
    questions = {"plums": ["Too short.", QUESTION, ""], "capitals": [other], "facts": ["Who is it?"]}
    result = contaminated_rows(pool("Is it slow?", QUESTION, f"{other}? {QUESTION}", other), questions)
    assert {name: rows.tolist() for name, rows in result.by_set.items()} == {
        "plums": [1, 2], "capitals": [2, 3], "facts": []
    }  # fmt: skip
    assert result.rows.tolist() == [1, 2, 3]
    assert result.questions.tolist() == [[-1, -1, -1], [1, -1, -1], [1, 0, -1], [-1, 0, -1]]
    counts = {name: (numbers["questions"], numbers["too_short"]) for name, numbers in result.checked.items()}
    assert counts == {"plums": (3, 2), "capitals": (1, 0), "facts": (1, 1)}
    assert str(result) == (
        "3 of 4 rows are contaminated (2 with plums, 2 with capitals, 0 with facts). Rows were compared with "
        "evaluation questions by 8-grams of words: 1 of plums, 1 of capitals, 0 of facts. Questions with fewer than 8 "
        "words were not checked: 2 of plums, 1 of facts."
    )
    json.dumps(result.checked)


def test_only_short_questions_or_none():
    for questions in ({"facts": ["Who is it?"]}, {"facts": []}, {}):
        result = contaminated_rows(pool(QUESTION), questions)
        assert result.rows.tolist() == []
        assert len(result.checked) == len(questions)


def test_digest_is_of_the_words():
    def digest(*texts):
        return QuestionIndex({"exam": texts}).checked["exam"]["sha256"]

    assert digest("How many?", "A fox.") == digest("how MANY", "a fox")
    assert len({digest("a b", "c"), digest("a", "b c"), digest("c", "a b"), digest("a b c")}) == 4


def test_rows_that_cannot_be_used_share_nothing():
    data = pool((QUESTION, ""), (QUESTION, "5"))
    assert contaminated_rows(data, {"exam": [QUESTION]}).rows.tolist() == [1]


def test_errors():
    data, asked = pool(QUESTION), {"exam": [QUESTION]}
    for n in (0, 2.0, True):
        with pytest.raises(ConfigError, match="has to be an int of at least 1, the number of words"):
            contaminated_rows(data, asked, n=n)
    for threshold in (1, -0.1, "0.5"):
        with pytest.raises(ConfigError, match="has to be a number from 0 to below 1"):
            contaminated_rows(data, asked, threshold=threshold)
    with pytest.raises(ConfigError, match=r"part='answer': it has to be 'prompt', 'response'"):
        contaminated_rows(data, asked, part="answer")
    with pytest.raises(FormatError, match=r"no prompt to compare\. Pass part='both'"):
        contaminated_rows(Dataset.from_dict({"text": [QUESTION]}), asked, part="prompt")
    with pytest.raises(FormatError, match="tokenized already"):
        contaminated_rows(Dataset.from_dict({"input_ids": [[1, 2]], "labels": [[1, 2]]}), asked)


@pytest.mark.shared
def test_planted_questions_are_found(shared):
    questions = [row["instruction"] for row in json.loads((shared / "data" / "gsm8k_train_7473.json").read_text())]
    rows = json.loads((shared / "data" / "alpaca_random_5200.json").read_text())
    draw = random.Random(0)
    planted = sorted(draw.sample(range(len(rows)), 300))
    asked = draw.sample(range(len(questions)), 300)
    own = contaminated_rows(Dataset.from_list(rows), {"gsm8k": questions}).rows
    assert len(own) == 3, "proverbs and phrases of geometry"
    for row, number in zip(planted, asked, strict=True):
        place = draw.choice(["instruction", "input", "output"])
        rows[row] = {**rows[row], place: f"{rows[row][place]}\n{questions[number].upper()}\n"}
    result = contaminated_rows(Dataset.from_list(rows), {"gsm8k": questions})
    unusable = {row for row in planted if not rows[row]["output"].strip()}
    assert set(result.rows.tolist()) == (set(planted) - unusable) | set(own.tolist())
    found = {row: result.questions[row, 0] for row in planted}
    same = sum(questions[found[row]] == questions[number] for row, number in zip(planted, asked, strict=True))
    assert same >= 299
    assert (
        np.isin(
            result.rows, contaminated_rows(Dataset.from_list(rows), {"gsm8k": questions}, threshold=0.5).rows
        ).sum()
        == 300
    )
