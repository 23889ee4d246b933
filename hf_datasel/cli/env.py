"""`hf-datasel env`: print versions and devices for a bug report."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence

from hf_datasel.errors import ConfigError

__all__ = ["run"]

_PACKAGES = (
    "hf-datasel", "torch", "transformers", "trl", "datasets", "accelerate", "peft", "bitsandbytes", "tokenizers",
    "huggingface-hub", "numpy", "scipy",
)  # fmt: skip


def run(argv: Sequence[str]) -> None:
    """Print versions and devices in a form to paste into an issue."""
    import torch

    if argv:
        raise ConfigError(f"env takes no arguments, and got {' '.join(argv)}.")
    print(f"- platform: {platform.platform()}\n- python: {platform.python_version()}")
    for name in _PACKAGES:
        try:
            print(f"- {name}: {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            print(f"- {name}: not installed")
    accelerator = torch.accelerator.current_accelerator()
    count = torch.accelerator.device_count() if accelerator else 0
    print(f"- accelerators: {f'{count} x {accelerator}' if accelerator else 'none, CPU only'}")
