"""Limits of the requests to an endpoint, and settings that are only for endpoints or only for local models."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from hf_datasel.errors import ConfigError, did_you_mean

__all__ = ["RequestLimits", "check_endpoint_settings"]


@dataclass(frozen=True)
class RequestLimits:
    """Limits of one request to an endpoint, so that no server can make a run wait or grow without end.

    Args:
        request_seconds: Seconds from the connection to the end of the answer, however slowly it comes. A request that
            takes longer is not sent again by this run.
        response_bytes: Maximum size of an answer, compressed and decompressed. A larger one is cancelled, and not
            requested again by this run.
        attempts: Maximum number of attempts.
        waiting_seconds: Maximum number of seconds between the attempts of a request, all together. A server that asks
            for a longer wait (`Retry-After`) gets no further attempt from this run.

    Raises:
        ConfigError: A limit is not a number above 0.
    """

    request_seconds: float = 600.0
    response_bytes: int = 16 << 20
    attempts: int = 6
    waiting_seconds: float = 600.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            is_count = name in ("response_bytes", "attempts")
            is_number = isinstance(value, int if is_count else int | float) and not isinstance(value, bool)
            if not is_number or not 0 < value < math.inf:
                kind = "an int" if is_count else "a number of seconds"
                raise ConfigError(f"limits={{{name!r}: {value!r}}}: it has to be {kind} above 0.")

    @classmethod
    def from_settings(cls, settings: dict[str, Any] | None) -> RequestLimits:
        """Return the limits with these settings, and the defaults of the others.

        Args:
            settings: Names and values, such as `{"attempts": 3}`, or None.

        Raises:
            ConfigError: There is no limit of this name, or its value is invalid.
        """
        if settings is None:
            return cls()
        names = [field.name for field in fields(cls)]
        if not isinstance(settings, dict):
            raise ConfigError(f"limits={settings!r} has to be a dict with some of {names}, or None.")
        for name in settings:
            if name not in names:
                raise ConfigError(f"limits={{{name!r}: ...}}: there are {names}.{did_you_mean(str(name), names)}")
        return cls(**settings)


def check_endpoint_settings(
    name: str, changed: Mapping[str, Any], local: Collection[str], remote: Collection[str]
) -> None:
    """Raise an error for settings of an endpoint without one, and for settings of a local model with an endpoint.

    Args:
        name: Name of the score.
        changed: Settings that differ from their defaults; with `base_url` the model is behind an endpoint.
        local: Names of the settings of a local model.
        remote: Names of the settings of an endpoint, other than its URL.

    Raises:
        ConfigError: A setting has no effect.
    """
    is_remote = "base_url" in changed
    for setting in local if is_remote else remote:
        if setting in changed and is_remote:
            raise ConfigError(
                f"{name}(base_url=..., {setting}={changed[setting]!r}): the server decides how its model is loaded "
                f"and run. Omit {setting}."
            )
        if setting in changed:
            raise ConfigError(f"{name}({setting}={changed[setting]!r}) is for an endpoint: it needs base_url.")
