"""A model, its adapter and its quantisation in the keys of a recipe, which are those of `trl.ModelConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from trl import ModelConfig, get_peft_config, get_quantization_config

__all__ = ["adapter_keys", "model_keys"]

Keys = tuple[dict[str, Any], list[str]]

_DEFAULTS = {each.name: each.default for each in fields(ModelConfig)}
_ADAPTER = {
    "r": "lora_r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "target_parameters": "lora_target_parameters",
    "modules_to_save": "lora_modules_to_save",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
}
"""Field of `peft.LoraConfig` -> key."""
_NO_SETTING = ("target_modules", "task_type", "base_model_name_or_path", "revision", "auto_mapping", "inference_mode")
_SDPA = (None, "sdpa")


def model_keys(model: Any, init: Mapping[str, Any] | None, quantization: Any) -> Keys:
    """Keys of a recipe for a model, and what they do not settle.

    Args:
        model: its name, or the model itself.
        init: `model_init_kwargs`, for a name.
        quantization: the trainer's `quantization_config`, for a name.
    """
    if not isinstance(model, str):
        return _of_object(model)
    rest = {name: value for name, value in (init or {}).items() if value is not None}
    keys = {
        "model_name_or_path": model,
        "model_revision": rest.pop("revision", None),
        "dtype": _dtype(rest.pop("dtype", rest.pop("torch_dtype", None))),
        "attn_implementation": rest.pop("attn_implementation", None),
    }
    keys, missing = _with_quantization(keys, quantization or rest.pop("quantization_config", None))
    if rest.pop("trust_remote_code", False):
        keys["trust_remote_code"] = True
    return keys | ({"model_init_kwargs": rest} if rest else {}), missing


def adapter_keys(peft: Any) -> Keys:
    """Keys of a recipe for a `peft` config, and what they do not settle.

    `ModelConfig` takes a list of one name for a pattern over whole paths, so that one name is written as a pattern.
    """
    if peft is None:
        return {}, []
    if type(peft).__name__ != "LoraConfig":
        return {}, [f"the adapter is a {type(peft).__name__}: pass `peft_config=` to the trainer as it was there"]
    keys = {name: getattr(peft, field, None) for field, name in _ADAPTER.items()}
    keys = {name: sorted(value) if isinstance(value, set) else value for name, value in keys.items()}
    keys = {name: value for name, value in keys.items() if value not in (None, _DEFAULTS[name])}
    modules = _plain(peft.target_modules)
    if isinstance(modules, str):
        keys["lora_target_modules"] = [modules]
    elif modules:
        keys["lora_target_modules"] = modules if len(modules) > 1 else [rf"(.*\.)?{modules[0]}"]
    if peft.task_type not in (None, "CAUSAL_LM"):
        keys["lora_task_type"] = str(peft.task_type)
    made = get_peft_config(ModelConfig(use_peft=True, **keys))
    named = [each.name for each in fields(peft) if each.init and each.name not in _NO_SETTING]
    differ = [name for name in named if _plain(getattr(made, name)) != _plain(getattr(peft, name))]
    missing = [f"the adapter has settings that no key is for: {', '.join(differ)} in its LoraConfig"] if differ else []
    return {"use_peft": True, **keys}, missing


def _of_object(model: Any) -> Keys:
    config = model.config
    name = getattr(config, "name_or_path", "")
    attention = getattr(config, "_attn_implementation", None)
    keys = {
        "model_name_or_path": name or None,
        "dtype": _dtype(model.dtype),
        "attn_implementation": None if attention in _SDPA else attention,
    }
    keys, missing = _with_quantization(keys, getattr(config, "quantization_config", None))
    adapters = getattr(model, "peft_config", None)
    if isinstance(adapters, Mapping):
        adapter, unsettled = adapter_keys(next(iter(adapters.values())))
        keys |= adapter
        missing += unsettled
    if not name:
        return keys, ["the model was made in Python and has no name", *missing]
    return keys, ["the model was an object in Python: what was changed in it after loading is not recorded", *missing]


def _with_quantization(keys: dict[str, Any], quantization: Any) -> Keys:
    """The keys that differ from their defaults, with those of a quantised model."""
    keys = {name: value for name, value in keys.items() if value not in (None, _DEFAULTS.get(name))}
    if quantization is None:
        return keys, []
    given = dict(quantization) if isinstance(quantization, Mapping) else quantization.to_dict()
    if given.get("load_in_4bit"):
        asked = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": given["bnb_4bit_quant_type"],
            "use_bnb_nested_quant": given["bnb_4bit_use_double_quant"],
            "bnb_4bit_quant_storage": None
            if given["bnb_4bit_quant_storage"] == "uint8"
            else given["bnb_4bit_quant_storage"],
        }
    elif given.get("load_in_8bit"):
        asked = {"load_in_8bit": True}
    else:
        return keys, [f"the model is quantised with {given.get('quant_method', 'settings of its own')}"]
    asked = {name: value for name, value in asked.items() if value != _DEFAULTS[name]}
    dtype = keys.get("dtype", _DEFAULTS["dtype"])
    if dtype == "auto":
        return keys | asked, [
            "dtype 'auto' is none that a quantised model can compute in: name the one that was meant"
        ]
    made = get_quantization_config(ModelConfig(**asked, dtype=dtype)).to_dict()
    differ = [name for name, value in made.items() if name in given and given[name] != value]
    return keys | asked, [f"the quantisation has settings that no key is for: {', '.join(differ)}"] if differ else []


def _dtype(value: Any) -> str | None:
    return None if value is None else str(value).removeprefix("torch.")


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set | frozenset | list | tuple) else value
