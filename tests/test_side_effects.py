"""What settings do besides computing is named, wherever it is in them."""

from __future__ import annotations

import json

import pytest

from hf_datasel.side_effects import side_effects

CODE = "runs Python code from the repository of a model (trust_remote_code)"
SENDS = "sends rows, and the token in OPENAI_API_KEY if there is one, to"
KERNELS = "runs kernels from the Hub (attn_implementation, use_kernels)"


@pytest.mark.parametrize(
    ("settings", "effects"),
    [
        ({"scores": ["ifd", {"length": {"unit": "tokens"}}], "model_name_or_path": "gpt2"}, []),
        (
            {"scores": [{"judge": {"model": "m", "base_url": "https://me:pw@api.example.com:8443/v1?key=k"}}]},
            [f"{SENDS} https://api.example.com:8443 (base_url)"],
        ),
        (
            {"selector_kwargs": {"by": {"score": "judge", "base_url": "http://10.0.0.1", "api_key_env": "AWS_KEY"}}},
            ["sends rows and the token in AWS_KEY to http://10.0.0.1 (base_url)"],
        ),
        (
            {"judge": {"base_url": "http://[::1"}},
            [f"{SENDS} an address that is not valid (base_url)"],
        ),
        ({"judge": {"api_key_env": "AWS_KEY"}}, ["sends the token in AWS_KEY to the Hub (api_key_env)"]),
        ({"trust_remote_code": True}, [CODE]),
        ({"trust_remote_code": "yes"}, [CODE]),
        ({"trust_remote_code": False, "model_init_kwargs": {"trust_remote_code": "false"}}, []),
        ({"model_init_kwargs": json.dumps({"trust_remote_code": True})}, [CODE]),
        ({"methods": [{"top": {"by": {"score": "ifd", "model_init_kwargs": {"trust_remote_code": 1}}}}]}, [CODE]),
        ({"attn_implementation": "sdpa"}, []),
        ({"attn_implementation": "somebody/kernel@main:attention"}, [KERNELS]),
        ({"model_init_kwargs": {"use_kernels": True}}, [KERNELS]),
        ({"model_init_kwargs": {"attn_implementation": {"text_config": "somebody/kernel"}}}, [KERNELS]),
        ({"attn_implementation": '{"": "somebody/kernel"}'}, [KERNELS]),
        ({"model_init_kwargs": {"allow_all_kernels": True, "attn_implementation": "flash_attention_2"}}, [KERNELS]),
        ({"attn_implementation": {"text_config": "sdpa"}}, []),
        ({"model_init_kwargs": {"weights_only": False}}, ["loads pickles that can run code (weights_only)"]),
        ({"model_init_kwargs": {"weights_only": None}}, ["loads pickles that can run code (weights_only)"]),
        ({"model_init_kwargs": {"weights_only": True}}, []),
        (
            {"repo_id": "me/rows", "public": True, "allow_secrets": True},
            [
                "publishes rows even if their origin is unknown (public)",
                "publishes rows even if they seem to contain secrets (allow_secrets)",
            ],
        ),
        ({"repo_id": "me/rows", "public": False, "private": True, "allow_secrets": False}, []),
        ({"hub_token": "hf_x", "push_to_hub": True}, ["uses a token of its own (hub_token)"]),
        ({"env": {"HF_ENDPOINT": "http://x", "A": "b"}}, ["sets the environment variables HF_ENDPOINT, A (env)"]),
        ({"env": {"A": "b"}}, ["sets the environment variable A (env)"]),
        ({"env": {}, "allow_imports": False}, []),
        ({"allow_imports": "false"}, []),
        (
            {"allow_imports": True, "selector": "my_lab:Mine", "scores": ["ifd", "lab.scores:Own"]},
            ["imports classes outside hf_datasel: my_lab:Mine, lab.scores:Own (allow_imports)"],
        ),
        ({"selector_kwargs": "{" * 5_000, "scores_kwargs": "[" * 100_000}, []),
    ],
)
def test_side_effects(settings, effects):
    assert side_effects(settings) == effects
