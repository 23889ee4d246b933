"""Load models by name, and identify exactly which weights a name refers to."""

from __future__ import annotations

import functools
import gc
import hashlib
import json
import os
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hf_datasel.errors import ModelError
from hf_datasel.scoring.progress import only_drawn_bars

__all__ = [
    "MAP_MODELS",
    "Kind",
    "Loading",
    "Models",
    "check_max_length",
    "check_model_exists",
    "check_tokens",
    "load_config",
    "load_model",
    "load_tokenizer",
    "model_identity",
    "tokenizer_identity",
]

_HASHED = {".safetensors", ".bin", ".pt", ".pth", ".json", ".model", ".txt", ".jinja", ".py"}
_IGNORED = re.compile(
    r"(optimizer|scheduler|scaler|rng_state\w*|training_args|trainer_state|selection\w*)\.(bin|json|pth?)"
)


def model_identity(model: str, revision: str | None = None) -> str:
    """Return the weights that a name refers to now: the commit of a Hub model, or a digest of a folder's files.

    A folder whose weights are overwritten gets another identity, and so does an adapter whose base model changes.

    Args:
        model: Hub id or local path.
        revision: Commit, branch or tag of a Hub model.

    Raises:
        ModelError: The name is neither a folder with a model nor a model on the Hub or in its cache.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return _folder_identity(path)
    commit = _commit(model, revision)
    base = _adapter_base(model, commit)
    return f"{model}@{commit}" if base is None else f"{model}@{commit}+{model_identity(*base)}"


def _adapter_base(model: str, commit: str | None) -> tuple[str, str | None] | None:
    """Return the name and revision of the base model of an adapter, or None if the name is not an adapter.

    A folder is read each time, because it may have been overwritten; the result for a commit is cached.
    """
    path = Path(model).expanduser()
    if not path.is_dir():
        return _hub_adapter_base(model, commit)
    file = path / "adapter_config.json"
    return _read_base(file) if file.is_file() else None


@functools.lru_cache(maxsize=64)
def _hub_adapter_base(model: str, commit: str | None) -> tuple[str, str | None] | None:
    from transformers.utils import find_adapter_config_file

    file = find_adapter_config_file(model, revision=commit)
    return None if file is None else _read_base(Path(file))


def _read_base(file: Path) -> tuple[str, str | None]:
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
    """Hash the names and bytes of files; cached as long as inodes, sizes and times stay the same."""
    import xxhash

    digest = xxhash.xxh3_128()
    for name, *_ in stats:
        digest.update(os.path.relpath(name, root).encode())
        with open(name, "rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return f"files:{digest.hexdigest()}"


@functools.lru_cache(maxsize=64)
def _commit(model: str, revision: str | None) -> str:
    """Return the commit of a Hub name, cached per process so that a run does not see two."""
    from transformers.utils import cached_file

    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        where = "" if os.path.isabs(model) else f" in {os.getcwd()!r}"
        raise ModelError(f"No model {model!r}: there is no such folder{where}. Check the path.")
    if revision and re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    problem = ""
    for name in ("config.json", "adapter_config.json"):
        try:
            path = cached_file(model, name, revision=revision)  # from the Hub, or its cache if it cannot be reached
        except OSError as error:
            problem = problem or " ".join(str(error).split())
            continue
        commit = re.search(r"snapshots[/\\]([0-9a-f]{40})[/\\]", str(path))
        if commit is not None:
            return commit[1]
    suffix = f" at revision {revision!r}" if revision else ""
    raise ModelError(
        f"No model {model!r}{suffix}: there is no such folder in {os.getcwd()!r}, and it is neither on the Hub nor in "
        f"its cache. Check the path or the name. ({problem})"
    )


def check_model_exists(model: str, revision: str | None = None) -> None:
    """Raise an error if a model does not exist, without reading weights.

    Args:
        model: Hub id or local path.
        revision: Commit, branch or tag of a Hub model.

    Raises:
        ModelError: The name is neither a folder with a model nor a model on the Hub or in its cache.
    """
    path = Path(model).expanduser()
    if not path.is_dir():
        _commit(model, revision)
    elif not (path / "config.json").is_file() and not (path / "adapter_config.json").is_file():
        raise ModelError(f"{str(path)!r} has no config.json or adapter_config.json, so it holds no model.")


def tokenizer_identity(tokenizer: Any) -> str:
    """Return a digest of a tokenizer's vocabulary, rules and chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        rules = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    else:  # without the truncation and padding of the last call, which are part of the state
        rules = json.dumps({**json.loads(backend.to_str()), "truncation": None, "padding": None})
    special = [tokenizer.bos_token, tokenizer.eos_token, str(tokenizer.chat_template)]
    return hashlib.sha256(json.dumps([rules, special]).encode()).hexdigest()


def _pinned(model: str, revision: str | None) -> str | None:
    """Return the revision to load: for a Hub model the commit in its identity."""
    return None if Path(model).expanduser().is_dir() else _commit(model, revision)


def load_tokenizer(model: str, revision: str | None = None) -> Any:
    """Load the tokenizer of a model, once per process.

    Args:
        model: Hub id or local path.
        revision: Commit, branch or tag of a Hub model.

    Raises:
        ModelError: There is no tokenizer, or it cannot be loaded.
    """
    return _load_tokenizer(model, revision, model_identity(model, revision))


@contextmanager
def loading_errors(subject: str) -> Iterator[None]:
    """Raise `ModelError` for an error in the context, which reads the files of a model.

    Files that are damaged, missing or of another model raise errors of many kinds, those of the libraries that read
    them included.

    Args:
        subject: What is loaded, such as "The model 'gpt2'".
    """
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # of any kind, see above
        raise ModelError(f"{subject} cannot be loaded: {_loading_problem(error)}") from error


def _loading_problem(error: Exception) -> str:
    """Return what an error of transformers or of what it reads with says about files, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, pickle.UnpicklingError):
        return "its weights are a pickle that contains more than tensors, and could run code. Use safetensors files."
    if "ignore_mismatched_sizes" in text:
        return "its weights have other shapes than its config.json says, such as another vocabulary size."
    return text


@functools.lru_cache(maxsize=4)
def _load_tokenizer(model: str, revision: str | None, identity: str) -> Any:
    from transformers import AutoTokenizer

    with loading_errors(f"The tokenizer of {model!r}"):
        tokenizer = AutoTokenizer.from_pretrained(model, revision=_pinned(model, revision))
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # transformers creates one if there are no files
        raise ModelError(f"The tokenizer of {model!r} cannot be loaded: the model has no tokenizer files.")
    return tokenizer


Kind = Literal["causal", "encoder", "reward"]
"""A causal LM, a model without a head, or a sequence classifier with one output."""

_WITHOUT_EFFECT = (
    "cache_dir", "device_map", "force_download", "local_files_only", "low_cpu_mem_usage", "max_memory",
    "offload_folder", "proxies", "token",
)  # fmt: skip
"""Arguments of `from_pretrained` that determine where a model is loaded from or to, and not what it computes."""


@dataclass(frozen=True)
class Loading:
    """A model to load by name, and how.

    Args:
        name: Hub id or local path.
        revision: Commit, branch or tag of a Hub model.
        dtype: Data type of the weights, as in `from_pretrained`.
        kind: Kind of model, which determines its head.
        init_kwargs: Further arguments of `from_pretrained`.
    """

    name: str
    revision: str | None = None
    dtype: str = "auto"
    kind: Kind = "causal"
    init_kwargs: Mapping[str, Any] | None = None

    def identity(self) -> dict[str, Any]:
        """Return what determines the output of the model: its weights, how they are loaded, and its kind, as JSON."""
        init_kwargs = {key: value for key, value in (self.init_kwargs or {}).items() if key not in _WITHOUT_EFFECT}
        weights = model_identity(self.name, self.revision)
        return {"weights": weights, "dtype": self.dtype, "kind": self.kind, "init_kwargs": init_kwargs}

    def tokenizer(self) -> Any:
        """Load the tokenizer of the same name."""
        return load_tokenizer(self.name, self.revision)

    def base(self) -> tuple[str, str | None]:
        """Return the name and revision of the model to load: for an adapter those of its base model."""
        commit = _pinned(self.name, self.revision)
        base = _adapter_base(self.name, commit)
        return (self.name, commit) if base is None else (base[0], _pinned(*base))

    def from_pretrained_kwargs(self) -> dict[str, Any]:
        """Return the further arguments of `from_pretrained` that are not None."""
        return {key: value for key, value in (self.init_kwargs or {}).items() if value is not None}


class Models:
    """Cache of models loaded by name. It holds one model: the last one requested."""

    def __init__(self) -> None:
        self._cached: tuple[str, Any] | None = None

    def get(self, loading: Loading) -> Any:
        """Return a model on the first accelerator, or on the CPU, in eval mode.

        Args:
            loading: The model to load.

        Raises:
            ModelError: The model does not exist, cannot be loaded, or is of an unsupported kind.
        """
        key = json.dumps([loading.identity(), loading.init_kwargs], sort_keys=True, default=str)
        if self._cached is None or self._cached[0] != key:
            self._cached = None  # release the last model before the next one is loaded
            gc.collect()  # a model is part of reference cycles, its own and those of its wrappers
            self._cached = (key, load_model(loading))
        return self._cached[1]


MAP_MODELS = Models()
"""Models of `Dataset.map`, in which every batch requests its model again."""


def load_model(loading: Loading) -> Any:
    """Load a model on the accelerator of this process, or on the CPU, in eval mode.

    Args:
        loading: The model to load.

    Raises:
        ModelError: The model does not exist, cannot be loaded, or is of an unsupported kind.
    """
    import torch

    from hf_datasel.scoring.eval_mode import preserve_rng_state

    name, commit = loading.name, _pinned(loading.name, loading.revision)
    base, kwargs = loading.base(), loading.from_pretrained_kwargs()
    is_adapter, kind = base[0] != name, loading.kind
    if is_adapter:
        kind = "causal" if kind == "encoder" else kind  # the kind that adapters are trained for
    # missing weights are initialized at random
    with loading_errors(f"The model {name!r}"), preserve_rng_state(), only_drawn_bars():
        loaded, info = _auto_class(kind).from_pretrained(
            base[0], revision=base[1], dtype=loading.dtype, output_loading_info=True, **kwargs
        )
        if is_adapter:
            _check_adapter(name, loaded, loaded.load_adapter(name, adapter_kwargs={"revision": commit}))
    missing = sorted(info["missing_keys"])
    if kind == "causal" and missing:
        raise ModelError(
            f"{name!r} is not a causal language model: its files lack {', '.join(missing[:3])}"
            f"{' and more' if len(missing) > 3 else ''}, which would be initialized at random."
        )
    _check_config(loading, loaded.config)
    if getattr(loaded, "hf_device_map", None) is None and not getattr(loaded, "is_quantized", False):
        loaded = loaded.to(torch.accelerator.current_accelerator() or "cpu")
    return loaded.eval()


def _check_adapter(name: str, loaded: Any, info: Any) -> None:
    """Raise an error if some weights of an adapter keep their random initial values.

    Older versions of transformers do not report them. Those of DoRA are missing in all versions, because PEFT names
    them differently.
    """
    missing = sorted(getattr(info, "missing_keys", None) or ())
    if missing or any(getattr(config, "use_dora", False) for config in loaded.peft_config.values()):
        detail = f", such as {missing[0]}" if missing else ", those of DoRA"
        raise ModelError(
            f"The adapter {name!r} cannot be loaded: transformers leaves some of its weights at their random initial "
            f"values{detail}. Merge it into its base model (merge_and_unload), and use the merged model."
        )


def load_config(loading: Loading) -> Any:
    """Load the configuration of a model, or of an adapter's base model, without its weights.

    Args:
        loading: The model.

    Raises:
        ModelError: The model does not exist, its configuration cannot be read, or it is of an unsupported kind.
    """
    from transformers import AutoConfig

    name, commit = loading.base()
    kwargs = loading.from_pretrained_kwargs()
    with loading_errors(f"The model {loading.name!r}"):
        config, _ = AutoConfig.from_pretrained(name, revision=commit, return_unused_kwargs=True, **kwargs)
    _check_config(loading, config)
    return config


_POSITION_TABLES = re.compile(r"(wpe|embed_positions|position_embeddings?)$")
"""Names of the modules with one embedding per position, which a longer row has none of."""


def check_max_length(config: Any, max_length: int | None, score: str) -> None:
    """Raise an error if a score truncates rows to more tokens than a model has positions.

    Args:
        config: Configuration of the model.
        max_length: Maximum number of tokens that the score was given.
        score: Name of the score, for the message.

    Raises:
        ModelError: Names both numbers.
    """
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if max_length is not None and isinstance(positions, int) and 0 < positions < max_length:
        raise ModelError(
            f"{score}(max_length={max_length}) is more than the {positions:,} tokens that {config.name_or_path!r} "
            "supports. Lower it."
        )


def check_tokens(model: Any, longest: int, highest_id: int) -> None:
    """Raise an error if a model cannot read some tokens: ids that it has no embedding for, or too many positions.

    Args:
        model: The model, with or without adapters.
        longest: Number of tokens of the longest row.
        highest_id: Highest token id.

    Raises:
        ModelError: Names both numbers, and what to do.
    """
    name, table = model.config.name_or_path, model.get_input_embeddings()
    entries = getattr(table, "num_embeddings", None) or table.weight.shape[0]
    if highest_id >= entries:
        raise ModelError(
            f"The tokenizer gives the token id {highest_id:,}, and {name!r} has embeddings for {entries:,} tokens "
            "(ids from 0).",
            hint="Pass the tokenizer of this model as processing_class, or add the new tokens to the model: "
            "model.resize_token_embeddings(len(tokenizer)).",
            cli_hint="Use a model that was saved with this tokenizer after "
            "model.resize_token_embeddings(len(tokenizer)).",
        )
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(positions, int) and 0 < positions < longest and _has_position_table(model):
        raise ModelError(
            f"A row has {longest:,} tokens, and {name!r} has an embedding for each of {positions:,} positions. Set "
            f"max_length={positions} or less."
        )


def _has_position_table(model: Any) -> bool:
    return any(_POSITION_TABLES.search(name) and hasattr(module, "weight") for name, module in model.named_modules())


def _check_config(loading: Loading, config: Any) -> None:
    if loading.kind == "encoder" and config.is_encoder_decoder:
        raise ModelError(f"{loading.name!r} is an encoder-decoder model. Use an encoder or a causal LM.")


def _auto_class(kind: Kind) -> Any:
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

    return {"causal": AutoModelForCausalLM, "encoder": AutoModel, "reward": AutoModelForSequenceClassification}[kind]
