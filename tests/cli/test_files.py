"""Files of the commands: a full disk and killed processes leave what was there, and give one sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from hf_datasel import Selection
from hf_datasel.cli import main

pytestmark = pytest.mark.usefixtures("warm_python")

FULL_DISK = """
import contextlib, io, json, pathlib, resource, sys
from hf_datasel.cli import main

def content(folder):
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.stat().st_size}

results = {}
for name, *options in json.loads(sys.argv[1]):
    folder = pathlib.Path(options[-1])
    assert main([name, *options]) == 0, name
    before, errors = content(folder), io.StringIO()
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    with contextlib.redirect_stderr(errors):
        code = main([name, *options])
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    lost = [path for path, data in before.items() if content(folder).get(path) != data]
    results[name] = code, errors.getvalue(), lost, sorted(content(folder).keys() - before)
print(json.dumps(results))
"""

KILLED = """
import contextlib, io, json, pathlib, sys
from hf_datasel import Selection
from hf_datasel.cli import main
from tests.kills import killed_at_each_operation
import pyarrow.parquet as pq

out, old, new = pathlib.Path(sys.argv[1]), *json.loads(sys.argv[2])

def run(command):
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(command) == 0

run(new)
rows_new = Selection.load(out).indices.tolist()
run(old)
rows_old, kills = Selection.load(out).indices.tolist(), 0
for number in killed_at_each_operation(lambda: run(new), str(out)):
    kills += 1
    rows = Selection.load(out).indices.tolist()
    assert rows in (rows_old, rows_new), number
    if (out / "subset.parquet").is_file():
        subset = pq.read_table(out / "subset.parquet")
        assert len(subset) == len(rows), number
    run(old)
print(kills)
"""


def python(script, *arguments):
    command = [sys.executable, "-W", "ignore", "-c", script, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[-1]


@pytest.fixture
def data(rows_file):
    return ["--dataset_name", str(rows_file)]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of the size of files")
def test_full_disk(data, selection, tmp_path):
    methods = ["--methods", "random", "longest", "--selection_size", "3"]
    commands = [
        ["score", *data, "--scores", "length", "--output_dir", str(tmp_path / "score")],
        ["select", *data, "--selector", "random", "--save_subset", "--overwrite", "--output_dir", f"{tmp_path}/sel"],
        ["report", *data, "--selection", str(selection), "--output_dir", str(tmp_path / "report")],
        ["compare", *data, *methods, "--output_dir", str(tmp_path / "compare")],
    ]
    results = json.loads(python(FULL_DISK, json.dumps(commands)))
    for name, (code, errors, lost, added) in results.items():
        assert code == 2, name
        assert errors.splitlines()[-1].startswith(f"hf-datasel {name}: error: "), errors
        assert "File too large" in errors, errors
        assert "Traceback" not in errors
        assert (lost, added) == ([], []), name


@pytest.mark.skipif(sys.platform == "win32", reason="forks processes")
def test_killed_select(data, tmp_path):
    command = ["select", *data, "--selector", "random", "--save_subset", "--overwrite"]
    command += ["--output_dir", str(tmp_path / "out")]
    old, new = [*command, "--selection_size", "4"], [*command, "--selection_size", "7"]
    assert int(python(KILLED, str(tmp_path / "out"), json.dumps([old, new]))) > 15


def test_selection_that_cannot_be_saved_is_saved_elsewhere(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "elsewhere"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "selection.json").mkdir(parents=True)
    (tmp_path / "out" / "subset.parquet").write_bytes(b"mine")
    command = ["select", *data, "--selector", "longest", "--selection_size", "3"]
    assert main([*command, "--output_dir", str(tmp_path / "out")]) == 2
    (folder,) = (tmp_path / "elsewhere").glob("hf-datasel-selection-*")
    assert f"The selection was saved to {folder}: copy it from there." in capsys.readouterr().err
    assert len(Selection.load(folder).indices) == 3
    assert (tmp_path / "out" / "subset.parquet").read_bytes() == b"mine"
    assert main([*command, "--output_dir", str(tmp_path / "again")]) == 0
    assert Selection.load(tmp_path / "again").indices.tolist() == Selection.load(folder).indices.tolist()
