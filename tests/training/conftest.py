"""Short training runs of a tiny model, and how to compare them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def train(tmp_path: Path, tiny_model_dir: Path, pool_rows: Any) -> Callable[..., Any]:
    """Return a function that trains and returns the trainer; dropout makes stray random draws visible."""

    def run(
        selector: Any = None, name: str = "run", rows: Any = None, resume: Any = None, base: Any = None, **more: Any
    ) -> Any:
        trainer = make(selector, name, rows, base, **more)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    def make(selected: Any, name: str, rows: Any = None, base: Any = None, **more: Any) -> Any:
        from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

        from hf_datasel import SelectiveSFTConfig, SelectiveSFTTrainer

        set_seed(0)  # adapters start at random, and not every version of TRL seeds before it makes them
        kind = base or SelectiveSFTTrainer
        extra = {key: more.pop(key) for key in ("peft_config", "eval_dataset", "callbacks") if key in more}
        settings = {
            "output_dir": str(tmp_path / name),
            "bf16": False,
            "gradient_checkpointing": False,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "num_train_epochs": 3,
            "logging_steps": 1,
            "report_to": "none",
            "disable_tqdm": True,
            "save_strategy": "no",
            "use_cpu": True,
            "max_length": 128,
            **more,
        }
        config = SelectiveSFTConfig(**settings)
        if selected is not None:
            extra["selector"] = selected
        return kind(
            model=AutoModelForCausalLM.from_pretrained(tiny_model_dir, attention_dropout=0.1),
            args=config,
            train_dataset=pool_rows if rows is None else rows,
            processing_class=AutoTokenizer.from_pretrained(tiny_model_dir),
            **extra,
        )

    run.make = make  # type: ignore[attr-defined]
    return run


@pytest.fixture
def assert_equal_weights() -> Callable[[Any, Any], None]:
    """Return a function that asserts that the weights of two trainers are equal bit by bit."""

    def check(first: Any, second: Any) -> None:
        import torch

        actual, expected = first.model.state_dict(), second.model.state_dict()
        assert actual.keys() == expected.keys()
        differ = [name for name in actual if not torch.equal(actual[name], expected[name])]
        assert not differ, f"{len(differ)} of {len(actual)} weights differ, for example {differ[0]}"

    return check


@pytest.fixture
def resumed(train: Any, assert_equal_weights: Any, tmp_path: Path) -> Callable[..., Iterator[Any]]:
    """Return a function that resumes from checkpoints of a run (all by default) and compares the results."""

    def rates(trainer: Any) -> list[float]:
        return [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]

    def rows(trainer: Any) -> list[list[int]]:
        return [record.rows.tolist() for record in trainer._schedule.records]

    def go_on(whole: Any, selector: Any, steps: Any = None, **more: Any) -> Iterator[Any]:
        end = whole.state.global_step
        for step in range(1, end) if steps is None else steps:
            checkpoint = Path(whole.args.output_dir) / f"checkpoint-{step}"
            again = train(selector, name=f"from-{step}", resume=str(checkpoint), **more)
            assert again.state.global_step == end
            assert_equal_weights(again, whole)
            assert rates(again) == rates(whole)
            assert rows(again) == rows(whole)
            shutil.rmtree(tmp_path / f"from-{step}")
            yield again

    return go_on


@pytest.fixture
def from_hub() -> Callable[..., Any]:
    """Return a function that makes rows look like those of `load_dataset("them/rows")`."""

    def make(rows: Any, split: str = "train", of: int | None = None) -> Any:
        from datasets import NamedSplit, SplitDict, SplitInfo

        rows = rows.select(range(len(rows)))
        rows.info.download_checksums = {f"hf://datasets/them/rows@{'a' * 40}/data.parquet": {}}
        rows.info.config_name = "default"
        rows.info.splits = SplitDict({split: SplitInfo(split, num_examples=len(rows) if of is None else of)})
        rows._split = NamedSplit(split)
        return rows

    return make
