"""Servers that are slow, endless, compressed or elsewhere: every request ends, and nothing goes to another server."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
import tracemalloc
from contextlib import contextmanager

import pytest

from hf_datasel.errors import ConfigError, ScoreError
from hf_datasel.scoring.endpoint import client as module, requests
from hf_datasel.scoring.endpoint.client import Endpoint
from tests.scores.endpoint_server import Reply, completion, serving

SECRET = "sk-do-not-show-0123456789"
ANSWER = json.dumps(completion("fine")).encode()
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.fixture
def server():
    with serving(SECRET) as result:
        result.reply = lambda text: Reply(completion(f"to {text}"))
        yield result


@contextmanager
def raw_server(speak):
    """The URL of a server that calls `speak` with each connection, and the number of connections."""
    listener = socket.create_server(("127.0.0.1", 0))
    connections = []

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(connection)
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection):
        try:
            speak(connection)
        except OSError:
            pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1", connections
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for connection in connections:
            connection.close()


def messages(texts):
    return [{"messages": [{"role": "user", "content": text}]} for text in texts]


def ask(url, asked="a", timeout=5.0, concurrency=1, **limits):
    """The reason of each request, the last failure, and the seconds that it took."""
    endpoint = Endpoint("m", url, timeout=timeout, concurrency=concurrency, limits=limits)
    started = time.monotonic()
    answers = sorted(requests.chat(endpoint, messages(asked), {}), key=lambda item: item[0])
    return [answer.reason for _, answer in answers], endpoint._last_failure, time.monotonic() - started


def drip(*parts):
    """Send the first part, then the others byte by byte, and then the last byte again and again."""

    def speak(connection):
        connection.recv(65536)
        connection.sendall(parts[0])
        while True:
            for byte in parts[1]:
                time.sleep(0.05)
                connection.sendall(bytes([byte]))

    return speak


# -- time -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "speak",
    [
        drip(HEAD + b"Content-Length: 100000\r\n\r\n", b" "),
        drip(HEAD, b"X"),
        drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        lambda connection: time.sleep(30),
    ],
    ids=["slow body", "slow headers", "endless interim responses", "silence"],
)
def test_slow_answers_end(server, speak):
    with raw_server(speak) as (url, connections):
        reasons, failure, seconds = ask(url, request_seconds=0.6)
        assert len(connections) == 1
    assert reasons == ["no_answer"]
    assert "gives no answer to 'm' (no complete answer within 0.6 s, the limit request_seconds)." in failure
    assert seconds < 5


def test_slow_tls_ends(server):
    with raw_server(lambda connection: time.sleep(30)) as (url, _):
        reasons, failure, seconds = ask(url.replace("http:", "https:"), request_seconds=0.6)
    assert reasons == ["no_answer"]
    assert "ConnectTimeout" in failure
    assert seconds < 5


def test_slow_server_ends_the_run(server):
    with (
        raw_server(lambda connection: time.sleep(30)) as (url, connections),
        pytest.raises(ScoreError, match=r"no complete answer within 0\.2 s, the limit request_seconds\)\.$"),
    ):
        ask(url, [str(index) for index in range(100)], concurrency=4, request_seconds=0.2)
    assert len(connections) <= 8


# -- size -------------------------------------------------------------------------------------------------------------
def endless(head, chunk):
    def speak(connection):
        connection.recv(65536)
        connection.sendall(head)
        while True:
            connection.sendall(chunk)

    return speak


BOMB = gzip.compress(b" " * (64 << 20), 9)
SIZES = {
    "endless": endless(HEAD + b"\r\n", b" " * 65536),
    "endless chunks": endless(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b" " * 4096 + b"\r\n"),
    "gzip bomb": endless(HEAD + b"Content-Encoding: gzip\r\nContent-Length: 999999999\r\n\r\n", BOMB),
    "empty gzip blocks": endless(
        HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"")[:10], b"\x00\x00\x00\xff\xff" * 10_000
    ),
}


@pytest.mark.parametrize("speak", SIZES.values(), ids=SIZES)
def test_large_answers_end(server, speak):
    with raw_server(speak) as (url, connections):
        ask(url, response_bytes=1 << 20)
        tracemalloc.start()
        reasons, failure, seconds = ask(url, response_bytes=1 << 20)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(connections) == 2
    assert reasons == ["no_answer"]
    assert "(an answer of more than 1,048,576 bytes, the limit response_bytes)" in failure
    assert seconds < 20
    assert peak < 16 << 20


@pytest.mark.parametrize("status", [b"500 Broken", b"401 Unauthorized"])
def test_large_error_pages(server, status):
    head = b"HTTP/1.1 " + status + b"\r\nContent-Encoding: gzip\r\nContent-Length: 999999\r\n\r\n"
    with raw_server(endless(head, BOMB)) as (url, _), pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WAIT", 0.001)
        if status.startswith(b"500"):
            assert ask(url)[0] == ["no_answer"]
        else:
            with pytest.raises(ScoreError, match="answers 401 to 'm'"):
                ask(url)


def test_compressed_answers(server):
    body = gzip.compress(ANSWER)
    headers = {"Content-Encoding": "gzip", "Content-Length": str(len(body))}
    server.reply = lambda text: Reply(body, headers=headers)
    assert ask(server.url)[0] == [""]
    for wrong, kind in ((b"not gzip", "gzip"), (body[:-9], "gzip"), (body, "br")):
        server.reply = lambda text, wrong=wrong, kind=kind: Reply(
            wrong, headers={"Content-Encoding": kind, "Content-Length": str(len(wrong))}
        )
        with pytest.raises(ScoreError, match="compressed"):
            ask(server.url, attempts=2)


def test_one_large_answer_among_others(server):
    server.reply = lambda text: Reply(completion("x" * 5000 if text == "b" else "fine"))
    assert ask(server.url, "abc", response_bytes=4000)[0] == ["", "no_answer", ""]
    assert server.asked == ["a", "b", "c"]


# -- redirects --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("ask_for", ["chat", "embeddings"])
def test_no_redirect_to_another_server(server, status, ask_for):
    with serving(SECRET) as other:
        location = f"http://me:word@127.0.0.1:{other.server_port}/v1/chat/completions?key=word"
        server.reply = lambda text: Reply({}, status, {"Location": location})
        endpoint = Endpoint("m", server.url)
        with pytest.raises(ScoreError, match="redirects to another server, http:") as caught:
            if ask_for == "chat":
                list(requests.chat(endpoint, messages(["private text"] * 5), {}))
            else:
                list(requests.embed(endpoint, ["private text"] * 5, 1))
        assert other.asked == []
        assert f"127.0.0.1:{other.server_port}, to which neither rows nor token are sent" in str(caught.value)
        assert "word" not in str(caught.value)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("https://127.0.0.1:{port}/v1", "to another server, https://127.0.0.1:{port},"),
        ("//elsewhere.example/v1", "to another server, http://elsewhere.example:80,"),
        ("http://127.0.0.1:{port}\\@elsewhere.example/v1", "to another server, http://elsewhere.example:80,"),
        ("ftp://127.0.0.1:{port}/v1", "to another server, ftp://127.0.0.1:{port},"),
        ("http://[", "to an address that cannot be read"),
        ("", "redirects more than 3 times"),
    ],
)
def test_redirects_that_are_refused(server, location, message):
    place = location.format(port=server.server_port)
    server.reply = lambda text: Reply({}, 308, {"Location": place})
    with pytest.raises(ScoreError, match="it redirects") as caught:
        ask(server.url)
    assert message.format(port=server.server_port) in str(caught.value)


def test_redirect_on_the_same_server(server):
    server.faults = [Reply({}, 307, {"Location": "/v1/other/"})]
    assert ask(server.url)[0] == [""]
    assert server.paths == {"/v1/chat/completions", "/v1/other/"}
    assert server.bodies[0] == server.bodies[1]
    server.faults = [Reply({}, 302, {"Location": "/v1/other/"})]
    with pytest.raises(ScoreError, match="redirects with the status 302, which drops the request"):
        ask(server.url)


# -- waiting ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("after", ["1e9", "100000", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_long_waits_are_refused(server, after):
    server.reply = lambda text: Reply({"error": "slow down"}, 429, {"Retry-After": after})
    reasons, failure, seconds = ask(server.url, waiting_seconds=2)
    assert reasons == ["no_answer"]
    assert len(server.asked) == 1
    assert "(slow down and asks to wait for " in failure
    assert "the limit waiting_seconds is 2 s" in failure
    assert seconds < 2


def test_waits_add_up(server):
    server.reply = lambda text: Reply({"error": "slow down"}, 429, {"Retry-After": "0.3"})
    reasons, failure, seconds = ask(server.url, waiting_seconds=1, attempts=100)
    assert reasons == ["no_answer"]
    assert len(server.asked) == 4
    assert "the limit waiting_seconds is 1 s" in failure
    assert seconds < 3


def test_attempts(server):
    server.reply = lambda text: Reply({}, 500)
    assert ask(server.url, attempts=2)[0] == ["no_answer"]
    assert len(server.asked) == 2


def test_waits_are_logged(server, caplog, monkeypatch):
    monkeypatch.setattr("hf_datasel.hub.retry.SILENT_WAIT", 0.45)
    refused = Reply({"error": "slow \x1b[31mdown"}, 429, {"Retry-After": "0.5"}, seconds=0.3)
    server.faults = [refused] * 2  # to both, which are sent before the first of them
    assert ask(server.url, "abc", concurrency=2)[0] == ["", "", ""]
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith(
        f"The endpoint {server.url} answers 429 to 'm' (slow [31mdown). Waiting for 0 s, as it asks,"
    )
    assert "before attempt 2 of 6" in line


# -- addresses --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "url",
    [
        "http://word@host/v1",
        "http://me:word@host/v1",
        "http:/me:word@host",
        "https://host/v1?x=word",
        "https://host/v1?api-version=1&code=word",
        "https://host/v1#word",
        "https://host/hf_wordwordword/v1",
        "https://sk-wordwordword.host/v1",
        "https://host/glpat-wordwordword/v1",
        "https://host/npm_wordwordword/v1",
    ],
)
def test_secrets_in_addresses_are_refused(url):
    with pytest.raises(ConfigError, match="base_url holds a password, a key, a fragment or parameters") as caught:
        Endpoint("m", url)
    assert "word" not in str(caught.value).replace("password", "")


def test_azure_parameter(server):
    assert ask(f"{server.url}?api-version=2024-06-01")[0] == [""]
    assert server.paths == {"/v1/chat/completions?api-version=2024-06-01"}
