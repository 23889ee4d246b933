"""Private names of TRL and transformers that the trainer relies on, and the check that they exist."""

from __future__ import annotations

import inspect

import transformers
import trl
from transformers.utils import chat_template_utils
from trl import SFTTrainer

from hf_datasel.errors import ConfigError

__all__ = ["PRIVATE_FUNCTIONS", "PRIVATE_NAMES", "check_private_names"]

PRIVATE_NAMES: dict[str, tuple[str, ...]] = {
    "_prepare_dataset": ("dataset", "processing_class", "args", "packing", "formatting_func", "dataset_name"),
    "set_initial_training_values": ("args", "dataloader"),
    "_init_training_state": (
        "max_steps", "num_update_steps_per_epoch", "num_train_epochs", "resume_from_checkpoint", "trial",
    ),
    "prediction_step": ("model", "inputs", "prediction_loss_only", "ignore_keys"),
    "_run_epoch": ("epoch", "train_dataloader", "steps_in_epoch", "num_update_steps_per_epoch"),
    "create_scheduler": ("num_training_steps", "optimizer"),
    "_get_train_sampler": ("train_dataset",),
    "save_model": ("output_dir", "_internal_call"),
    "_save_checkpoint": ("model", "trial"),
    "_save_rng_state": ("output_dir",),
    "_save": ("output_dir", "state_dict"),
    "_push_from_checkpoint": ("checkpoint_folder",),
    "log": ("logs", "start_time"),
    "evaluate": ("eval_dataset", "ignore_keys", "metric_key_prefix"),
    "predict": ("test_dataset", "ignore_keys", "metric_key_prefix"),
    "create_model_card": ("model_name", "dataset_name", "tags"),
    "init_hf_repo": ("token",),
    "push_to_hub": ("commit_message", "blocking", "token", "revision"),
}  # fmt: skip
"""Methods of `SFTTrainer` and `Trainer` that are overridden, and the parameters that the overrides rely on."""

PRIVATE_FUNCTIONS: dict[str, tuple[str, ...]] = {"_compile_jinja_template": ("chat_template",)}
"""Functions of `transformers.utils.chat_template_utils` that are called, and their parameters."""


def check_private_names(trainer_class: type) -> None:
    """Raise if the installed TRL and transformers lack a private name that is used, or one of its parameters.

    Args:
        trainer_class: The trainer, for the message.

    Raises:
        ConfigError: Names what is missing.
    """
    for name, parameters in {**PRIVATE_NAMES, **PRIVATE_FUNCTIONS}.items():
        if name in PRIVATE_FUNCTIONS:
            found = getattr(chat_template_utils, name, None)
        else:
            found = next((vars(base)[name] for base in SFTTrainer.__mro__ if name in vars(base)), None)
        present = () if found is None else inspect.signature(found).parameters
        missing = [parameter for parameter in parameters if parameter not in present]
        if missing:
            raise ConfigError(
                f"{trainer_class.__name__} does not fit trl {trl.__version__} with transformers "
                f"{transformers.__version__}: {name} has no {', '.join(missing)}. Install the versions named in "
                "constraints.txt."
            )
