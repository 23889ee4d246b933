"""The reward gap of a model behind an endpoint: what is sent, which rows have no answer, and later runs."""

from __future__ import annotations

import json
import logging
import os
import pickle
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset

from hf_datasel import score, select
from hf_datasel.cards.build import gather
from hf_datasel.errors import ConfigError, FormatError, ScoreError
from hf_datasel.formats import Pool, canonical_rows
from hf_datasel.scores import RewardGap
from hf_datasel.scoring import ScoreStore
from hf_datasel.scoring.distributed import Processes
from hf_datasel.scoring.endpoint.answers import pack, packed_width, unpack
from hf_datasel.scoring.engine import Engine
from hf_datasel.selectors import IterativeKMQ, Top
from hf_datasel.testing import contract
from hf_datasel.tokens import TokenSettings
from tests.scores.endpoint_server import CUT, Reply, between, completion, rating_of, serving

SECRET = "sk-do-not-show-0123456789"
NEW = 8
TOO_LONG = Reply({"error": {"message": "maximum context length is 9"}}, 400)


def answer_to(prompt):
    """The model's answer to a prompt, always the same one."""
    return f"I say {rating_of(prompt)} of {len(prompt)}."


def is_judged(text):
    return text.startswith("You are a fair")


@pytest.fixture
def server():
    with serving(SECRET) as result:
        rate = result.reply
        result.reply = lambda text: rate(text) if is_judged(text) else Reply(completion(answer_to(text)))
        yield result


@pytest.fixture(scope="module")
def rows(pool_rows):
    return pool_rows.select(range(8))


def remote(server, **settings):
    """The gap of the model "m" by the ratings of the model "j", both of one server."""
    judge = {"model": "j", "base_url": server.url, "timeout": 5.0}
    settings = {"scorer": "judge", "judge": judge, "max_new_tokens": NEW, "timeout": 5.0, **settings}
    return RewardGap("m", base_url=server.url, **settings)


def asked(server, model="m"):
    """The bodies of the requests to one of the models."""
    return [body for body in server.bodies if body["model"] == model]


def prompts_of(data):
    return [row.turns[0].content for row in canonical_rows(data[:])]


def replies(server, by_prompt):
    """Let the model reply to some prompts otherwise."""
    plain = server.reply
    server.reply = lambda text: by_prompt.get(text) or plain(text)
    return plain


@contract(
    RewardGap("to be named", base_url="http://localhost:1/v1", scorer="judge", judge={"model": "j"}),
    RewardGap(
        "to be named",
        base_url="http://localhost:1/v1",
        scorer="judge",
        judge={"model": "j"},
        temperature=0.7,
        top_p=0.9,
        concurrency=2,
        max_tokens_spent=10**6,
        column_prefix="old_",
    ),
)
def test_contract(check, score, rows, tiny_model_dir, server):
    # The checks load the model that the score names.
    judge = {"model": "j", "base_url": server.url}
    check(replace(score, model=str(tiny_model_dir), base_url=server.url, judge=judge), rows, tiny_model_dir)


# -- what is asked and what comes back --------------------------------------------------------------------------------
def test_gap_of_ratings(server, rows):
    scored = score(rows, [remote(server)])
    ratings = {
        (between(text, "task"), between(text, "answer")): rating_of(text) for text in server.asked if is_judged(text)
    }
    pairs = list(zip(prompts_of(rows), rows["output"], strict=True))
    expected = [ratings[prompt, own] - ratings[prompt, answer_to(prompt)] for prompt, own in pairs]
    assert scored["reward_gap"][:] == expected
    assert set(scored["reward_gap_reason"]) == {""}
    assert server.paths == {"/v1/chat/completions"}
    assert server.tokens == {f"Bearer {SECRET}"}
    bodies = sorted(asked(server), key=lambda body: body["messages"][0]["content"])
    assert bodies == [
        {"model": "m", "messages": [{"role": "user", "content": prompt}], "max_tokens": NEW, "temperature": 0.0}
        for prompt in sorted(prompts_of(rows))
    ]


def test_gap_of_rewards(server, rows, reward_dir):
    from tests.scores.test_reward_gap import own_reward

    server.reply = lambda text: Reply(completion(f" \n{answer_to(text)}\n", finish="length"))
    gap = remote(server, scorer="reward", judge=None, reward_model=reward_dir)
    scored = score(rows, [gap])
    expected = [
        own_reward(reward_dir, row, row.response) - own_reward(reward_dir, row, answer_to(prompt))
        for row, prompt in zip(canonical_rows(rows[:]), prompts_of(rows), strict=True)
    ]
    np.testing.assert_allclose(scored["reward_gap"], expected, atol=1e-5)
    assert len(server.asked) == len(rows)
    cut = score(rows, [replace(gap, max_length=64, max_new_tokens=4)])["reward_gap"][:]
    assert None not in cut and cut != scored["reward_gap"][:], "the reward model reads 64 + 4 tokens"
    training = Engine(Pool(rows), settings=TokenSettings(max_length=64))
    assert training.compute(replace(gap, max_new_tokens=4))["reward_gap"].to_pylist() == cut


def test_batches_of_map_wait_for_no_other_process(server, rows, monkeypatch):
    def refuse():
        raise AssertionError("under a launcher, processes may map one after the other")

    expected = score(rows, [remote(server)])["reward_gap"][:4]
    monkeypatch.setattr(Processes, "current", refuse)
    assert remote(server)(rows[:4])["reward_gap"] == expected


def test_no_model_is_loaded(server, rows, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a model or a tokenizer is loaded")

    for name in ("models.model_identity", "base.model_identity", "engine.load_tokenizer", "models.load_model"):
        monkeypatch.setattr(f"hf_datasel.scoring.{name}", refuse)
    gap = remote(server)
    assert set(score(rows, [gap])["reward_gap_reason"]) == {""}
    assert gap.spec()["resolved_model"] is None
    assert pickle.loads(pickle.dumps(gap)) == gap


def test_sampling_settings(server, rows, tmp_path):
    gap = remote(server, temperature=0.7, top_p=0.9, seed=3)
    score(rows, [gap])
    bodies = asked(server)
    assert {(body["max_tokens"], body["temperature"], body["top_p"]) for body in bodies} == {(NEW, 0.7, 0.9)}

    def seeds():
        found = {body["messages"][0]["content"]: body["seed"] for body in asked(server)}
        server.bodies.clear()
        return found

    first = seeds()
    assert len(set(first.values())) == len(rows), "the prompts do not share their noise"
    assert all(0 <= seed < 2**31 for seed in first.values())
    score(rows.select([5, 2]), [gap])
    again = seeds()
    assert again == {prompt: first[prompt] for prompt in again}, "other rows do not matter"
    score(rows, [replace(gap, seed=4)])
    assert set(seeds().values()).isdisjoint(first.values())


TOOL = {"type": "function", "function": {"name": "tide", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "tide", "arguments": '{"day": 2}'}}
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Tide?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "High."},
    {"role": "assistant", "content": "It is high."},
]


def test_conversation_with_tools(server):
    server.reply = lambda text: Reply(
        completion(None) if text == "Be brief." else completion(f"Rating: {rating_of(text)}")
    )
    answer = {"role": "assistant", "content": None, "tool_calls": [{**CALL, "id": "random", "index": 0}]}
    called = completion("")
    called["choices"][0] |= {"message": answer, "finish_reason": "tool_calls"}
    replies(server, {"Be brief.": Reply(called)})
    data = Dataset.from_dict(
        {
            "messages": [json.dumps(CHAT)],
            "tools": [json.dumps([TOOL])],
            "chat_template_kwargs": [json.dumps({"enable_thinking": False})],
        }
    )
    assert score(data, [remote(server)])["reward_gap_reason"][:] == [""]
    [body] = asked(server)
    assert body["messages"] == CHAT[:-1]
    assert (body["tools"], body["chat_template_kwargs"]) == ([TOOL], {"enable_thinking": False})
    judged = {between(body["messages"][0]["content"], "answer") for body in asked(server, "j")}
    call = '[{"function": {"arguments": {"day": 2}, "name": "tide"}, "type": "function"}]'
    assert judged == {"It is high.", call}


def test_equal_prompts_share_a_request(server, rows):
    twice = Dataset.from_dict({name: rows[name][:] * 2 for name in rows.column_names})
    result = score(twice, [remote(server)])["reward_gap"][:]
    assert len(asked(server)) == len(rows)
    assert result[:8] == result[8:]


# -- rows without an answer -------------------------------------------------------------------------------------------
def test_rows_without_answer(server, rows, tmp_path, caplog):
    prompts = prompts_of(rows)
    bad = [TOO_LONG, Reply({}, 500), CUT, Reply(completion("no", finish="content_filter"))]
    bad += [Reply(completion("  ", finish="length")), Reply(completion(None))]
    plain = replies(server, dict(zip(prompts, bad, strict=False)))
    gap = remote(server, concurrency=2)
    first = score(rows, [gap], store=tmp_path, on_summary=str)
    expected = ["refused", "no_answer", "no_answer", "refused", "empty_generation", "", "", ""]
    assert first["reward_gap_reason"][:] == expected
    assert [value is None for value in first["reward_gap"]] == [reason != "" for reason in expected]
    assert between(server.asked[-1], "task") in prompts[5:], "rows without an answer are not judged"
    assert caplog.text.count("left without an answer: 2 no_answer, 1 refused") == 1
    server.bodies.clear()
    server.reply = plain
    second = score(rows, [replace(gap, concurrency=3, timeout=9.0)], store=tmp_path, on_summary=str)
    assert {body["messages"][0]["content"] for body in asked(server)} == set(prompts[1:3])
    assert second["reward_gap_reason"][:] == ["refused", "", "", "refused", "empty_generation", "", "", ""]
    assert second["reward_gap"][5:] == first["reward_gap"][5:]
    server.bodies.clear()
    assert score(rows, [gap], store=tmp_path, on_summary=str)["reward_gap"][:] == second["reward_gap"][:]
    assert server.bodies == []


def test_only_null_rows(server, rows, tmp_path):
    prompts = prompts_of(rows)
    score(rows.select([0]), [remote(server)], store=tmp_path)  # the endpoint answers other prompts
    server.reply = lambda text: TOO_LONG
    mixed = score(rows.select([0, 1, 2]), [remote(server)], store=tmp_path, on_summary=str)
    assert mixed["reward_gap_reason"][:] == ["", "refused", "refused"]
    assert {text for text in server.asked if not is_judged(text)} == set(prompts[:3])


def test_rows_without_prompt_or_response(server):
    data = Dataset.from_dict({"prompt": ["Is it slow?", " ", "a", None], "completion": ["Yes.", "No.", " ", "b"]})
    scored = score(data, [remote(server)], on_summary=str)
    assert scored["reward_gap_reason"][:3] == ["", "empty_prompt", "empty_response"]
    assert [value is None for value in scored["reward_gap"]] == [False, True, True, True]
    assert len(asked(server)) == 1
    server.bodies.clear()
    assert score(data.select([1, 2]), [remote(server)], on_summary=str)["reward_gap"][:] == [None, None]
    assert server.bodies == []
    with pytest.raises(FormatError, match="only a text column have no prompt to answer"):
        score(Dataset.from_dict({"text": ["a"]}), [remote(server)])


def test_budget(server, pool_rows, tmp_path):
    gap = remote(server, concurrency=1, max_tokens_spent=95)
    reasons = []
    for _ in range(3):
        scored = score(pool_rows, [gap], store=tmp_path, on_summary=str)
        reasons.append(Counter(scored["reward_gap_reason"])["budget_spent"])
    assert reasons == [14, 4, 0]
    assert len(asked(server)) == len(pool_rows)


def test_wrong_token(server, rows, caplog):
    caplog.set_level(logging.DEBUG)
    server.reply = lambda text: Reply({"error": {"message": f"Incorrect API key: {SECRET}"}}, 401)
    with pytest.raises(
        ScoreError, match=r"answers 401 to 'm' \(Incorrect API key: \*\*\*\)\. Check the token"
    ) as error:
        score(rows, [remote(server)])
    assert SECRET not in caplog.text + repr(error)


# -- runs that go on --------------------------------------------------------------------------------------------------
_KILLED = """
import sys
from datasets import Dataset, disable_progress_bars
from huggingface_hub import constants
from hf_datasel import score
from hf_datasel.scores import RewardGap
disable_progress_bars()
constants.HF_HUB_OFFLINE = False
url, store = sys.argv[1:]
rows = Dataset.from_dict({"prompt": [f"Count {row}" for row in range(40)], "completion": ["So."] * 40})
judge = {"model": "j", "base_url": url}
score(rows, [RewardGap("m", base_url=url, scorer="judge", judge=judge, concurrency=3)], store=store)
"""


@pytest.mark.usefixtures("warm_python")
def test_killed_run_loses_only_requests_in_progress(server, tmp_path):
    plain = server.reply
    server.reply = lambda text: replace(plain(text), seconds=0.02)
    environment = {**os.environ, "OPENAI_API_KEY": SECRET}
    command = [sys.executable, "-c", _KILLED, server.url, str(tmp_path / "store")]
    with subprocess.Popen(command, env=environment) as process:
        while sum(server.answered.values()) < 10:
            assert process.poll() is None
            time.sleep(0.001)
        process.kill()
    time.sleep(0.1)  # for what the server was still answering
    assert len(server.answered) < 40
    server.reply = plain
    subprocess.run(command, env=environment, check=True, timeout=120)
    counts = {text: count for text, count in server.answered.items() if not is_judged(text)}
    assert len(counts) == 40
    assert sum(count > 1 for count in counts.values()) <= 3
    assert max(counts.values()) <= 2


@pytest.mark.parametrize("changed", [{"max_new_tokens": 9}, {"temperature": 0.5}, {"base_url": None}])
def test_changed_settings_request_again(server, rows, tmp_path, changed):
    score(rows, [remote(server)], store=tmp_path)
    changed = {name: value or f"{server.url}/" for name, value in changed.items()}
    score(rows, [replace(remote(server), **changed)], store=tmp_path)
    assert len(asked(server)) == 2 * len(rows)
    assert len(asked(server, "j")) == 2 * len(rows), "ratings of equal answers are stored"


# -- answers as numbers -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text", ["", "a", "Ja, « größer » 数据 🙂\n\x00", "word " * 2000, "\ud800 odd"])
def test_texts_survive_the_store(tmp_path, text):
    numbers = pack(text, 256)
    table = ScoreStore(tmp_path).table({"computed": "texts"}, packed_width(256), np.dtype(np.float32))
    table.append(np.zeros((1, 16), dtype=np.uint8), numbers[None])
    table.close()
    table.compact()
    stored = np.zeros((1, packed_width(256)), dtype=np.float32)
    assert table.fill(np.zeros((1, 16), dtype=np.uint8), stored).all()
    assert unpack(stored[0]) == text.encode("utf-8", "replace").decode()


def test_text_beyond_its_room_is_cut(caplog):
    text = "".join(np.random.default_rng(0).choice([*"abcdefghijklmnopqrstuvwxyzäöü"], 1000))
    result = unpack(pack(text, 256))
    assert text.startswith(result)
    assert 300 < len(result) < 500
    assert "An answer of 1000 characters is longer than requested" in caplog.text
    for kind in ("The tide is high, and the boats are out. ", "def f(x):\n    return x + 1\n", "数据选择很重要。"):
        assert len(unpack(pack(kind * 40, 256))) == 40 * len(kind)


# -- records ----------------------------------------------------------------------------------------------------------
def test_record_has_the_settings_and_no_secret(server, rows, tmp_path, monkeypatch):
    monkeypatch.setenv("ENDPOINT_KEY", SECRET)
    gap = remote(server, temperature=0.7, top_p=0.9, seed=3, api_key_env="ENDPOINT_KEY", concurrency=2)
    score(rows, [gap], store=tmp_path / "store")
    selection = select(rows, Top(by=gap), size=3)
    [spec] = selection.provenance["scores"]
    expected = {
        "model": "m",
        "base_url": server.url,
        "max_new_tokens": NEW,
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": 3,
    }
    assert {name: spec[name] for name in expected} == expected
    assert spec["resolved_model"] is None
    selection.save(tmp_path / "selection")
    facts = gather([selection], title="t")
    shown = [repr(gap), str(gap.spec()), str(pickle.dumps(gap)), json.dumps(facts, default=str)]
    assert SECRET not in "".join(shown)
    for file in tmp_path.rglob("*.*"):
        assert SECRET.encode() not in (file.read_bytes() if file.is_file() else b"")
    assert "'top_p': 0.9" in str(facts["scores"])


# -- settings ---------------------------------------------------------------------------------------------------------
JUDGED = {"scorer": "judge", "judge": {"model": "j"}}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": None}, "model=None has to be the name of a model"),
        ({"base_url": "ftp://host"}, "base_url='ftp://host' has to be like"),
        ({"base_url": f"http://host/v1?key={SECRET}"}, "base_url holds a password, a key"),
        ({"api_key_env": "sk-secret"}, "has to be the name of an environment variable"),
        ({"concurrency": 0}, "concurrency=0 has to be an int from 1 to 100"),
        ({"limits": {"attempt": 1}}, "Did you mean 'attempts'"),
        ({"max_tokens_spent": 0}, "max_tokens_spent=0 has to be an int above 0"),
        ({"revision": "main"}, r"RewardGap\(base_url=\.\.\., revision='main'\): the server decides .*Omit revision"),
        ({"model_init_kwargs": {}}, r"model_init_kwargs=\{\}\): the server decides"),
        ({"dtype": "bfloat16"}, r"dtype='bfloat16'\): the server decides"),
        ({"max_length": 99}, r"max_length=99\): the server decides"),
        ({"scorer": "perplexity", "judge": None}, r"which an endpoint does not give\. Use scorer='reward' or"),
        ({"top_p": 0.9}, r"top_p=0.9 is for sampling, and temperature=0 is greedy\. Set temperature too"),
        ({"top_p": 0, "temperature": 1}, "top_p=0: it has to be a number above 0, and 1 at most"),
        ({"base_url": None, "concurrency": 3}, r"RewardGap\(concurrency=3\) is for an endpoint: it needs base_url"),
        ({"base_url": None, "timeout": 3.0}, r"RewardGap\(timeout=3.0\) is for an endpoint"),
        ({"base_url": None, "max_tokens_spent": 3}, r"RewardGap\(max_tokens_spent=3\) is for an endpoint"),
    ],
)
def test_invalid_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        RewardGap(**{"model": "m", "base_url": "http://localhost/v1", **JUDGED, **settings})


def test_dtype_and_length_of_the_reward_model(reward_dir):
    gap = RewardGap("m", base_url="http://localhost/v1", reward_model=reward_dir, dtype="float32", max_length=99)
    assert gap._reward().dtype == "float32"


def test_endpoint_is_not_the_model_in_training():
    gap = RewardGap("m", base_url="http://localhost/v1", **JUDGED)
    with pytest.raises(ConfigError, match="that of the model in training, and an endpoint serves a fixed model"):
        IterativeKMQ(quality="q", gap=gap)


@pytest.mark.parametrize("name", ["NO_SUCH_KEY", "A_KEY"])
def test_empty_rows_check_token_only(server, rows, monkeypatch, name):
    monkeypatch.setenv("A_KEY", SECRET)
    none, engine = np.empty(0, dtype=np.int64), Engine(Pool(rows))
    gap = remote(server, api_key_env=name)
    if name == "A_KEY":
        assert len(engine.compute(gap, none)["reward_gap"]) == 0
    else:
        with pytest.raises(ScoreError, match="needs a token: set the environment variable NO_SUCH_KEY"):
            engine.compute(gap, none)
    assert server.asked == []
