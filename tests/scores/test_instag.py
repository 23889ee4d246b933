"""Tags of questions: what is asked, which answers can be read, and how tags are normalized."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from datasets import Dataset, List, Value

from hf_datasel import score, select
from hf_datasel.errors import ConfigError, FormatError
from hf_datasel.formats.stemming import porter_stem
from hf_datasel.formats.tags import parse_tags
from hf_datasel.scores.instag import INSTAGGER_PROMPT, TAG_PROMPT, InsTag
from hf_datasel.scoring.generation import Generator
from hf_datasel.selectors import MIG, InsTagDiverse, Top
from hf_datasel.testing import contract
from tests.scores.endpoint_server import Reply, between, completion, serving


def answer_to(text):
    """Tags by the length of the question, so that equal questions have equal ones."""
    question = between(text, "request") if "<request>" in text else text
    tags = [f"Tag-{number}" for number in range(len(question) % 4)] + ["Question"]
    return json.dumps([{"tag": tag, "explanation": 'It is "so".'} for tag in tags])


def tags_of(question):
    return [*(f"tag {number}" for number in range(len(question) % 4)), "question"]


@pytest.fixture
def server():
    with serving() as result:
        result.reply = lambda text: Reply(completion(answer_to(text)))
        yield result


@pytest.fixture(scope="module")
def rows(pool_rows):
    return pool_rows.select(range(8))


def remote(server, **settings):
    return InsTag("m", base_url=server.url, **{"timeout": 5.0, **settings})


@contract(
    InsTag("to be named", base_url="http://localhost:1/v1"),
    InsTag("to be named", base_url="http://localhost:1/v1", normalization="porter", column_prefix="old_"),
)
def test_contract(check, score, rows, tiny_model_dir, server):
    check(replace(score, model=str(tiny_model_dir), base_url=server.url), rows, tiny_model_dir)


@contract(InsTag(None, max_new_tokens=3))
def test_contract_of_a_local_model(check, score, rows, tiny_model_dir):
    check(score, rows, tiny_model_dir)


# -- answers ----------------------------------------------------------------------------------------------------------
OBJECTS = '{"tag": "Code", "explanation": "a"}, {"tag": "Math", "explanation": "b"}'


@pytest.mark.parametrize(
    ("answer", "tags"),
    [
        (f"[{OBJECTS}]", ["Code", "Math"]),
        (f"Here are the tags:\n```json\n[{OBJECTS}]\n```\nI hope [this] helps!", ["Code", "Math"]),
        (OBJECTS.replace("}, {", "}\n{"), ["Code", "Math"]),
        (OBJECTS, ["Code", "Math"]),
        ('{"tag": "Code", "explanation": "a"}', ["Code"]),
        (f"[{OBJECTS},]", ["Code", "Math"]),
        ('["Code", " Math ", ""]', ["Code", "Math"]),
        ("[]", []),
        ('[{"tag": "Code", "explanation": "the "best" one"}, {"tag": "Math", "explanation": "x"}]', ["Code", "Math"]),
        ("[{'tag': 'Code', 'explanation': 'it's a'}]", ["Code"]),
        ('[{"tag": "Code", "explanation": "two\nlines"}]', ["Code"]),
        (f"[{OBJECTS}", None),
        (f'[{OBJECTS}, {{"tag": "Wr', None),
        (f'[{OBJECTS}, {{"tag": "Writing", "explanation": "It wri', None),
        ('[{"tag": ["Code"], "explanation": "a"}]', None),
        ('[{"label": "Code"}]', None),
        ("[[7]]", None),
        pytest.param("[" * 3000, None, id="brackets"),
        ("Coding, mathematics", None),
        ("", None),
    ],
)
def test_answers(answer, tags):
    assert parse_tags(answer) == tags


def test_stems():
    # Examples of the steps in Porter (1980).
    words = {
        "caresses": "caress", "ponies": "poni", "cats": "cat", "feed": "feed", "agreed": "agre", "bled": "bled",
        "plastered": "plaster", "motoring": "motor", "sing": "sing", "conflated": "conflat", "troubled": "troubl",
        "sized": "size", "hopping": "hop", "falling": "fall", "hissing": "hiss", "fizzed": "fizz", "failing": "fail",
        "filing": "file", "happy": "happi", "sky": "sky", "relational": "relat", "conditional": "condit",
        "vietnamization": "vietnam", "predication": "predic", "operator": "oper", "decisiveness": "decis",
        "hopefulness": "hope", "sensibiliti": "sensibl", "triplicate": "triplic", "formalize": "formal",
        "electrical": "electr", "goodness": "good", "revival": "reviv", "adjustable": "adjust", "adoption": "adopt",
        "replacement": "replac", "homologou": "homolog", "effective": "effect", "probate": "probat", "rate": "rate",
        "cease": "ceas", "controll": "control", "roll": "roll",
    }  # fmt: skip
    assert {word: porter_stem(word) for word in words} == words


@pytest.mark.parametrize(
    ("normalization", "expected"),
    [
        ("none", ["Problem-Solving", "problem solving", "C++", "problem  solved"]),
        ("rules", ["problem solving", "c", "problem solved"]),
        ("porter", ["problem solv", "c"]),
    ],
)
def test_equal_tags_are_one(server, rows, normalization, expected):
    server.reply = lambda text: Reply(completion('["Problem-Solving", "problem solving", "C++", "problem  solved"]'))
    scored = score(rows.select([0]), [remote(server, normalization=normalization)])
    assert (scored["tags"][:], scored["tag_count"][:]) == ([expected], [len(expected)])


# -- what is asked ----------------------------------------------------------------------------------------------------
def test_requests(server, rows, tmp_path):
    scored = score(rows, [remote(server)], store=tmp_path)
    questions = [f"{row['instruction']}\n\n{row['input']}" if row["input"] else row["instruction"] for row in rows]
    assert sorted(between(text, "request") for text in server.asked) == sorted(questions)
    assert scored["tags"][:] == [tags_of(question) for question in questions]
    assert scored["tag_count"][:] == [len(tags_of(question)) for question in questions]
    assert (scored.features["tags"], scored.features["tag_count"]) == (List(Value("string")), Value("int32"))
    assert server.bodies[0]["max_tokens"] == 512
    score(rows, [remote(server, normalization="porter")], store=tmp_path)
    assert len(server.asked) == len(rows), "answers are stored, whatever is made of them"


def test_questions_of_a_conversation(server):
    turns = [
        ("system", "S"),
        ("user", "Hi"),
        ("assistant", "Hello!"),
        ("user", "A"),
        ("user", "Bye"),
        ("assistant", "B"),
    ]
    chat = [{"role": role, "content": content} for role, content in turns]
    data = Dataset.from_dict({"messages": [chat, chat[:3], [{"role": "user", "content": " "}, chat[2]]]})
    scored = score(data, [remote(server, prompt="{instruction}")], on_summary=str)
    assert sorted(server.asked) == ["A\nBye", "Hi"]
    assert scored["tags"][:] == [["tag 0", "tag 1", "question"], ["tag 0", "tag 1", "question"], None]
    assert scored["tags_reason"][:] == ["", "", "empty_prompt"]


def test_one_unreadable_answer_leaves_no_tags(server, rows):
    chat = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, "abcd", strict=True)]
    server.reply = lambda text: Reply(completion("No idea." if text == "c" else answer_to(text)))
    data = Dataset.from_dict({"messages": [chat, chat[:2]]})
    scored = score(data, [remote(server, prompt="{instruction}")], on_summary=str)
    assert scored["tags"][:] == [None, ["tag 0", "question"]]
    assert scored["tag_count"][:] == [None, 2]
    assert scored["tags_reason"][:] == ["unreadable_answer", ""]


def test_refused_and_unanswered_rows(server, rows):
    refused, silent = rows["instruction"][5], rows["instruction"][6]
    plain = server.reply

    def reply(text):
        if refused in text:
            return Reply({"error": {"message": "filtered"}}, 400)
        return Reply(completion("<think>Is it [code]?", "length")) if silent in text else plain(text)

    server.reply = reply
    scored = score(rows, [remote(server, concurrency=1)], on_summary=str)
    assert scored["tags_reason"][:] == [*[""] * 5, "refused", "unreadable_answer", ""]


def test_thoughts_are_not_read(server, rows):
    server.reply = lambda text: Reply(completion('<think>["No"]</think>["Yes"]'))
    assert score(rows.select([0]), [remote(server)])["tags"][:] == [["yes"]]


# -- a local model ----------------------------------------------------------------------------------------------------
@pytest.fixture
def answering(monkeypatch):
    """Give the prompts that a local model is asked, which answers each with its number as a tag."""
    asked = []

    def texts(generator, answers):
        yield from (f'["number {number}"]' for number in range(len(answers)))

    plain = Generator.answers

    def answers(generator, prompts, *args):
        asked.extend(generator.tokenizer.decode(prompts[index].tolist()) for index in range(len(prompts)))
        return plain(generator, prompts, *args)

    monkeypatch.setattr(Generator, "texts", texts)
    monkeypatch.setattr(Generator, "answers", answers)
    return asked


def test_prompts_of_a_chat_model(answering, tiny_model_dir):
    chat = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, "abcd", strict=True)]
    data = Dataset.from_dict({"messages": [chat, [{"role": "user", "content": "word " * 2000}, chat[1]], chat[2:]]})
    scored = score(data, [InsTag(str(tiny_model_dir), prompt="Tag {instruction}", max_new_tokens=2)], on_summary=str)
    assert answering == [f"<|im_start|>user\nTag {text}<|im_end|>\n<|im_start|>assistant\n" for text in "acc"]
    assert scored["tags"][:] == [["number 0", "number 1"], None, ["number 2"]]
    assert scored["tags_reason"][:] == ["", "prompt_fills_window", ""]


def test_published_prompt_is_plain_text(answering, tiny_model_dir, tiny_text_model_dir, rows):
    for folder in (tiny_model_dir, tiny_text_model_dir):
        score(rows.select([0]), [InsTag(str(folder), prompt=INSTAGGER_PROMPT, max_new_tokens=2)])
    expected = INSTAGGER_PROMPT.replace("{instruction}", rows["instruction"][0])
    assert all(text.endswith(expected) and "<|im_start|>" not in text for text in answering)
    assert InsTag()._prompt == INSTAGGER_PROMPT
    assert InsTag("another/model")._prompt == InsTag(base_url="http://localhost:1/v1")._prompt == TAG_PROMPT


# -- selections and errors --------------------------------------------------------------------------------------------
def test_selections_by_tags(server, pool_rows):
    tags = remote(server)
    scored = score(pool_rows, [tags]).add_column("quality", [1.0] * len(pool_rows))
    for by_score, by_column in (
        (Top(by=tags), Top(by="tag_count")),
        (InsTagDiverse(tags), InsTagDiverse()),
        (MIG(quality="quality", labels=tags, vectors=None), MIG(quality="quality", vectors=None)),
    ):
        data = scored.remove_columns(["tags", "tag_count", "tags_reason"])
        selection = select(data, by_score, size=10)
        assert selection.indices.tolist() == select(scored, by_column, size=10).indices.tolist()
        assert "tag_count" in selection.score_columns


def test_origin_of_tags_is_known(server, pool_rows, tmp_path):
    scored = score(pool_rows, [remote(server), "length"])
    scored.to_parquet(tmp_path / "scored.parquet")
    selector = MIG(quality="response_words", vectors=None)
    selection = select(Dataset.from_parquet(str(tmp_path / "scored.parquet")), selector, size=10)
    assert selection.provenance["columns_unverified"] == []
    assert [spec["score"] for spec in selection.provenance["scores"]] == ["instag", "length"]
    reversed_tags = scored.remove_columns("tags").add_column("tags", scored["tags"][:][::-1])
    selection = select(reversed_tags, selector, size=10)
    assert selection.provenance["columns_unverified"] == ["tags"]


def test_settings_that_cannot_work():
    with pytest.raises(ConfigError, match=r"has to hold \{instruction\}"):
        InsTag(prompt="Tags?")
    with pytest.raises(ConfigError, match=r"normalization='stem'"):
        InsTag(normalization="stem")
    with pytest.raises(ConfigError, match=r"concurrency=4\) is for an endpoint: it needs base_url"):
        InsTag(concurrency=4)
    with pytest.raises(ConfigError, match="the server decides how its model is loaded"):
        InsTag("m", base_url="http://localhost:1/v1", dtype="float32")


def test_text_rows_have_no_question(server):
    with pytest.raises(FormatError, match="only a text column have no prompt to tag"):
        score(Dataset.from_dict({"text": ["a"]}), [remote(server)])
