"""Run a model in the middle of something else, and leave no trace."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["inference", "preserved_rng"]


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Put the random state of torch (all devices), numpy and Python back at the end."""
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
def inference(model: torch.nn.Module, gradients: bool = False) -> Iterator[None]:
    """Evaluation mode, without gradients by default; every module's mode and all random state are put back at the end.

    `Linear4bit` runs in training mode all the same, which changes nothing in its output: in evaluation mode
    bitsandbytes repacks the weights of a 4-bit layer on the CPU, and every later gradient through it is zero.
    """
    modes = {module: module.training for module in model.modules()}
    with preserved_rng(), torch.set_grad_enabled(gradients):
        try:
            model.eval()
            for module in modes:
                if type(module).__name__ == "Linear4bit":
                    module.training = True
            yield
        finally:
            for module, training in modes.items():
                module.training = training
