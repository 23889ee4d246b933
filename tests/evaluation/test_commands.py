"""Commands in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from hf_datasel.errors import EvaluationError
from hf_datasel.evaluation.commands import CommandServer

FOREVER = """#!/bin/sh
echo $$ > {file}
exec sleep 60
"""


@pytest.fixture(scope="module")
def server():
    with CommandServer() as server:
        yield server


def test_exit_codes_and_output(server, tmp_path):
    assert server.run(["list"], tmp_path / "log") == 0
    assert server.run(["lits"], tmp_path / "log") == 2
    log = (tmp_path / "log").read_text()
    assert "$ hf-datasel list\n" in log
    assert "There is no command 'lits'. Did you mean 'list'?" in log


def test_a_command_does_not_see_what_an_earlier_one_did(server, tmp_path):
    config = tmp_path / "x.yaml"
    config.write_text("env: {HF_DATASEL_TEST: 'yes'}\nmodel_name_or_path: nowhere\n")
    assert server.run(["eval", "--config", str(config), "--trust_config"], tmp_path / "log") == 2
    assert "HF_DATASEL_TEST" not in os.environ


def test_a_launcher_starts_the_command(server, tmp_path):
    assert server.run(["list"], tmp_path / "log", [sys.executable]) == 0
    with pytest.raises(EvaluationError, match="'no-such-launcher' cannot be started: No such file"):
        server.run(["list"], tmp_path / "log", ["no-such-launcher"])
    assert server.run(["list"], tmp_path / "log") == 0  # the server goes on


def test_a_signal_is_a_negative_exit_code(server, tmp_path):
    script = tmp_path / "launch"
    script.write_text("#!/bin/sh\nkill -9 $$\n")
    script.chmod(0o755)
    assert server.run(["list"], tmp_path / "log", [str(script)]) == -signal.SIGKILL


@pytest.mark.slow
def test_the_end_of_the_process_that_asked_ends_the_command(tmp_path):
    script, file = tmp_path / "launch", tmp_path / "pid"
    script.write_text(FOREVER.format(file=file))
    script.chmod(0o755)
    code = (
        "import sys; from pathlib import Path; from hf_datasel.evaluation.commands import CommandServer;"
        f"CommandServer().run(['list'], Path({str(tmp_path / 'log')!r}), [{str(script)!r}])"
    )
    asking = subprocess.Popen([sys.executable, "-c", code])
    _wait_for(lambda: file.is_file() and file.read_text().strip())
    running = int(file.read_text())
    asking.kill()
    asking.wait()
    _wait_for(lambda: not _is_running(running))


def test_a_server_that_was_killed_is_an_error(tmp_path):
    with CommandServer() as server:
        os.kill(server.process, signal.SIGKILL)
        with pytest.raises(EvaluationError, match=r"The process that runs `hf-datasel list` has ended"):
            server.run(["list"], tmp_path / "log")


def _wait_for(happened):
    limit = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < limit
        time.sleep(0.02)


def _is_running(process):
    try:
        os.kill(process, 0)
        with open(f"/proc/{process}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
