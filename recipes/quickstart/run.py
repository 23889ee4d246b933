"""Compare IterIT and Superfiltering with random rows and with all rows, on synthetic data, without a GPU or network.

The base model in `base/` is fine-tuned on the rows that each method selects from 8,000 questions and answers. In one
pool half of the answers are junk ("I do not know."); in the other none are, and selection does not help there. The
settings are not tuned for IterIT: they are the best ones for random rows and the whole pool. Each pool is an
experiment of `hf-datasel bench`; the two run side by side.

Run: python recipes/quickstart/run.py --seeds 3 --output outputs/quickstart
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import datasets
import yaml
from report import write_report
from world import pool, questions

from hf_datasel.evaluation import Experiment

BASE = Path(__file__).parent / "base"
POOLS = {"half-junk": 0.5, "no-junk": 0.0}  # share of the answers that are "I do not know."


def settings(folder: Path, seeds: int) -> dict[str, object]:
    """Return the settings of the experiment on one pool, as `hf-datasel bench` reads them."""
    return {
        "model_name_or_path": str(BASE),
        "dataset_name": str(folder / "pool.parquet"),
        "train": {
            "selection_ratio": 0.05,
            "num_train_epochs": 3,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "linear",
            "per_device_train_batch_size": 32,
            "max_length": 64,
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "disable_tqdm": True,
            "model_init_kwargs": {"dtype": "float32"},  # saved in half precision
        },
        "methods": [
            {"iterit": {"candidate_factor": 3, "decay": 0.1}},
            "superfiltering",
            "all",
        ],
        "baselines": ["random", "untrained"],
        "seeds": seeds,
        "suite": [
            {
                "questions": {
                    "task": "exact_match",
                    "dataset_name": str(folder / "questions.parquet"),
                    "max_new_tokens": 6,
                    "normalization": {"ignore_punctuation": True},
                }
            }
        ],
        "margin": 3.0,
        "decontaminate": False,  # all prompts are made from a few templates; those of the questions are in no pool
        "eval_dtype": "float32",
        "output_dir": str(folder),
    }


def write_pool(folder: Path, junk: float, seeds: int) -> Path:
    """Write the pool, the questions and the settings of an experiment, and return the file with the settings."""
    folder.mkdir(parents=True, exist_ok=True)
    pool(0, unknown=junk).to_parquet(folder / "pool.parquet")
    prompts, answers = zip(*questions(), strict=True)
    rows = datasets.Dataset.from_dict({"prompt": prompts, "completion": answers})
    rows.to_parquet(folder / "questions.parquet")
    (folder / "bench.yaml").write_text(yaml.safe_dump(settings(folder, seeds), sort_keys=False), encoding="utf-8")
    return folder / "bench.yaml"


def main() -> None:
    """Run every method on both pools with every seed, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="Number of runs of each method; random rows have 5.")
    parser.add_argument("--output", type=Path, default=Path("outputs/quickstart"))
    args = parser.parse_args()

    datasets.disable_progress_bars()
    # More threads hardly help a model this small, and slow it down on a busy machine.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = []
    for name, junk in POOLS.items():
        config = write_pool(args.output / name, junk, args.seeds)
        command = [sys.executable, "-m", "hf_datasel.cli", "bench", "--config", str(config)]
        log = (args.output / name / "bench.log").open("w")
        running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
        print(f"hf-datasel bench --config {config}", flush=True)
    failed = [name for name, process in zip(POOLS, running, strict=True) if process.wait()]
    if failed:
        sys.exit(f"The experiment ended with an error: see {args.output / failed[0] / 'bench.log'}.")
    results = {name: Experiment.from_folder(args.output / name).gather() for name in POOLS}
    print(write_report(results, args.output))


if __name__ == "__main__":
    main()
