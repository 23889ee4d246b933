"""Requests to a local server that is slow, busy, broken or wrong."""

from __future__ import annotations

import logging
import pickle
import random
import time
import traceback
from email.utils import formatdate

import numpy as np
import pytest

from hf_datasel.errors import ConfigError, ScoreError
from hf_datasel.hub.retry import ATTEMPTS
from hf_datasel.scoring.endpoint import client as module, requests
from hf_datasel.scoring.endpoint.client import Endpoint
from hf_datasel.scoring.endpoint.requests import Completion
from hf_datasel.scoring.endpoint.transport import Transport
from tests.scores.endpoint_server import CUT, Reply, completion, serving

SECRET = "sk-do-not-show-0123456789"
BUSY = Reply({"error": {"message": "slow down"}}, 429)


@pytest.fixture
def server():
    with serving(SECRET) as result:
        result.reply = lambda text: Reply(completion(f"to {text}"))
        yield result


def connect(server, **settings):
    return Endpoint("judge", server.url, **{"concurrency": 4, "timeout": 5.0, **settings})


def chat(endpoint, asked, **settings):
    """The answers to user messages, in their order."""
    bodies = [{"messages": [{"role": "user", "content": text}]} for text in asked]
    return [answer for _, answer in sorted(requests.chat(endpoint, bodies, settings), key=lambda item: item[0])]


def embed(endpoint, asked, batch_size=32, **settings):
    """The vectors, NaN where there is none, and the reasons, in the order of the texts."""
    vectors, reasons = {}, [None] * len(asked)
    for part, values, reason in requests.embed(endpoint, asked, batch_size, **settings):
        for position, index in enumerate(part):
            assert reasons[index] is None
            reasons[index] = reason
            if not reason:
                vectors[index] = values[position]
    result = np.full((len(asked), len(next(iter(vectors.values()), []))), np.nan, dtype=np.float32)
    for index, vector in vectors.items():
        result[index] = vector
    return result, reasons


def texts(answers):
    return [answer.value.text if not answer.reason else answer.reason for answer in answers]


# -- what is sent and what comes back ---------------------------------------------------------------------------------
def test_answers_keep_the_order(server):
    server.reply = lambda text: Reply(completion(f"to {text}"), seconds=0.02 if text in "036" else 0.0)
    endpoint = connect(server)
    answers = chat(endpoint, [*"0123456789"], max_tokens=7, temperature=0.5)
    assert [answer.value for answer in answers] == [Completion(f"to {item}") for item in "0123456789"]
    assert endpoint.spent == sum(answer.tokens for answer in answers) == 100
    assert server.paths == {"/v1/chat/completions"}
    expected = {"model": "judge", "max_tokens": 7, "temperature": 0.5}
    assert all({name: body[name] for name in expected} == expected for body in server.bodies)
    assert server.tokens == {f"Bearer {SECRET}"}


def test_models_that_take_max_completion_tokens(server):
    """The endpoint says once which name it takes; a request then has the other one, and all later ones too."""
    old = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    server.reply = lambda text: (
        Reply({"error": {"message": old}}, 400) if "max_tokens" in server.bodies[-1] else Reply(completion(text))
    )
    endpoint = connect(server, concurrency=1)
    assert texts(chat(endpoint, [*"abc"], max_tokens=7)) == [*"abc"]
    assert [body.get("max_completion_tokens") for body in server.bodies] == [None, 7, 7, 7]
    assert ["max_tokens" in body for body in server.bodies] == [True, False, False, False]
    assert not endpoint.unanswered


def test_none_is_not_sent(server):
    chat(connect(server), ["a"])
    assert {"max_tokens", "temperature"}.isdisjoint(server.bodies[0])


@pytest.mark.parametrize("concurrency", [1, 3])
def test_concurrency(server, concurrency):
    server.reply = lambda text: Reply(completion(text), seconds=0.1)
    server.faults = [BUSY] * 4
    chat(connect(server, concurrency=concurrency), [*"0123456789"])
    assert server.most == concurrency


def test_truncated_answer(server):
    server.reply = lambda text: Reply(completion("Rating: 1", finish="length"))
    assert chat(connect(server), ["a"])[0].value == Completion("Rating: 1", "length")


@pytest.mark.parametrize(
    "body",
    [
        {"choices": []},
        {"choices": [], "usage": {"prompt_tokens": "many"}},
        completion(None),
        completion(["a", "list"]),
        {"choices": [{"index": 0, "message": "text"}]},
        {"choices": [{"index": 0}]},
    ],
)
def test_answer_without_text(server, body):
    server.reply = lambda text: Reply(body)
    assert texts(chat(connect(server), ["a"])) == [""]
    assert len(server.asked) == 1


def test_lone_surrogate_is_replaced(server):
    assert texts(chat(connect(server), ["a\ud800"])) == ["to a?"]


# -- asking again -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "fault",
    [
        *(Reply({"error": "later"}, status) for status in (408, 409, 424, 425, 429, 500, 502, 503, 504, 529)),
        CUT,
        Reply(b"<html>Bad gateway</html>"),
        Reply(b"<html>Bad gateway</html>", 502),
        Reply({"error": {"message": "overloaded", "code": 502}}),
        Reply([1, 2]),
        Reply(["not", "an", "object"], 500),
        Reply({"errors": "none"}, 500),
        Reply(None),
        Reply(b"{"),
        Reply(b""),
        Reply(b"\xff\xfe"),
        Reply(b"[" * 100_000),
        Reply(b"[" * 100_000, 500),
        *(Reply(b"{", status, {"Content-Length": "99", "Connection": "close"}) for status in (200, 429, 500)),
        Reply({"choices": "four"}),
        Reply({"choices": [4]}),
    ],
    ids=lambda fault: "CUT" if fault is CUT else str(fault)[:40],
)
def test_temporary_errors_are_retried(server, fault):
    server.faults = [fault, fault]
    endpoint = connect(server)
    assert texts(chat(endpoint, ["a"])) == ["to a"]
    assert len(server.asked) == 3
    assert server.answered == {"a": 1}
    assert not endpoint.unanswered


def test_timeout(server):
    server.faults = [Reply(completion("late"), seconds=0.5)]
    assert texts(chat(connect(server, timeout=0.1), ["a"])) == ["to a"]


@pytest.mark.parametrize("after", ["0.3", "date"])
def test_retry_after(server, after):
    wait = formatdate(time.time() + 2, usegmt=True) if after == "date" else after
    server.faults = [Reply({}, 429, {"Retry-After": wait})]
    assert texts(chat(connect(server, concurrency=1), ["a", "b"])) == ["to a", "to b"]
    assert server.times[1] - server.times[0] > 0.29
    assert server.asked == ["a", "a", "b"]


@pytest.mark.parametrize("after", ["", "soon", "nan", "inf", "-5", "1e999", "Mon, 99 Foo 2020 99:99:99 GMT"])
def test_invalid_retry_after(server, after):
    server.faults = [Reply({}, 503, {"Retry-After": after})]
    started = time.monotonic()
    assert texts(chat(connect(server), ["a"])) == ["to a"]
    assert time.monotonic() - started < 2


def test_exponential_backoff_with_jitter(server, monkeypatch):
    waits = []
    endpoint = connect(server)
    monkeypatch.setattr(endpoint._stopped, "wait", lambda seconds: waits.append(seconds))
    monkeypatch.setattr(module, "WAIT", 1.0)
    server.faults = [BUSY] * 4
    state = random.getstate(), np.random.get_state()[1].tolist()
    chat(endpoint, ["a"])
    assert len(waits) == 4
    assert all(0.5 * 2**index <= wait <= 1.5 * 2**index for index, wait in enumerate(waits))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == state


def test_requests_without_answer(server, caplog):
    server.reply = lambda text: BUSY if text in "37" else Reply(completion(text))
    endpoint = connect(server)
    answers = chat(endpoint, [*"0123456789"])
    assert texts(answers) == [*"012", "no_answer", *"456", "no_answer", *"89"]
    assert server.asked.count("3") == ATTEMPTS
    endpoint.raise_failure()
    endpoint.log_summary()
    assert [record.getMessage() for record in caplog.records] == [
        f"The endpoint {server.url} answered 8 requests for 80 tokens, and left without an answer: 2 no_answer. The "
        f"endpoint {server.url} answers 429 to 'judge' (slow down). Lower concurrency, or wait: another run "
        "continues from "
        "here."
    ]


# -- giving up --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply({"error": {"message": f"bad key {SECRET}"}}, 401), r"401 .*bad key \*\*\*.*token in OPENAI_API_KEY"),
        (Reply({"message": "not for you"}, 403), r"403 .*\(not for you\)\. Check the token in OPENAI_API_KEY"),
        (
            Reply({"detail": "no such model"}, 404),
            r"404 to 'judge' \(no such model\)\. Check model, and base_url, which ends",
        ),
        (Reply({"error": "unknown setting"}, 400), r"400 .*\(unknown setting\)\. Check model, and the sett"),
        (
            Reply({"error": "no temperature"}, 400),
            r"400 .*\(no temperature\)\. Some models .* Judge\(temperature=None\)",
        ),
        (Reply([{"loc": "body"}], 422), r"422 .*loc.*Check model, and the settings"),
        (Reply(b"<html>", 405), r"405 to 'judge' \(a page of HTML\)"),
        (Reply({"error": "pay"}, 402), r"402 .*\(pay\)\. There is no credit left"),
        (Reply({"error": {"message": "You are out", "code": "insufficient_quota"}}, 429), r"429 .*You are out"),
    ],
)
def test_permanent_errors(server, reply, message):
    server.reply = lambda text: reply
    with pytest.raises(ScoreError, match=message) as caught:
        chat(connect(server, concurrency=2), [str(index) for index in range(40)])
    assert len(server.asked) <= 4
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_connection_refused():
    with serving() as server:
        pass
    with serving(), pytest.raises(ScoreError, match=r"gives no answer to 'judge' \(Connect.*\)\. Check base_url"):
        chat(connect(server), [*"0123456789"])


def test_not_an_openai_server(server):
    server.reply = lambda text: Reply({"hello": "you"})
    with pytest.raises(ScoreError, match=r"gives no answer to 'judge' \(ValueError: no chat completion, but .*hello"):
        chat(connect(server), ["a"])


def test_token_expires(server):
    server.reply = lambda text: Reply(completion(text)) if text < "6" else Reply({"error": "expired"}, 401)
    endpoint = connect(server, concurrency=1)
    answers = chat(endpoint, [*"0123456789"])
    assert texts(answers) == [*"012345", *["no_answer"] * 4]
    assert len(server.asked) == 7
    with pytest.raises(ScoreError, match=r"401 .*expired"):
        endpoint.raise_failure()
    with pytest.raises(ScoreError, match=r"401 .*expired"):
        chat(endpoint, ["more"])
    assert len(server.asked) == 7


def test_server_goes_away(server):
    server.reply = lambda text: Reply(completion(text)) if text == "0" else CUT
    endpoint = connect(server, concurrency=1)
    answers = chat(endpoint, [str(index) for index in range(100)])
    assert texts(answers) == ["0", *["no_answer"] * 99]
    assert len(server.asked) == 1 + 8 * ATTEMPTS
    endpoint.raise_failure()


def test_refused_request(server):
    server.reply = lambda text: Reply({"error": {"message": "odd"}}, 400) if text == "b" else Reply(completion(text))
    endpoint = connect(server, concurrency=2)
    assert texts(chat(endpoint, [*"abcd"])) == ["a", "refused", "c", "d"]
    assert server.asked.count("b") == 1


def test_long_rows_do_not_fail_the_endpoint(server):
    long = Reply({"error": {"message": "maximum context length is 9", "code": "context_length_exceeded"}}, 400)
    server.reply = lambda text: long if text < "8" else Reply(completion(text))
    assert texts(chat(connect(server, concurrency=2), [*"0123456789"])) == [*["refused"] * 8, "8", "9"]
    server.reply = lambda text: long
    with pytest.raises(ScoreError, match="maximum context length is 9"):
        chat(connect(server), ["a"] * 100)
    assert len(server.asked) <= 80


def test_failures_between_answers(server):
    server.reply = lambda text: CUT if int(text) % 2 else Reply(completion(text))
    answers = chat(connect(server, concurrency=1), [str(index) for index in range(40)])
    assert texts(answers) == ["no_answer" if index % 2 else str(index) for index in range(40)]


@pytest.mark.parametrize("fault", [Reply({"error": "boom"}, 500), CUT, Reply(None, seconds=0.3)])
def test_one_row_breaks_the_server(server, fault):
    server.reply = lambda text: fault
    assert texts(chat(connect(server, timeout=0.1), ["a", "b"])) == ["no_answer"] * 2
    with pytest.raises(ScoreError, match=r"gives no answer to 'judge'|answers 500 to 'judge'"):
        chat(connect(server, timeout=0.1), [*"abcd"])


def test_programming_errors_are_raised(server):
    endpoint = connect(server)

    def send(job):
        raise ZeroDivisionError("ours")

    with pytest.raises(ZeroDivisionError, match="ours"):
        list(endpoint.answers(send, ["a"]))


def test_offline(server, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ScoreError,
        match=r"gives no answer to 'judge' \(HF_HUB_OFFLINE is set, which blocks all requests: unset it\)\.$",
    ):
        chat(connect(server), ["a"])
    assert server.asked == []


# -- budget -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("concurrency", [1, 4])
def test_token_budget(server, concurrency):
    endpoint = connect(server, concurrency=concurrency, max_tokens_spent=45)
    answers = chat(endpoint, [str(index) for index in range(30)])
    answered = [answer.reason for answer in answers].count("")
    assert 5 <= answered < 5 + concurrency
    assert {answer.reason for answer in answers[answered:]} == {"budget_spent"}
    assert len(server.asked) == answered
    assert endpoint.spent == 10 * answered
    assert texts(chat(endpoint, ["more"])) == ["budget_spent"]


def test_token_budget_without_usage(server):
    server.reply = lambda text: Reply(completion(text, tokens=None))
    endpoint = connect(server, concurrency=1, max_tokens_spent=45)
    assert texts(chat(endpoint, ["a", "b"])) == ["a", "no_answer"]
    with pytest.raises(ScoreError, match="does not report the tokens of an answer, which max_tokens_spent needs"):
        endpoint.raise_failure()
    assert texts(chat(connect(server), ["a"])) == ["a"]


# -- tokens -----------------------------------------------------------------------------------------------------------
def test_hub_token_is_not_sent_elsewhere(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with serving() as server:
        chat(connect(server), ["a"])
        server.reply = lambda texts: Reply({"data": [{"index": 0, "embedding": [1.0]}]})
        embed(connect(server), ["a"])
        assert server.tokens == {None}


def test_api_key_env(server, monkeypatch):
    monkeypatch.setenv("MY_KEY", " other \n")
    chat(connect(server, api_key_env="MY_KEY"), ["a"])
    assert server.tokens == {"Bearer other"}
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(ScoreError, match="needs a token: set the environment variable MY_KEY"):
        chat(connect(server, api_key_env="MY_KEY"), ["a"])
    monkeypatch.setenv("MY_KEY", "two\nlines")
    with pytest.raises(ScoreError, match="MY_KEY is not a token: it has characters") as caught:
        chat(connect(server, api_key_env="MY_KEY"), ["a"])
    assert "lines" not in str(caught.value)


def test_token_is_never_shown(server, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    endpoint = connect(server)
    server.faults = [BUSY, Reply({"error": f"wrong: {SECRET}"}, 500), CUT]
    server.reply = lambda text: Reply({"error": f"wrong: {SECRET}"}, 500) if text == "b" else Reply(completion(text))
    assert texts(chat(endpoint, ["a", "b", "c"])) == ["a", "no_answer", "c"]
    endpoint.log_summary()
    assert "(wrong: ***)" in caplog.text
    assert SECRET not in caplog.text + repr(endpoint) + "".join(capfd.readouterr())
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(endpoint)


def test_hub_needs_a_token(server, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(ScoreError, match="The Hub's inference needs a token: set the environment variable HF_TOKEN"):
        chat(Endpoint("org/model"), ["a"])


@pytest.mark.parametrize("provider", [None, "together"])
def test_hub(server, monkeypatch, provider):
    post = Transport.post
    seen = []

    def post_here(self, url, body, headers):
        seen.append((url, body["model"]))
        return post(self, f"{server.url}/chat/completions", body, headers)

    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(Transport, "post", post_here)
    if provider:
        from huggingface_hub.hf_api import InferenceProviderMapping
        from huggingface_hub.inference._providers import _common

        mapping = InferenceProviderMapping(
            provider=provider, hf_model_id="org/model", providerId="theirs", status="live", task="conversational"
        )
        monkeypatch.setattr(_common, "_fetch_inference_provider_mapping", lambda model: [mapping])
    assert texts(chat(Endpoint("org/model", provider=provider), ["a"])) == ["to a"]
    assert server.tokens == {"Bearer hf_secret"}
    [(url, model)] = seen
    assert url.startswith("https://router.huggingface.co/")
    assert model == ("theirs" if provider else "org/model")
    if provider:
        monkeypatch.setattr(_common, "_fetch_inference_provider_mapping", lambda model: [])
        with pytest.raises(ScoreError, match="Model org/model is not supported by provider together"):
            chat(Endpoint("org/model", provider=provider), ["a", "b"])


# -- vectors ----------------------------------------------------------------------------------------------------------
def vector(text):
    return [float(len(text)), 1.0]


def vectors(texts):
    data = [{"index": index, "embedding": vector(text)} for index, text in enumerate(texts)]
    return Reply({"data": data[::-1], "usage": {"prompt_tokens": 5, "total_tokens": 5}})


def test_vectors(server):
    server.reply = vectors
    server.faults = [BUSY, CUT, Reply({"data": []}), Reply({"data": [{"embedding": None}]}), Reply([1])]
    asked = ["x" * index for index in range(1, 11)]
    endpoint = connect(server)
    result, reasons = embed(endpoint, asked, batch_size=4, dimensions=2)
    assert result.dtype == np.float32
    assert result.tolist() == [vector(text) for text in asked]
    assert reasons == [""] * 10
    assert server.paths == {"/v1/embeddings"}
    assert server.bodies[0]["dimensions"] == 2
    assert endpoint.spent == 15
    assert embed(endpoint, [])[0].shape == (0, 0)


@pytest.mark.parametrize("path", ["", "/", "/v1/", "/v1/embeddings", "/v1/chat/completions"])
def test_urls(server, path):
    server.reply = vectors
    base = server.url.removesuffix("/v1")
    assert embed(Endpoint("m", base + path), ["a"])[0].tolist() == [vector("a")]
    assert server.paths == {"/v1/embeddings"}


TOO_LONG = {
    "openai": Reply({"error": {"message": "maximum context length is 5"}}, 400),
    "tei": Reply({"message": "`inputs` must have less than 5 tokens. Given: 8", "type": "Validation"}, 413),
}


@pytest.mark.parametrize("refusal", TOO_LONG.values(), ids=TOO_LONG)
def test_long_text_has_no_vector(server, refusal, caplog):
    server.reply = lambda texts: refusal if any(len(text) > 5 for text in texts) else vectors(texts)
    endpoint = connect(server, concurrency=1)
    asked = ["a", "bb", "too long", "cc"] * 20  # more requests with one in them than an endpoint may refuse
    result, reasons = embed(endpoint, asked, batch_size=4)
    np.testing.assert_array_equal(result, [[1, 1], [2, 1], [np.nan, np.nan], [2, 1]] * 20)
    assert reasons == ["", "", "refused", ""] * 20
    endpoint.log_summary()
    assert "left without an answer: 20 refused" in caplog.text


def test_all_texts_too_long(server):
    server.reply = lambda texts: TOO_LONG["openai"]
    assert embed(connect(server), ["a", "b", "c"])[1] == ["refused"] * 3
    with pytest.raises(ScoreError, match="maximum context length is 5"):
        embed(connect(server, concurrency=2), ["a"] * 100)


def test_vectors_before_a_failure(server):
    server.reply = vectors
    server.faults = [vectors(["a", "b"]), TOO_LONG["openai"], Reply({"error": "expired"}, 401)]
    endpoint = connect(server, concurrency=1)
    result, reasons = embed(endpoint, ["a", "b", "c", "long", "d", "e"], batch_size=2)
    assert reasons == ["", "", *["no_answer"] * 4]
    assert np.isfinite(result[:2]).all()
    assert len(server.asked) == 3
    with pytest.raises(ScoreError, match=r"401 .*expired"):
        endpoint.raise_failure()


def test_vectors_of_different_lengths(server):
    server.reply = lambda texts: Reply({"data": [{"index": 0, "embedding": [0.0] * len(texts[0])}]})
    with pytest.raises(ScoreError, match=r"gives vectors of \[1, 2\] numbers"):
        embed(connect(server), ["a", "bb"], batch_size=1)
    with pytest.raises(ConfigError, match="an endpoint with a base_url"):
        embed(Endpoint("m"), ["a"])


# -- settings ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": " "}, "model=' ' has to be the name of a model"),
        ({"base_url": "localhost:8000"}, r"base_url='localhost:8000' has to be like 'http://localhost"),
        ({"base_url": 5}, "base_url=5 has to be like 'http://localhost"),
        ({"base_url": "http://[host"}, r"base_url='http://\[host' has to be like"),
        ({"base_url": "http://host:99999/v1"}, "base_url='http://host:99999/v1' has to be like"),
        ({"base_url": "http://me:secret@host/v1"}, "base_url holds a password, a key"),
        ({"base_url": "ftp://me:secret@host/v1"}, "base_url holds a password, a key"),
        ({"base_url": "https://host/v1?api-key=secret"}, "base_url holds a password, a key"),
        ({"api_key_env": "hf_secret"}, "in capitals, and not the token"),
        ({"base_url": "http://host/v1", "provider": "together"}, "provider='together' is for the Hub"),
        (
            {"api_key_env": "sk-secret"},
            "has to be the name of an environment variable, in capitals, and not the token",
        ),
        ({"concurrency": 0}, "concurrency=0 has to be an int from 1 to 100"),
        ({"concurrency": 101}, "concurrency=101 has to be an int from 1 to 100"),
        ({"timeout": 0}, "timeout=0 has to be a number of seconds above 0"),
        ({"max_tokens_spent": 0}, "max_tokens_spent=0 has to be an int above 0"),
    ],
)
def test_invalid_settings(settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        Endpoint(**{"model": "m", **settings})
    assert "secret" not in str(caught.value)
