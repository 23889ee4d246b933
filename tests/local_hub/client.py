"""Points the Hugging Face libraries of the test process, already imported and offline, to a local Hub."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from .hub import PROXIES, LocalHub


@contextmanager
def connected(hub: LocalHub, home: Path, *, xet: bool = False, token: str | None = "") -> Iterator[None]:
    """Let this process use the Hub, logged in with its write token or the one given (None is no token).

    Caches lie below `home`. Waits between the clients' retries are cut to hundredths of a second. All is as before
    afterwards; an object made inside, such as an `HfApi`, keeps the address of the Hub and is not to outlive it.
    """
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        # The upload of huggingface_hub calls its HTTP client in a way that is on its way out.
        warnings.filterwarnings("ignore", "Use 'content=<...>' to upload raw", DeprecationWarning)
        _close_session()
        _point(patch, hub, home, xet=xet)
        _point_children(patch, hub, home, xet=xet, token=token)
        try:
            yield
        finally:
            _close_session()


def _close_session() -> None:
    """Close the client that huggingface_hub keeps: its connections, and the proxies that it read when it was made."""
    from huggingface_hub.utils._http import close_session

    close_session()


def _point(patch: pytest.MonkeyPatch, hub: LocalHub, home: Path, *, xet: bool) -> None:
    """Replace what was read from the environment at import, and what was kept from earlier requests.

    `datasets` is imported first, since its own constants would otherwise keep the address of this Hub for good.
    """
    import datasets.config
    import huggingface_hub.constants as constants
    from huggingface_hub import HfFileSystem, hf_api
    from huggingface_hub.utils import _cache_manager, _http, _xet

    # Read whenever they are used, by huggingface_hub and by transformers.
    patch.setattr(constants, "ENDPOINT", hub.url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_DISABLE_XET", not xet)
    patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    patch.setattr(constants, "HF_ASSETS_CACHE", str(home / "assets"))
    patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    patch.setattr(constants, "HF_STORED_TOKENS_PATH", str(home / "stored_tokens"))
    patch.setattr(constants, "AGENT_HARNESSES_PATH", str(home / "harnesses.json"), raising=False)
    # Copies and derived values of those.
    patch.setattr(_cache_manager, "HF_HUB_CACHE", str(home / "hub"))
    if hasattr(_http, "_HUB_ORIGINS"):
        patch.setattr(_http, "_HUB_ORIGINS", _http._HUB_ORIGINS | {_http._url_origin(hub.url)})
    # The HfApi behind the module's functions, and the one that transformers keeps.
    patch.setattr(hf_api.api, "endpoint", hub.url)
    patch.setattr(hf_api.api, "_whoami_cache", {}, raising=False)
    if transformers_hub := sys.modules.get("transformers.utils.hub"):
        patch.setattr(transformers_hub, "_hf_api", None, raising=False)
    # File systems with their listings and the tokens for Xet: kept by address, and a port may come round again.
    patch.setattr(HfFileSystem, "_cache", {})
    patch.setattr(_xet, "XET_CONNECTION_INFO_CACHE", {})

    # datasets has constants of its own.
    patch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    patch.setattr(datasets.config, "HUB_DATASETS_URL", hub.url + "/datasets/{repo_id}/resolve/{revision}/{path}")
    patch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    patch.setattr(datasets.config, "HF_DATASETS_OFFLINE", False, raising=False)
    patch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
    patch.setattr(datasets.config, "USE_PARQUET_EXPORT", False)  # asks the dataset viewer, which is another host
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "datasets")
    patch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", home / "datasets" / "downloads")
    patch.setattr(datasets.config, "EXTRACTED_DATASETS_PATH", home / "datasets" / "downloads" / "extracted")

    # Retries as many as ever, but at once.
    patch.setattr(_http, "time", SimpleNamespace(sleep=lambda seconds: time.sleep(min(seconds, 0.01))))
    for name in ("", "SERVER_UNAVAILABLE_", "RATE_LIMIT_"):
        patch.setattr(datasets.config, f"STREAMING_READ_{name}RETRY_INTERVAL", 0.01, raising=False)


def _point_children(patch: pytest.MonkeyPatch, hub: LocalHub, home: Path, *, xet: bool, token: str | None) -> None:
    """Set the environment: read anew for each request is the token alone, but worker processes start from all of it.

    HF_HOME stays, since libraries that are first imported here would keep it for good.
    """
    for name in (*PROXIES, *map(str.upper, PROXIES), "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_DATASETS_OFFLINE"):
        patch.delenv(name, raising=False)
    variables = hub.environment(home, xet=xet, token=token)
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_XET"):
        if name in variables:
            patch.setenv(name, variables[name])
    patch.setenv("HF_HUB_CACHE", str(home / "hub"))
    patch.setenv("HF_DATASETS_CACHE", str(home / "datasets"))
