"""`hf-datasel eval`: evaluate one model on a suite of tasks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_datasel.cli.arguments import as_dict, log_to_stderr, parse
from hf_datasel.cli.output_folder import create_output_folder
from hf_datasel.errors import ConfigError
from hf_datasel.scoring.progress import only_drawn_bars

__all__ = ["NO_SUITE", "EvalArguments", "run"]

NO_SUITE = "No task is named. Pass --suite NAME, or put it into the config file."


@dataclass
class EvalArguments:
    """The model, the tasks, and where their results are written."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Name or path of the model, or of an adapter."}
    )
    suite: list[str] | None = field(
        default=None,
        metadata={
            "help": "Name of a suite, or names of tasks. In a config file each task may have settings: "
            "[gsm8k_cot: {num_fewshot: 8}, heldout: {dataset_name: rows.jsonl}]."
        },
    )
    tier: str = field(default="full", metadata={"help": "full, or quick for some items of some tasks."})
    output_dir: str = field(
        default="outputs/eval",
        metadata={
            "help": "Folder for the value of each item. Tasks that are there for the same model are not repeated."
        },
    )
    model_revision: str | None = field(default=None, metadata={"help": "Commit, branch or tag of a Hub model."})
    dtype: str = field(default="auto", metadata={"help": "Data type of the weights."})
    model_init_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": 'Further arguments of from_pretrained, such as {"device_map": "auto"}.'}
    )
    json: bool = field(default=False, metadata={"help": "Print the results as JSON instead of a table."})
    allow_code_execution: bool = field(
        default=False, metadata={"help": "Run programs that the model writes, on this machine."}
    )


def run(argv: Sequence[str]) -> None:
    """Evaluate a model, save the value of each item, and print a table."""
    (arguments,) = parse((EvalArguments,), argv, "eval")
    if not arguments.model_name_or_path:
        raise ConfigError("No model is named. Pass --model_name_or_path, or put it into the config file.")
    if not arguments.suite:
        raise ConfigError(NO_SUITE)
    log_to_stderr()
    from hf_datasel.evaluation import evaluate_model

    folder = create_output_folder(arguments.output_dir)
    with only_drawn_bars():
        results = evaluate_model(
            arguments.model_name_or_path,
            arguments.suite,
            tier=arguments.tier,
            output_dir=folder,
            revision=arguments.model_revision,
            dtype=arguments.dtype,
            model_init_kwargs=as_dict(arguments.model_init_kwargs, "model_init_kwargs") or None,
            allow_code_execution=arguments.allow_code_execution,
        )
    if arguments.json:
        record = {"model": results.model, "output_dir": str(folder), "results": results.to_list()}
        print(json.dumps(record, indent=2, ensure_ascii=False))
        return
    print(results.to_markdown())
    print(f"\nThe value of each item is in {folder}.")
