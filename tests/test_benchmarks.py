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


@pytest.mark.slow
def test_rounds_script_compares_the_ways_to_select_in_miniature(tmp_path):
    flags = ["--rows", "40", "--epochs", "2", "--store", str(tmp_path / "store"), "--markdown"]
    done = subprocess.run([sys.executable, str(BENCHMARKS / "rounds.py"), *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    start = [cells[0] for cells in lines].index("Jaccard")
    costs = {name: int(tokens.replace(",", "")) for name, tokens, *_ in lines[2:start]}
    overlaps = {name: [float(cell) for cell in cells] for name, *cells in lines[start + 2 :]}
    names = ["exact", "once", "store", "prior", "reuse", "all three", "small first", "bfloat16"]
    assert list(costs) == [*names, "training"]
    assert list(overlaps) == names
    assert costs["all three"] < costs["store"] < costs["prior"] < costs["exact"] < costs["small first"]
    assert costs["all three"] < costs["reuse"] < costs["exact"]
    assert costs["exact"] == costs["once"] + costs["store"], "the passes of round 0, and those of later rounds"
    assert overlaps["exact"] == overlaps["store"] == [1.0, 1.0]
    assert overlaps["once"][0] == overlaps["prior"][0] == overlaps["reuse"][0] == 1.0, (
        "they differ from the second round on"
    )
    ratios = {name: float(cells[0]) for name, _, _, *cells in lines[2:start]}
    assert ratios["training"] == 1.0 < ratios["exact"]
