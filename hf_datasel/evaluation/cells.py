"""One run of an experiment: a folder with a training run and its evaluations, which is finished in atomic steps."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from hf_datasel.atomic import write_file
from hf_datasel.errors import EvaluationError
from hf_datasel.evaluation.claims import claim, is_claimed
from hf_datasel.evaluation.commands import CommandServer

__all__ = ["Cell", "State", "digest", "mean_flops", "result_file", "slug"]

State = Literal["finished", "running", "failed", "trained", "waiting"]

_LOG_LINES = 15
"""Number of lines of the log of an attempt that the record of a failure holds."""


def digest(value: Any) -> str:
    """Return eight hexadecimal digits that are equal for equal plain values."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def result_file(task: str, identity: Mapping[str, Any]) -> str:
    """Return the name of the file with the results of a task, which differs if anything that decides them does.

    Args:
        task: Name of the task.
        identity: `Task.identity()`.
    """
    return f"{slug(task)}-{digest(identity)}.parquet"


def slug(name: str) -> str:
    """Return a name as a part of a file name.

    >>> slug("IterIT (b = 0)"), slug("my_tasks/exam.yaml")
    ('iterit-b-0', 'my_tasks-exam-yaml')
    """
    return re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-") or "task"


@dataclass(frozen=True)
class Cell:
    """One training run and its evaluations.

    The folder holds `train.yaml` and `eval.yaml`, the files of the two `hf-datasel` commands; `model/`, the output of
    the first; `trained.json`, written when it has finished; `evaluations/`, with one Parquet file per task; the logs;
    and `failed.json` after an error.

    Args:
        method: Name of the method.
        seed: Random seed of the run.
        folder: Folder of the cell.
        keys: Keys of `hf-datasel train`; empty for a model that is only evaluated.
        evaluation: Keys of `hf-datasel eval`, without the model and the folder.
        launcher: Command that starts the training, such as `["accelerate", "launch"]`.
    """

    method: str
    seed: int
    folder: Path
    keys: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    launcher: Sequence[str] = ()

    @property
    def model(self) -> str:
        """Path of the trained model; its name if it is not trained."""
        return str(self.folder / "model") if self.keys else str(self.evaluation["model_name_or_path"])

    @property
    def trained(self) -> dict[str, Any] | None:
        """The record of the finished training: `steps`, `seconds`, `cost` and `versions`; None before."""
        return _read(self.folder / "trained.json")

    @property
    def failure(self) -> dict[str, Any] | None:
        """The record of the error that ended the last attempt: `command`, `exit_code` and `log`; None without one."""
        return _read(self.folder / "failed.json")

    def results(self, task: str, identity: Mapping[str, Any]) -> Path | None:
        """Return the file with the results of a task, None before it is evaluated."""
        file = self.folder / "evaluations" / result_file(task, identity)
        return file if file.is_file() else None

    def state(self, tasks: Mapping[str, Mapping[str, Any]]) -> State:
        """Return how far the cell is.

        Args:
            tasks: Identity of each task.
        """
        if self.keys and self.trained is None:
            done = False
        else:
            done = all(self.results(task, identity) for task, identity in tasks.items())
        if done:
            return "finished"
        if is_claimed(self.folder):
            return "running"
        if self.failure is not None:
            return "failed"
        return "trained" if self.trained is not None else "waiting"

    def run(self, server: CommandServer, tasks: Mapping[str, Mapping[str, Any]], versions: Mapping[str, str]) -> State:
        """Do what is left of the cell, unless another process does.

        Args:
            server: Runs the commands.
            tasks: Identity of each task.
            versions: Versions of the packages, which are written down with the training.

        Returns:
            The state afterwards: "finished" or "failed", or "running" if another process works on it.
        """
        with claim(self.folder, (server.process,)) as is_ours:
            if not is_ours:
                return "running"
            if self.state(tasks) == "finished":  # by another process, in the meantime
                return "finished"
            (self.folder / "failed.json").unlink(missing_ok=True)
            if self.keys and self.trained is None and not self._train(server, versions):
                return "failed"
            return "finished" if self._evaluate(server, tasks) else "failed"

    def _train(self, server: CommandServer, versions: Mapping[str, str]) -> bool:
        model = self.folder / "model"
        keys = {**self.keys, "output_dir": str(model)}
        if any(model.glob("checkpoint-*")):
            keys["resume_from_checkpoint"] = True
        elif model.exists():
            shutil.rmtree(model)
        start = time.perf_counter()
        if not self._command("train", keys, server, self.launcher):
            return False
        state = _read(model / "trainer_state.json") or {}
        record = {
            "steps": state.get("global_step"),
            "seconds": time.perf_counter() - start,
            "cost": _read(model / "cost.json"),
            "versions": dict(versions),
        }
        write_file(self.folder / "trained.json", json.dumps(record, indent=2) + "\n", EvaluationError)
        return True

    def _evaluate(self, server: CommandServer, tasks: Mapping[str, Mapping[str, Any]]) -> bool:
        folder = self.folder / "evaluations"
        keys = {**self.evaluation, "model_name_or_path": self.model, "output_dir": str(folder)}
        if not self._command("eval", keys, server):
            return False
        missing = [task for task, identity in tasks.items() if self.results(task, identity) is None]
        if not missing:
            return True
        self._fail("eval", 0, f"These tasks were evaluated with other settings than planned: {', '.join(missing)}.")
        return False

    def _command(
        self,
        name: str,
        keys: Mapping[str, Any],
        server: CommandServer,
        launcher: Sequence[str] = (),
    ) -> bool:
        config, log = self.folder / f"{name}.yaml", self.folder / f"{name}.log"
        write_file(config, yaml.safe_dump(dict(keys), sort_keys=False, allow_unicode=True), EvaluationError)
        before = log.stat().st_size if log.exists() else 0
        code = server.run([name, "--config", str(config), "--trust_config"], log, launcher)
        if code:
            text = log.read_bytes()[before:].decode(errors="replace")
            self._fail(name, code, "\n".join(text.splitlines()[-_LOG_LINES:]))
        return code == 0

    def _fail(self, command: str, code: int, log: str) -> None:
        record = {"command": command, "exit_code": code, "log": log}
        write_file(self.folder / "failed.json", json.dumps(record, indent=2) + "\n", EvaluationError)


def _read(file: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except json.JSONDecodeError as error:
        raise EvaluationError(
            f"{str(file)!r} is damaged: {error}. Delete the folder of the run and start again."
        ) from error
    return record if isinstance(record, dict) else None


def mean_flops(cells: Sequence[Cell]) -> float | None:
    """Return the mean FLOPs of selecting and training over the runs of a method; None before they have finished."""
    costs = [trained["cost"] for cell in cells if (trained := cell.trained) is not None and trained.get("cost")]
    if not costs or len(costs) < len(cells):
        return None
    return float(np.mean([cost["selecting"]["flops"] + cost["training"]["flops"] for cost in costs]))
