"""Models by name: loading them, and saying exactly which weights a name means."""

from __future__ import annotations

import functools
import gc
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hf_datasel.errors import ModelError

__all__ = [
    "KEPT",
    "Kind",
    "Loading",
    "Models",
    "check_model_exists",
    "load_tokenizer",
    "model_identity",
    "read_config",
    "read_model",
    "tokenizer_identity",
]

_HASHED = {".safetensors", ".bin", ".pt", ".pth", ".json", ".model", ".txt", ".jinja", ".py"}
_IGNORED = re.compile(
    r"(optimizer|scheduler|scaler|rng_state\w*|training_args|trainer_state|selection\w*)\.(bin|json|pth?)"
)


def model_identity(model: str, revision: str | None = None) -> str:
    """What the name stands for now: the commit of a Hub model, a digest of the files of a local folder.

    A folder whose weights are overwritten in place gets another identity, and so does an adapter whose base changes.

    Raises:
        ModelError: neither a folder nor a model that the Hub or its cache knows.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return _folder_identity(path)
    commit = _commit(model, revision)
    base = _adapter_base(model, commit)
    return f"{model}@{commit}" if base is None else f"{model}@{commit}+{model_identity(*base)}"


def _adapter_base(model: str, commit: str | None) -> tuple[str, str | None] | None:
    """Name and revision of the model that an adapter is made for; None where the name is no adapter's.

    A folder is looked into each time, since it may be written anew; what a commit holds is remembered.
    """
    path = Path(model).expanduser()
    if not path.is_dir():
        return _hub_adapter_base(model, commit)
    file = path / "adapter_config.json"
    return _base_in(file) if file.is_file() else None


@functools.lru_cache(maxsize=64)
def _hub_adapter_base(model: str, commit: str | None) -> tuple[str, str | None] | None:
    from transformers.utils import find_adapter_config_file

    file = find_adapter_config_file(model, revision=commit)
    return None if file is None else _base_in(Path(file))


def _base_in(file: Path) -> tuple[str, str | None]:
    config = json.loads(file.read_text(encoding="utf-8"))
    return config["base_model_name_or_path"], config.get("revision")


def _folder_identity(path: Path) -> str:
    files = sorted(
        file
        for file in path.rglob("*")
        if file.is_file()
        and file.suffix in _HASHED
        and not _IGNORED.fullmatch(file.name)
        and not any(part.startswith(("checkpoint-", ".")) for part in file.relative_to(path).parts)
    )
    if not (path / "config.json").is_file() and not (path / "adapter_config.json").is_file():
        raise ModelError(f"{str(path)!r} has no config.json or adapter_config.json, so it holds no model.")
    stats = tuple((str(file), *_stat(file)) for file in files)
    digest = _digest(stats, str(path))
    base = _adapter_base(str(path), None)
    return digest if base is None else f"{digest}+{model_identity(*base)}"


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
    if backend is None:
        rules = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    else:  # how the last call cut and padded is kept there too
        rules = json.dumps({**json.loads(backend.to_str()), "truncation": None, "padding": None})
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


Kind = Literal["causal", "encoder", "reward"]
"""A causal LM, a model without a head, or a sequence classifier with one output."""

_ELSEWHERE = (
    "cache_dir", "device_map", "force_download", "local_files_only", "low_cpu_mem_usage", "max_memory",
    "offload_folder", "proxies", "token",
)  # fmt: skip
"""Arguments of `from_pretrained` that say where a model is and how it is got, and not what it computes."""


@dataclass(frozen=True)
class Loading:
    """A model by name, and how it is loaded.

    Attributes:
        name: Hub id or local path.
        revision: commit, branch or tag of a Hub model.
        dtype: of the weights, as in `from_pretrained`.
        kind: with which head.
        init_kwargs: more arguments of `from_pretrained`.
    """

    name: str
    revision: str | None = None
    dtype: str = "auto"
    kind: Kind = "causal"
    init_kwargs: Mapping[str, Any] | None = None

    def identity(self) -> dict[str, Any]:
        """What the model computes: its weights, how they are loaded, and its kind. As JSON has it."""
        loaded = {key: value for key, value in (self.init_kwargs or {}).items() if key not in _ELSEWHERE}
        weights = model_identity(self.name, self.revision)
        return {"weights": weights, "dtype": self.dtype, "kind": self.kind, "init_kwargs": loaded}

    def tokenizer(self) -> Any:
        """The tokenizer of the same name."""
        return load_tokenizer(self.name, self.revision)

    def source(self) -> tuple[str, str | None]:
        """Name and revision of what is loaded first: of an adapter the model that it is made for."""
        commit = _pinned(self.name, self.revision)
        base = _adapter_base(self.name, commit)
        return (self.name, commit) if base is None else (base[0], _pinned(*base))

    def more(self) -> dict[str, Any]:
        """The arguments of `from_pretrained` that are set."""
        return {key: value for key, value in (self.init_kwargs or {}).items() if value is not None}


class Models:
    """Models by name. One is held at a time: the last one asked for."""

    def __init__(self) -> None:
        self._held: tuple[str, Any] | None = None

    def get(self, loading: Loading) -> Any:
        """The model, on the first accelerator, else the CPU, in evaluation mode.

        Raises:
            ModelError: there is none, it cannot be loaded, or it is of a kind that cannot be used.
        """
        key = json.dumps([loading.identity(), loading.init_kwargs], sort_keys=True, default=str)
        if self._held is None or self._held[0] != key:
            self._held = None  # let go of the last one before the next is read
            gc.collect()  # a model is part of reference cycles, its own and those of what wraps it
            self._held = (key, read_model(loading))
        return self._held[1]


KEPT = Models()
"""Of `Dataset.map`, where every batch asks for the model again."""


def read_model(loading: Loading) -> Any:
    """The model of a name on the accelerator of this process, else the CPU, in evaluation mode.

    Raises:
        ModelError: there is none, it cannot be loaded, or it is of a kind that cannot be used.
    """
    import torch
    from safetensors import SafetensorError

    from hf_datasel.scoring.eval_mode import preserved_rng

    name, commit = loading.name, _pinned(loading.name, loading.revision)
    source, more = loading.source(), loading.more()
    adapter, kind = source[0] != name, loading.kind
    if adapter:
        kind = "causal" if kind == "encoder" else kind  # what it is made for; the backbone is in it
    try:
        with preserved_rng():  # weights that the files lack are drawn
            loaded, info = _auto_class(kind).from_pretrained(
                source[0], revision=source[1], dtype=loading.dtype, output_loading_info=True, **more
            )
            if adapter:
                info = loaded.load_adapter(name, adapter_kwargs={"revision": commit})
                _check_adapter(name, loaded, info)
    except (OSError, ValueError, RuntimeError, TypeError, ImportError, SafetensorError) as error:
        raise ModelError(f"The model {name!r} cannot be loaded: {error}") from error
    missing = sorted(info["missing_keys"])
    if kind == "causal" and missing:
        raise ModelError(
            f"{name!r} is no causal language model: its files lack {', '.join(missing[:3])}"
            f"{' and more' if len(missing) > 3 else ''}, which would be drawn at random."
        )
    _check_config(loading, loaded.config)
    if getattr(loaded, "hf_device_map", None) is None and not getattr(loaded, "is_quantized", False):
        loaded = loaded.to(torch.accelerator.current_accelerator() or "cpu")
    return loaded.eval()


def _check_adapter(name: str, loaded: Any, info: Any) -> None:
    """Refuse an adapter of which weights stay as they were drawn.

    Older versions of transformers do not report them. DoRA's are missing in all versions: PEFT names them differently.
    """
    missing = sorted(getattr(info, "missing_keys", None) or ())
    if missing or any(getattr(each, "use_dora", False) for each in loaded.peft_config.values()):
        which = f", such as {missing[0]}" if missing else ", those of DoRA"
        raise ModelError(
            f"The adapter {name!r} cannot be loaded: transformers leaves some of its weights at their random initial "
            f"values{which}. Merge it into its base model (merge_and_unload), and name that."
        )


def read_config(loading: Loading) -> Any:
    """The configuration with which the model of a name is loaded, of an adapter that of its base; no weights are read.

    Raises:
        ModelError: there is no such model, it has none that can be read, or it is of a kind that cannot be used.
    """
    from transformers import AutoConfig

    name, commit = loading.source()
    try:
        config, _ = AutoConfig.from_pretrained(name, revision=commit, return_unused_kwargs=True, **loading.more())
    except (OSError, ValueError, TypeError, ImportError) as error:
        raise ModelError(f"The model {loading.name!r} cannot be loaded: {error}") from error
    _check_config(loading, config)
    return config


def _check_config(loading: Loading, config: Any) -> None:
    if loading.kind == "encoder" and config.is_encoder_decoder:
        raise ModelError(f"{loading.name!r} is an encoder-decoder model. Take an encoder or a causal LM.")


def _auto_class(kind: Kind) -> Any:
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

    return {"causal": AutoModelForCausalLM, "encoder": AutoModel, "reward": AutoModelForSequenceClassification}[kind]
