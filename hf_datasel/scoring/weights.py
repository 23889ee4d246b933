"""Digest of the weights of a loaded model, by which a score store recognizes it."""

from __future__ import annotations

import json
import re
from typing import Any

from hf_datasel._lazy import torch

__all__ = ["weights_digest"]

_WITHOUT_EFFECT = (
    "_name_or_path", "architectures", "bos_token_id", "dtype", "eos_token_id", "pad_token_id", "torch_dtype",
    "transformers_version", "use_cache",
)  # fmt: skip
"""Entries of a config that do not change log-probabilities, as those of dropout; the dtype is part of the weights."""

_WRAPPERS = re.compile(r"^base_model\.model\.|\.base_layer(?=\.)")
"""Parts that PEFT adds to the names of the weights of its base model."""


def weights_digest(model: Any) -> str:
    """Return a digest of everything that decides the log-probabilities of a model: weights, adapter and config.

    An adapter whose output is still 0 does not count: a new LoRA adapter leaves the digest of its base model.

    Args:
        model: A model of transformers, with or without an adapter of PEFT, quantized or not.

    Returns:
        Hexadecimal XXH3 digest of 16 bytes.
    """
    import xxhash

    weights = _weights(model)
    digest = xxhash.xxh3_128((_config(model) + _adapters(model, weights)).encode())
    for name, value in weights.items():
        content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(content.data)
    return digest.hexdigest()


def _config(model: Any) -> str:
    config = {
        key: value for key, value in model.config.to_dict().items() if key not in _WITHOUT_EFFECT and "drop" not in key
    }
    attention = getattr(model.config, "_attn_implementation", None)
    return json.dumps([type(_base(model)).__name__, attention, config], sort_keys=True, default=str)


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _adapters(model: Any, weights: dict[str, torch.Tensor]) -> str:
    """Return how adapters are applied, such as the scaling of LoRA; "" if all of them are LoRA whose output is 0."""
    configs = getattr(model, "peft_config", None) or {}
    are_lora = all(config.peft_type == "LORA" for config in configs.values())
    if not configs or (are_lora and not any(".lora_" in name for name in weights)):
        return ""
    settings = {name: config.to_dict() for name, config in configs.items()}
    return json.dumps([getattr(model, "active_adapters", None), settings], sort_keys=True, default=str)


def _weights(model: Any) -> dict[str, torch.Tensor]:
    """Return the weights by the names of the base model, sorted, without those of LoRA layers whose output is 0."""
    weights = {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    unused = {
        name.replace(".lora_B.", f".lora_{part}.")
        for name, value in weights.items()
        if ".lora_B." in name and not value.any()
        for part in "AB"
    }
    named = {_WRAPPERS.sub("", name): value for name, value in weights.items() if name not in unused}
    return dict(sorted(named.items()))
