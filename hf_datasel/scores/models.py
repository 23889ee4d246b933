"""Models by name: loading them, and saying exactly which weights a name means."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from hf_datasel.errors import ModelError

__all__ = ["check_model_exists", "load_model", "load_tokenizer", "model_identity", "read_model", "tokenizer_identity"]

_HASHED = {".safetensors", ".bin", ".pt", ".pth", ".json", ".model", ".txt", ".jinja", ".py"}
_IGNORED = re.compile(r"optimizer|scheduler|scaler|rng_state|training_args|trainer_state|selection")


def model_identity(model: str, revision: str | None = None) -> str:
    """What the name stands for now: the commit of a Hub model, a digest of the files of a local folder.

    A folder whose weights are overwritten in place gets another identity, and so does an adapter whose base changes.

    Raises:
        ModelError: neither a folder nor a model that the Hub or its cache knows.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return _folder_identity(path)
    return f"{model}@{_commit(model, revision)}"


def _folder_identity(path: Path) -> str:
    files = sorted(
        file
        for file in path.rglob("*")
        if file.is_file()
        and file.suffix in _HASHED
        and not _IGNORED.search(file.name)
        and not any(part.startswith(("checkpoint-", ".")) for part in file.relative_to(path).parts)
    )
    if not (path / "config.json").is_file() and not (path / "adapter_config.json").is_file():
        raise ModelError(f"{str(path)!r} has no config.json or adapter_config.json, so it holds no model.")
    stats = tuple((str(file), *_stat(file)) for file in files)
    digest = _digest(stats, str(path))
    adapter = path / "adapter_config.json"
    if adapter.is_file():
        base = json.loads(adapter.read_text())
        return f"{digest}+{model_identity(base['base_model_name_or_path'], base.get('revision'))}"
    return digest


def _stat(file: Path) -> tuple[int, ...]:
    stat = file.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


@functools.lru_cache(maxsize=64)
def _digest(stats: tuple[tuple[Any, ...], ...], root: str) -> str:
    """Hash of the files' names and bytes; remembered for as long as inodes, sizes and times stay the same."""
    import xxhash

    whole = xxhash.xxh3_128()
    for name, *_ in stats:
        whole.update(os.path.relpath(name, root).encode())
        with open(name, "rb") as file:
            while block := file.read(1 << 22):
                whole.update(block)
    return f"files:{whole.hexdigest()}"


@functools.lru_cache(maxsize=64)
def _commit(model: str, revision: str | None) -> str:
    """The commit that a Hub name means: asked once a process, so that one run does not see two."""
    from transformers.utils import cached_file

    if revision and re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    problem = ""
    for name in ("config.json", "adapter_config.json"):
        try:
            found = cached_file(model, name, revision=revision)  # asks the Hub, else takes what is cached
        except OSError as error:
            problem = problem or " ".join(str(error).split())
            continue
        commit = re.search(r"snapshots[/\\]([0-9a-f]{40})[/\\]", str(found))
        if commit is not None:
            return commit[1]
    at = f" at revision {revision!r}" if revision else ""
    raise ModelError(
        f"No model {model!r}{at}: there is no such folder, and it cannot be had from the Hub or its cache. Check the "
        f"path or the name. ({problem})"
    )


def check_model_exists(model: str, revision: str | None = None) -> None:
    """Refuse a name that is neither a model's folder nor known to the Hub or its cache, without reading weights.

    Raises:
        ModelError: says which of the two was tried.
    """
    path = Path(model).expanduser()
    if not path.is_dir():
        _commit(model, revision)
    elif not (path / "config.json").is_file() and not (path / "adapter_config.json").is_file():
        raise ModelError(f"{str(path)!r} has no config.json or adapter_config.json, so it holds no model.")


def tokenizer_identity(tokenizer: Any) -> str:
    """A digest of the tokenizer's vocabulary, rules and chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    special = [tokenizer.bos_token, tokenizer.eos_token, str(tokenizer.chat_template)]
    return hashlib.sha256(json.dumps([rules, special]).encode()).hexdigest()


def _pinned(model: str, revision: str | None) -> str | None:
    """The revision to load: of a Hub model the commit that its identity names."""
    return None if Path(model).expanduser().is_dir() else _commit(model, revision)


def load_tokenizer(model: str, revision: str | None = None) -> Any:
    """The tokenizer of a model name, loaded once a process.

    Raises:
        ModelError: there is none, or it cannot be loaded.
    """
    return _load_tokenizer(model, revision, model_identity(model, revision))


@functools.lru_cache(maxsize=4)
def _load_tokenizer(model: str, revision: str | None, identity: str) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model, revision=_pinned(model, revision))
    except (OSError, ValueError) as error:
        raise ModelError(f"The tokenizer of {model!r} cannot be loaded: {error}") from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # made up by transformers where there are no files for it
        raise ModelError(f"The tokenizer of {model!r} cannot be loaded: there is none beside the weights.")
    return tokenizer


def load_model(model: str, revision: str | None = None, dtype: str = "auto") -> Any:
    """As `read_model`, for `Dataset.map`: the last one is kept, since every batch asks for it again."""
    return _load_model(model, revision, dtype, model_identity(model, revision))


@functools.lru_cache(maxsize=1)
def _load_model(model: str, revision: str | None, dtype: str, identity: str) -> Any:
    return read_model(model, revision, dtype)


def read_model(model: str, revision: str | None = None, dtype: str = "auto") -> Any:
    """The causal LM of a model name on the first accelerator, else the CPU, in evaluation mode.

    Raises:
        ModelError: there is none, or it cannot be loaded.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        loaded = AutoModelForCausalLM.from_pretrained(model, revision=_pinned(model, revision), dtype=dtype)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"The model {model!r} cannot be loaded: {error}") from error
    if getattr(loaded, "hf_device_map", None) is None and not getattr(loaded, "is_quantized", False):
        loaded = loaded.to(torch.accelerator.current_accelerator() or "cpu")
    return loaded.eval()
