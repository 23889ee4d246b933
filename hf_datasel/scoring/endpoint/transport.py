"""HTTP requests that end: limited in time and size, and never redirected to another server."""

from __future__ import annotations

import asyncio
import json
import threading
import zlib
from collections.abc import Mapping
from concurrent.futures import CancelledError
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

from hf_datasel.scoring.endpoint.limits import RequestLimits

__all__ = ["LimitError", "RedirectError", "Response", "StatusError", "Transport"]

_REDIRECTS = (301, 302, 303, 307, 308)
_KEEP_THE_METHOD = (307, 308)
_MAX_REDIRECTS = 3
_ERROR_BYTES = 64 << 10
"""Number of bytes that are read of an error page."""
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Response:
    """Error response of a server.

    Args:
        status_code: HTTP status.
        headers: Headers.
        content: The beginning of the body.
    """

    status_code: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def text(self) -> str:
        """The beginning of the body as text."""
        return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        """Return the parsed body."""
        return json.loads(self.content)


class StatusError(Exception):
    """The server answered with an error status.

    Args:
        response: The response.
    """

    def __init__(self, response: Response):
        super().__init__(f"status {response.status_code}")
        self.response = response


class LimitError(Exception):
    """An answer exceeds a limit."""


class RedirectError(Exception):
    """The server redirects to another server."""


class Transport:
    """Posts JSON from any thread. An answer that is too slow or too large is cancelled at any stage of the request.

    The requests run in an event loop in a thread of its own, which `close` ends. The client is that of
    huggingface_hub, with its proxies and certificates.

    Args:
        timeout: Seconds without a byte from the server after which a request fails.
        limits: Limits of each request.
    """

    def __init__(self, timeout: float, limits: RequestLimits):
        from huggingface_hub.utils import get_async_session

        self.timeout, self.limits = timeout, limits
        # shorter than the limit for connecting, and for TLS: a handshake that is cancelled leaves its socket open
        self._timeouts = (min(timeout, limits.request_seconds / 3), timeout, timeout, timeout)
        self._client: Any = get_async_session()
        self._client.event_hooks = {**self._client.event_hooks, "response": []}  # reads error pages of any size
        self._is_closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="hf_datasel_transport", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Cancel the requests under way, and end the thread."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        self._is_closed = True
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()
        await self._loop.shutdown_asyncgens()
        await asyncio.sleep(0)  # sockets are closed in the next turn of the loop

    def post(self, url: str, body: Any, headers: Mapping[str, str]) -> bytes:
        """Post JSON.

        Args:
            url: Address.
            body: The request.
            headers: Headers, such as that of the token.

        Returns:
            Body of the answer.

        Raises:
            StatusError: The server answered with an error status.
            LimitError: The answer takes too long or is too large.
            RedirectError: The server redirects to another one.
            CancelledError: The transport was closed meanwhile.
        """
        return asyncio.run_coroutine_threadsafe(self._post(url, body, headers), self._loop).result()

    async def _post(self, url: str, body: Any, headers: Mapping[str, str]) -> bytes:
        if self._is_closed:
            raise CancelledError
        seconds = self.limits.request_seconds
        scope = asyncio.timeout(seconds)
        try:
            async with scope:
                return await self._follow(url, body, headers)
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise LimitError(f"no complete answer within {seconds:,g} s, the limit request_seconds") from error

    async def _follow(self, url: str, body: Any, headers: Mapping[str, str]) -> bytes:
        headers = {**headers, "Accept-Encoding": "gzip"}
        for _ in range(_MAX_REDIRECTS + 1):
            request = self._client.stream(
                "POST", url, json=body, headers=headers, timeout=self._timeouts, follow_redirects=False
            )
            async with request as response:
                if response.status_code in _REDIRECTS:
                    url = _redirect_target(url, response.headers.get("Location", ""), response.status_code)
                    continue
                if not 200 <= response.status_code < 300:
                    content = await self._read(response, _ERROR_BYTES, truncate=True)
                    raise StatusError(Response(response.status_code, response.headers, content))
                return await self._read(response, self.limits.response_bytes)
        raise RedirectError(f"it redirects more than {_MAX_REDIRECTS} times")

    async def _read(self, response: Any, limit: int, truncate: bool = False) -> bytes:
        """Read and decompress a body of at most `limit` bytes."""
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity", "gzip", "x-gzip"):
            raise ValueError(f"an answer that is compressed as {encoding[:20]!r}, and not as requested")
        inflate = zlib.decompressobj(31) if encoding.endswith("gzip") else None
        content, received = bytearray(), 0
        async with aclosing(response.aiter_raw()) as chunks:
            async for chunk in chunks:
                received += len(chunk)
                content += chunk if inflate is None else _inflated(inflate, chunk, limit + 1 - len(content))
                if max(len(content), received) > limit:
                    if truncate:
                        return bytes(content[:limit])
                    raise LimitError(f"an answer of more than {limit:,} bytes, the limit response_bytes")
        if inflate is not None and not inflate.eof and not truncate:
            raise ValueError("a compressed answer that breaks off")
        return bytes(content)


def _inflated(inflate: Any, chunk: bytes, limit: int) -> bytes:
    try:
        data: bytes = inflate.decompress(chunk, limit)
    except zlib.error as error:
        raise ValueError("an answer that is not compressed as it says") from error
    return data


def _redirect_target(url: str, location: str, status: int) -> str:
    """Return where to send the request again: another path on the same server.

    Raises:
        RedirectError: It is another server, or the redirect would drop the request.
    """
    origin = urlsplit(url)
    try:
        target = urlsplit(urljoin(url, location))
        server, other = _server(origin), _server(target)
    except ValueError as error:
        raise RedirectError("it redirects to an address that cannot be read") from error
    if server != other:
        raise RedirectError(
            f"it redirects to another server, {other}, to which neither rows nor token are sent. If you trust it, "
            "make it the base_url"
        )
    if status not in _KEEP_THE_METHOD:
        raise RedirectError(f"it redirects with the status {status}, which drops the request, to {target.path!r}")
    return origin._replace(path=target.path, query=target.query).geturl()


def _server(url: SplitResult) -> str:
    """Return scheme, host and port, without a password."""
    host = "".join(char for char in url.hostname or "" if char.isprintable())
    return f"{url.scheme}://{host}:{url.port or _PORTS.get(url.scheme, 0)}"
