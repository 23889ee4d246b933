"""Run `hf-datasel` commands in processes of their own, which end with the process that started them.

Each command gets its memory for itself, and what crashes is one command. On a CPU the processes are forked from a
server that has imported torch, transformers and TRL once, since importing them takes longer than training a small
model; with an accelerator, which does not survive a fork, and with a launcher they are started anew.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from hf_datasel.errors import EvaluationError

__all__ = ["CommandServer"]

_COMMAND = "hf_datasel.cli"
_PRELOADED = (
    *("trl.trainer.sft_trainer", "transformers.models.auto.modeling_auto", "hf_datasel.training.trainer"),
    *("hf_datasel.cli.arguments", "hf_datasel.evaluation.task", "hf_datasel.scoring.score_rows"),
)
_POLL_SECONDS = 0.02
_SECONDS_TO_END = 20.0
"""Seconds that a command has to end after SIGTERM, before it is killed."""


class CommandServer:
    """Process that runs commands one at a time, and ends with this one, whatever ends this one.

    It is started when it is first needed.
    """

    @functools.cached_property
    def _server(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "hf_datasel.evaluation.commands"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C ends it through its input
        )

    @property
    def process(self) -> int:
        """Process id of the server."""
        return self._server.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the server, and the command that it runs."""
        if "_server" not in self.__dict__:
            return
        assert self._server.stdin is not None and self._server.stdout is not None
        with contextlib.suppress(OSError):
            self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait()

    def run(self, argv: Sequence[str], log: Path, launcher: Sequence[str] = ()) -> int:
        """Run a command, and return its exit code; negative if a signal ended it.

        Args:
            argv: Arguments of `hf-datasel`.
            log: File that the output is appended to.
            launcher: Command that starts it, such as `["accelerate", "launch", "--num_processes", "8"]`.

        Raises:
            EvaluationError: The launcher cannot be started, or the server has ended.
        """
        assert self._server.stdin is not None and self._server.stdout is not None
        job = {"argv": list(argv), "log": str(log.absolute()), "launcher": list(launcher)}
        try:
            self._server.stdin.write(json.dumps(job) + "\n")
            self._server.stdin.flush()
            answer = self._server.stdout.readline()
        except OSError:
            answer = ""
        if not answer:
            raise EvaluationError(
                f"The process that runs `hf-datasel {argv[0]}` has ended, with exit code {self._server.wait()}."
            )
        result: dict[str, Any] = json.loads(answer)
        if "error" in result:
            raise EvaluationError(result["error"], "Correct `launcher`.")
        return int(result["exit_code"])


# -- the server -------------------------------------------------------------------------------------------------------
def _serve() -> None:
    """Run a command for each line of stdin, and end with it."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print while they are imported is no answer
    can_fork = _can_fork()
    for name in _PRELOADED if can_fork else ():
        importlib.import_module(name)
    buffer = b""
    while block := os.read(0, 1 << 16):
        buffer += block
        while b"\n" in buffer:
            line, buffer = buffer.split(b"\n", 1)
            answers.write(json.dumps(_run(json.loads(line), can_fork)) + "\n")
            answers.flush()


def _can_fork() -> bool:
    """Whether a process that has imported torch can be forked: not with an accelerator, and not on macOS."""
    import torch

    return sys.platform == "linux" and torch.version.cuda is None and torch.version.hip is None


def _run(job: dict[str, Any], can_fork: bool) -> dict[str, Any]:
    with open(job["log"], "ab") as log:
        log.write(f"$ hf-datasel {' '.join(job['argv'])}\n".encode())
        log.flush()
        if not job["launcher"] and can_fork:
            return {"exit_code": _wait(_fork(job["argv"], log.fileno()))}
        command = [*(job["launcher"] or [sys.executable]), "-m", _COMMAND, *job["argv"]]
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        except OSError as error:
            return {"error": f"{command[0]!r} cannot be started: {error.strerror}."}
        return {"exit_code": _wait(process.pid)}


def _fork(argv: Sequence[str], log: int) -> int:
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = [_COMMAND, *argv]
        runpy.run_module(_COMMAND, run_name="__main__")
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return 0


def _wait(process: int) -> int:
    """Wait until a command ends, and end it if stdin is closed before."""
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if select.select([0], [], [], _POLL_SECONDS)[0]:  # nothing is sent while a command runs: it is the end
            _end(process)
            os._exit(1)


def _end(process: int) -> None:
    """End a command and its processes."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGTERM)
    limit = time.monotonic() + _SECONDS_TO_END
    while time.monotonic() < limit:
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(process, os.WNOHANG)[0]:
                break
        time.sleep(_POLL_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)


if __name__ == "__main__":
    _serve()
