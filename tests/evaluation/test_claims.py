"""Claims on the folders of runs: one process works on a folder, and a dead one does not keep it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from hf_datasel.evaluation import claims
from hf_datasel.evaluation.claims import STALE_SECONDS, claim, is_claimed

HOLD = """
import sys, time
from pathlib import Path
from hf_datasel.evaluation.claims import claim
with claim(Path(sys.argv[1])) as is_ours:
    print(is_ours, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """A process that holds the claim."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "cell")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_folder_is_claimed_once_and_free_afterwards(tmp_path):
    with claim(tmp_path / "cell") as first:
        assert first
        assert is_claimed(tmp_path / "cell")
        with claim(tmp_path / "cell") as second:
            assert not second
        assert is_claimed(tmp_path / "cell")  # the one that was refused has not removed it
    assert not is_claimed(tmp_path / "cell")


def test_another_process_is_respected_until_it_is_killed(tmp_path, other):
    with claim(tmp_path / "cell") as is_ours:
        assert not is_ours
    other.kill()
    other.wait()
    with claim(tmp_path / "cell") as is_ours:
        assert is_ours


def test_a_killed_process_that_nobody_has_waited_for_does_not_count(tmp_path, other):
    other.kill()
    limit = time.monotonic() + 10
    while is_claimed(tmp_path / "cell") and time.monotonic() < limit:
        time.sleep(0.01)
    assert not is_claimed(tmp_path / "cell")


def test_a_claim_lasts_as_long_as_any_of_its_processes(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    folder = tmp_path / "cell"
    folder.mkdir()
    record = {"host": claims.socket.gethostname(), "processes": [2**22 + 1, child.pid], "token": "x"}
    (folder / "claim.json").write_text(json.dumps(record))
    assert is_claimed(folder)
    child.kill()
    child.wait()
    assert not is_claimed(folder)


def test_a_claim_of_another_machine_is_taken_over_without_signs_of_life(tmp_path):
    folder = tmp_path / "cell"
    folder.mkdir()
    file = folder / "claim.json"
    file.write_text(json.dumps({"host": "another-machine", "processes": [1], "token": "x"}))
    assert is_claimed(folder)
    old = time.time() - STALE_SECONDS - 5
    os.utime(file, (old, old))
    assert not is_claimed(folder)


def test_a_claim_shows_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 0.01)
    file = tmp_path / "cell" / "claim.json"
    with claim(tmp_path / "cell"):
        os.utime(file, (0, 0))
        limit = time.monotonic() + 10
        while file.stat().st_mtime == 0 and time.monotonic() < limit:
            time.sleep(0.01)
        assert file.stat().st_mtime > 0


def test_a_claim_that_was_taken_over_is_not_removed(tmp_path):
    file = tmp_path / "cell" / "claim.json"
    with claim(tmp_path / "cell"):
        file.write_text(json.dumps({"host": "another-machine", "processes": [1], "token": "theirs"}))
    assert file.is_file()
