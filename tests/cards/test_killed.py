"""A push whose process dies."""

import os
import signal
import subprocess
import sys

import pytest

from hf_datasel import Selection

PROGRAM = """
import warnings
warnings.simplefilter("ignore")
from datasets import load_dataset
from hf_datasel import select
from hf_datasel.selectors import Longest
rows = load_dataset("tester/parent", split="train")
select(rows, Longest(), size=6).push_to_hub("tester/selected")
"""


@pytest.mark.parametrize("last", [pytest.param("PUT ", marks=pytest.mark.slow), "POST .*/commit/"])
def test_killed_push(hub, tmp_path, last):
    hub.commit("tester/selected", {"notes.md": b"mine"})
    before = hub.files("tester/selected")
    environment = hub.environment(tmp_path, xet=False)

    def push(log):
        with log.open("w") as file:
            return subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, stderr=file)

    process = push(tmp_path / "first.log")
    hub.fail("POST .*/commit/")  # what has been sent of it is too late
    hub.before(last, lambda: os.kill(process.pid, signal.SIGKILL))
    assert process.wait(timeout=120) == -signal.SIGKILL
    assert hub.files("tester/selected") == before
    stored = {seen.path for seen in hub.uploads()} if last.startswith("POST") else set()
    hub.requests.clear()
    hub.clear_faults()
    assert push(tmp_path / "second.log").wait(timeout=120) == 0, (tmp_path / "second.log").read_text()
    assert not stored & {seen.path for seen in hub.uploads()}
    assert bool(stored) == (not hub.uploads())
    assert hub.files("tester/selected")["notes.md"] == b"mine"
    assert len(Selection.from_hub("tester/selected").indices) == 6
