"""Context managers that set eval mode and preserve RNG state."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from hf_datasel._lazy import torch

__all__ = ["eval_mode", "preserve_rng_state"]


@contextmanager
def preserve_rng_state() -> Iterator[None]:
    """Restore the RNG state of torch (all devices), numpy and Python on exit."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


@contextmanager
def eval_mode(model: torch.nn.Module, gradients: bool = False) -> Iterator[None]:
    """Set eval mode, and restore the mode of every module and the RNG state on exit.

    `Linear4bit` modules stay in training mode, which does not change their output: in eval mode bitsandbytes repacks
    the weights of a 4-bit layer on the CPU, and every later gradient through it is zero.

    Args:
        model: The model.
        gradients: Whether gradients are computed.
    """
    modes = {module: module.training for module in model.modules()}
    with preserve_rng_state(), torch.set_grad_enabled(gradients):
        try:
            model.eval()
            for module in modes:
                if type(module).__name__ == "Linear4bit":
                    module.training = True
            yield
        finally:
            for module, training in modes.items():
                module.training = training
