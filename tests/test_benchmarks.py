"""Scripts of `benchmarks/` that need a GPU or hours for their figures, in miniature."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.usefixtures("warm_python")
def test_gpu_script_measures_everything_in_miniature():
    flags = ["--shapes", "tiny", "--device", "cpu", "--dtype", "float32", "--seconds", "0", "--lengths", "24", "48"]
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), *flags, "--markdown"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| tiny")]
    kinds = ["response only", "full logits", "Loss", "IFD", "selecting", "training"]
    assert [(cells[1], cells[2]) for cells in lines] == [(length, kind) for length in ("24", "48") for kind in kinds]
    for cells in lines:
        rows, tokens_per_second = (int(cells[column].replace(",", "")) for column in (3, 4))
        assert rows in (8, 16)
        assert tokens_per_second > 0
