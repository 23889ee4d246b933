"""An OpenAI-compatible server on the loopback that answers, and goes wrong, as a test asks it to."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

CUT = object()
"""A reply: the connection is cut."""


@dataclass
class Reply:
    """What goes back: JSON, or a body as it is; `seconds` later."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def completion(text: Any, finish: str = "stop", tokens: int | None = 10) -> dict[str, Any]:
    """A chat completion with one choice. `tokens` is its usage; None omits it."""
    usage = None if tokens is None else {"prompt_tokens": tokens - 1, "completion_tokens": 1, "total_tokens": tokens}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}


def rating_of(text: str, ratings: int = 10) -> int:
    """The rating that the server gives by default: any, but the same for the same request."""
    return hashlib.sha256(text.encode()).digest()[0] % ratings + 1


class EndpointServer(ThreadingHTTPServer):
    """Answers chat completions with a rating, and `faults` before that.

    Attributes:
        reply: makes the reply to a request's text, or to its list of texts for embeddings.
        faults: replies that come first, in turn, whatever is asked.
        asked: texts of the requests, in order; `answered` counts those that had an answer of the model.
        most: requests that were under way at once.
        tokens: what stood in the Authorization headers.
        times: when the requests came.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.reply: Callable[[Any], Any] = lambda text: Reply(completion(f"Fine. Rating: [[{rating_of(text)}]]"))
        self.faults: list[Any] = []
        self.asked: list[Any] = []
        self.bodies: list[dict[str, Any]] = []
        self.paths: set[str] = set()
        self.tokens: set[str | None] = set()
        self.times: list[float] = []
        self.answered: Counter[str] = Counter()
        self.most = self.under_way = 0
        self.lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def take(self, path: str, token: str | None, body: dict[str, Any]) -> Any:
        asked = body["input"] if path.endswith("/embeddings") else body["messages"][0]["content"]
        with self.lock:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            self.asked.append(asked)
            self.bodies.append(body)
            self.paths.add(path)
            self.tokens.add(token)
            self.times.append(time.monotonic())
            fault = self.faults.pop(0) if self.faults else None
        reply = self.reply(asked) if fault is None else fault
        choices = reply.body.get("choices") if reply is not CUT and isinstance(reply.body, dict) else None
        if isinstance(choices, list) and all(isinstance(choice, dict) for choice in choices):
            with self.lock:
                self.answered[asked] += 1
        return reply

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._connections.add(connection)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that hang up are part of what is tested."""

    def stop(self) -> None:
        self.shutdown()
        for connection in self._connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.server_close()
        self._thread.join()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: EndpointServer

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        reply = self.server.take(self.path, self.headers["Authorization"], body)
        try:
            if reply is CUT:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True
                return
            time.sleep(reply.seconds)
        finally:
            with self.server.lock:
                self.server.under_way -= 1
        content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        kind = "text/html" if content.startswith(b"<") else "application/json"
        self.send_response(reply.status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def serving(token: str | None = None) -> Iterator[EndpointServer]:
    """A server, with huggingface_hub online for as long as it runs, and this token in the environment."""
    import huggingface_hub.constants as constants
    from huggingface_hub.utils._http import close_session

    server = EndpointServer()
    with pytest.MonkeyPatch.context() as patch:
        close_session()
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            patch.delenv(name, raising=False)
        patch.delenv("OPENAI_API_KEY", raising=False)
        if token is not None:
            patch.setenv("OPENAI_API_KEY", token)
        patch.setattr("hf_datasel.scoring.endpoint.client.WAIT", 0.001)
        try:
            yield server
        finally:
            close_session()
            server.stop()


def between(text: str, name: str, mark: str = "") -> str:
    """What stands between the marks of the default prompt."""
    result = re.search(rf"<{name}{mark}>\n(.*?)\n</{name}{mark}>", text, re.DOTALL)
    assert result is not None
    return result[1]
