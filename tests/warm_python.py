"""Python processes that start at once: forked from a server that has imported the libraries.

Importing torch, transformers and TRL takes a new process longer than most of what tests let it do. With the fixture
`warm_python`, `subprocess.Popen` forks `python -c`, `python -m` and scripts from the server, and so does what they
start in turn, such as torchrun. Nothing of the test is in the memory of these processes, and they have a pid, an
environment, a folder, input, output and an exit code of their own. Commands with other options, or with other values
of the variables that libraries read when they are imported, are started as usual.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import inspect
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
import types
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

_PRELOADED = (
    *("trl.trainer.sft_trainer", "transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama"),
    *("transformers.models.auto.tokenization_auto", "sklearn.cluster", "torch.distributed.run"),
    *("hf_datasel.training.trainer", "hf_datasel.cli.main", "hf_datasel.cli.arguments", "hf_datasel.evaluation.task"),
    *("hf_datasel.evaluation.experiment", "hf_datasel.scoring.score_rows"),
)
_READ_WHEN_IMPORTED = ("HF_", "TRANSFORMERS_", "PYTHON", "OMP_", "CUDA_VISIBLE_DEVICES", "MPLBACKEND")
_Started = subprocess.Popen

# Of the server, in the process that started it and in those that were forked.
_address = ""
_variables: dict[str, str] = {}


def _read_when_imported(environment: Mapping[str, str]) -> dict[str, str]:
    names = [name for name in environment if name.startswith(_READ_WHEN_IMPORTED) and name != "PYTHONWARNINGS"]
    return {name: environment[name] for name in names}


class Popen(_Started):
    """A process of Python that is forked from the server, and any other process as it is."""

    _server: socket.socket | None = None

    def _execute_child(self, *arguments: Any) -> None:
        given = inspect.signature(_Started._execute_child).bind(self, *arguments).arguments
        environment = os.environ if given["env"] is None else given["env"]
        is_plain = not any(given[name] for name in ("shell", "executable", "preexec_fn", "pass_fds"))
        is_plain &= not isinstance(given["args"], str | bytes | os.PathLike)
        if not is_plain or _parse(given["args"]) is None or _read_when_imported(environment) != _variables:
            super()._execute_child(*arguments)
            return
        job = {
            "args": [os.fspath(word) for word in given["args"]],
            "environment": dict(environment),
            "folder": os.fspath(given["cwd"] or os.getcwd()),
            "new_session": given["start_new_session"],
        }
        files = [
            number if given[name] == -1 else given[name]
            for number, name in enumerate(("p2cread", "c2pwrite", "errwrite"))
        ]
        self._server = socket.socket(socket.AF_UNIX)
        self._server.connect(_address)
        socket.send_fds(self._server, [b" "], files)
        self._server.sendall(json.dumps(job).encode() + b"\n")
        self.pid = self._answer()
        self._child_created = True
        pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(given[name] for name in pipes))

    def _answer(self) -> int:
        line = b""
        while not line.endswith(b"\n"):
            block = self._server.recv(1)
            assert block, "the server of warm_python has ended"
            line += block
        return int(line)

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._server is None:
            return super()._try_wait(wait_flags)
        if wait_flags & os.WNOHANG and not select.select([self._server], [], [], 0)[0]:
            return 0, 0
        status = self._answer()
        self._server.close()
        return self.pid, status

    def _internal_poll(self, *arguments: Any, **options: Any) -> int | None:
        if self._server is None:
            return super()._internal_poll(*arguments, **options)
        if self.returncode is None and self._waitpid_lock.acquire(False):
            try:
                ended, status = self._try_wait(os.WNOHANG) if self.returncode is None else (0, 0)
                if ended:
                    self._handle_exitstatus(status)
            finally:
                self._waitpid_lock.release()
        return self.returncode


def _parse(args: Any) -> tuple[list[str], str, str, list[str]] | None:
    """Return the filters of warnings, `-c`, `-m` or `""` for a script, what runs, and its arguments."""
    executable, *words = map(os.fspath, args)
    filters: list[str] = []
    while executable == sys.executable and words:
        word = words.pop(0)
        if word == "-W":
            filters.append(words.pop(0))
        elif word in ("-c", "-m"):
            return filters, word, words[0], words[1:]
        elif not word.startswith("-"):
            return filters, "", word, words
        elif word != "-u":
            return None
    return None


@contextmanager
def server(folder: Path) -> Iterator[None]:
    """Start the server when the context is entered, and end it with all its processes at the end."""
    global _address, _variables
    _address, _variables = str(folder / "socket"), _read_when_imported(os.environ)
    code = f"from tests.warm_python import serve; serve({_address!r}, {_variables!r})"
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", code]
    with _Started(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root, start_new_session=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield
        process.stdin.write(b"end\n")  # closing it is not enough where a process that a test has forked has it too


# -- the server ------------------------------------------------------------------------------------------------------
def serve(address: str, variables: dict[str, str]) -> None:
    """Fork a process for each request, and say how it ended, until there is a line in stdin or it is closed."""
    global _address, _variables
    _address, _variables = address, variables
    subprocess.Popen = Popen  # type: ignore[misc]
    answers, requests = {}, socket.socket(socket.AF_UNIX)
    for name in _PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that a collection in a process does not copy the memory that it shares with the server
    requests.bind(address)
    requests.listen(64)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    os.write(1, b"ready\n")
    while True:
        ready = select.select([0, requests, woken], [], [])[0]
        if requests in ready:
            asking = requests.accept()[0]
            files = socket.recv_fds(asking, 1, 3)[1]
            job = json.loads(asking.makefile().readline())
            process = os.fork()
            if not process:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for other in (requests, asking, *answers.values()):
                    other.close()
                _run(job, files)
            for file in files:
                os.close(file)
            answers[process] = asking
            with suppress(OSError):  # the process that asked may have ended
                asking.sendall(b"%d\n" % process)
        if woken in ready:
            os.read(woken, 4096)
            while answers and (ended := os.waitpid(-1, os.WNOHANG))[0]:
                with answers.pop(ended[0]) as asking, suppress(OSError):
                    asking.sendall(b"%d\n" % ended[1])
        if 0 in ready:
            for process in answers:
                os.kill(process, signal.SIGKILL)
            return


def _run(job: dict[str, Any], files: list[int]) -> NoReturn:
    code = 1
    try:
        if job["new_session"]:
            os.setsid()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.environ.clear()
        os.environ.update(job["environment"])
        os.chdir(job["folder"])
        _run_python(*_parse(job["args"]))
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run_python(filters: list[str], kind: str, target: str, arguments: list[str]) -> None:
    import numpy as np

    np.random.seed()  # a process that is forked has the random state of the server; Python does it for `random`
    sys.stdin = sys.__stdin__ = os.fdopen(0, closefd=False)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    for name in [*os.environ.get("PYTHONWARNINGS", "").split(","), *filters]:
        if name:
            warnings._setoption(name)
    sys.argv = [kind or target, *arguments]
    sys.path[0] = {"-c": "", "-m": os.getcwd()}.get(kind, os.path.dirname(os.path.abspath(target)))
    if kind == "-m":
        runpy.run_module(target, run_name="__main__", alter_sys=True)
        return
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    if not kind:
        main.__file__ = target
    source = target if kind else Path(target).read_bytes()
    exec(compile(source, "<string>" if kind else target, "exec"), main.__dict__)
