"""HTTP for the local Hub: requests in, replies out, ranges, and faults on purpose."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit


class Seen(NamedTuple):
    """A request as it is kept in `LocalHub.requests`; `status` is 0 where the connection was cut."""

    method: str
    path: str
    authorized: bool
    received: int
    status: int


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: Message
    body: bytes
    proxied: bool = False

    @property
    def parts(self) -> list[str]:
        return [unquote(part) for part in self.path.split("/")[1:]]

    def json(self) -> Any:
        return json.loads(self.body or b"{}")

    def flag(self, name: str) -> bool:
        return self.query.get(name, ["0"])[0].lower() in ("1", "true")


@dataclass
class Reply:
    """What goes back. `ranges` lets a client ask for a part of the body."""

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    ranges: bool = False

    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


class HubError(Exception):
    """Ends a request with an error, in the words and headers from which the clients make their exceptions."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.reply = Reply({"error": message}, status, {"X-Error-Message": message, **headers})
        if code:
            self.reply.headers["X-Error-Code"] = code


@dataclass
class Fault:
    pattern: re.Pattern[str]
    times: int | None
    act: Any


class Faults:
    """What a test has asked to go wrong, by pattern of "METHOD /path", each a number of times or always (None)."""

    def __init__(self) -> None:
        self._faults: dict[str, list[Fault]] = {"fail": [], "cut": [], "before": []}
        self._lock = threading.Lock()

    def add(self, kind: str, pattern: str, times: int | None, act: Any) -> None:
        with self._lock:
            self._faults[kind].append(Fault(re.compile(pattern), times, act))

    def take(self, kind: str, line: str) -> Any:
        with self._lock:
            for fault in self._faults[kind]:
                if fault.times != 0 and fault.pattern.search(line):
                    if fault.times is not None:
                        fault.times -= 1
                    return fault.act
        return None

    def clear(self) -> None:
        with self._lock:
            for faults in self._faults.values():
                faults.clear()


class Server(ThreadingHTTPServer):
    """A server on a free port of the loopback that answers through a function."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, answer: Callable[[Request], Reply], faults: Faults, requests: list[Seen]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.faults, self.requests = answer, faults, requests
        self.delay = 0.0
        self.url = f"http://127.0.0.1:{self.server_port}"
        self._connections: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._connections.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self._connections.discard(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that hangs up is part of what is tested, and `Handler` reports all else."""

    def stop(self) -> None:
        """Close the port and the kept-alive connections, and wait until the threads behind them have ended."""
        self.shutdown()
        for connection in list(self._connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        end = time.monotonic() + 5
        while self._connections and time.monotonic() < end:
            time.sleep(0.002)
        self.server_close()
        self._thread.join()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, *args: Any) -> None:
        pass

    def serve(self) -> None:
        address = urlsplit(self.path)
        line = f"{self.command} {unquote(address.path)}"
        faults = self.server.faults
        if callback := faults.take("before", line):
            callback()
        time.sleep(self.server.delay)
        cut = faults.take("cut", line)
        body = self.read_body(limit=cut)
        query = parse_qs(address.query, keep_blank_values=True)
        request = Request(self.command, address.path, query, self.headers, body, bool(address.netloc))
        reply = None if cut is not None else faults.take("fail", line) or self.answer(request)
        seen = Seen(self.command, unquote(address.path), "Authorization" in self.headers, len(body), 0)
        self.server.requests.append(seen._replace(status=reply.status if reply else 0))
        if reply is None:
            self.drop()
        else:
            self.send(reply)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_CONNECT = serve

    def answer(self, request: Request) -> Reply:
        try:
            return self.server.answer(request)
        except HubError as error:
            return error.reply
        except Exception as error:
            # 501 and not 500, which the clients would try again for half a minute.
            traceback.print_exc()
            return Reply({"error": f"The local Hub failed: {error!r}"}, 501)

    def read_body(self, limit: int | None = None) -> bytes:
        """Read what is sent, or the first bytes of it up to the limit."""
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while (size := int(self.rfile.readline().split(b";")[0], 16)) and (limit is None or len(body) < limit):
                body += self.rfile.read(size)
                self.rfile.readline()
            if size == 0:
                self.rfile.readline()
            return body[:limit]
        size = int(self.headers.get("Content-Length", 0))
        return self.rfile.read(size if limit is None else min(size, limit))

    def drop(self) -> None:
        """End the connection as a lost line does: with a reset, not in order."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def send(self, reply: Reply) -> None:
        body, status, headers = reply.content(), reply.status, dict(reply.headers)
        if not isinstance(reply.body, bytes):
            headers["Content-Type"] = "application/json"
        if reply.ranges:
            headers["Accept-Ranges"] = "bytes"
            if asked := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
                body, status = self.part(body, asked[1], asked[2], headers)
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    @staticmethod
    def part(body: bytes, first: str, last: str, headers: dict[str, str]) -> tuple[bytes, int]:
        size = len(body)
        start = int(first) if first else max(size - int(last), 0)
        stop = min(int(last) + 1, size) if first and last else size
        if start >= size:
            headers["Content-Range"] = f"bytes */{size}"
            return b"", 416
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return body[start:stop], 206
