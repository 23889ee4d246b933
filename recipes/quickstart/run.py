"""Compare IterIT with random rows and with all rows, on synthetic data: two minutes on a CPU, without a network.

The base model in `base/` is fine-tuned on the rows that each method selects from 8,000 questions and answers. In one
pool half of the answers are junk ("I do not know."); in the other none are, and selection does not help there. The
settings are not tuned for IterIT: they are the best ones for random rows and the whole pool.

Run: python recipes/quickstart/run.py --seeds 0 1 2 --output outputs/quickstart
"""

import argparse
import logging
import time
import warnings
from pathlib import Path

import datasets
import torch
import transformers
from report import BATCH, Run, write_report
from transformers import AutoModelForCausalLM, AutoTokenizer
from world import UNKNOWN, exact_match, pool, questions

from hf_datasel.rounds.selector import Selector
from hf_datasel.selectors import All, IterIT, Random

logging.getLogger("bitsandbytes").setLevel(
    logging.ERROR
)  # its import warns about missing 4-bit kernels, which are not used
from hf_datasel import SelectiveSFTConfig, SelectiveSFTTrainer  # noqa: E402

BASE = Path(__file__).parent / "base"
POOLS = {"half junk": 0.5, "no junk": 0.0}  # share of the answers that are "I do not know."
STEPS = 39  # optimizer steps in three epochs of 400 rows; the whole pool is trained for as many

METHODS: dict[str, tuple[Selector, dict[str, float]]] = {
    "IterIT": (IterIT(candidate_factor=3, decay=0.1), {"selection_ratio": 0.05, "num_train_epochs": 3}),
    "random": (Random(), {"selection_ratio": 0.05, "num_train_epochs": 3}),
    "whole pool": (All(), {"selection_ratio": 1.0, "max_steps": STEPS}),
}


def new_trainer(rows: datasets.Dataset, method: str, seed: int, output: Path) -> SelectiveSFTTrainer:
    """Return the trainer of a method: its arguments are those of `SFTTrainer`, and a selector."""
    selector, settings = METHODS[method]
    args = SelectiveSFTConfig(
        output_dir=str(output),
        seed=seed,
        learning_rate=1e-3,
        lr_scheduler_type="linear",
        per_device_train_batch_size=BATCH,
        max_length=64,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **settings,
    )
    trainer = SelectiveSFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32),  # saved in half precision
        args=args,
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(BASE),
        selector=selector,
    )
    trainer.remove_callback(transformers.PrinterCallback)  # it prints every log entry
    return trainer


def run(pool_name: str, method: str, seed: int, output: Path) -> Run:
    """Train once and evaluate on the 512 questions. The trainer saves its selections under `output`."""
    rows = pool(seed, unknown=POOLS[pool_name])
    folder = Path(f"{pool_name}/seed-{seed}/{method}".lower().replace(" ", "-"))
    trainer = new_trainer(rows, method, seed, output / folder)
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    selected = [row for selection in trainer.selections for row in selection.indices.tolist()]
    return Run(
        pool=pool_name,
        method=method,
        seed=seed,
        accuracy=exact_match(trainer.model, trainer.processing_class, questions()),
        steps=trainer.state.global_step,
        unique_rows=min(len(set(selected)), trainer.state.global_step * BATCH),
        junk=rows[selected]["completion"].count(UNKNOWN) / len(selected),
        seconds=seconds,
        selections=trainer.selections,
        folder=Path(trainer.args.output_dir) / "selections",
    )


def silence_output() -> None:
    """Turn off progress bars and warnings, so that only the results are printed."""
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    # TRL turns gradient checkpointing on, which is of no use for a model this small. Newer versions of transformers
    # call the option activation_checkpointing and warn about the old name, which all versions accept.
    warnings.filterwarnings("ignore", "`gradient_checkpointing` is deprecated", FutureWarning)


def main() -> None:
    """Run every method on both pools with every seed, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="Random seeds of the pool and of training."
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/quickstart"))
    args = parser.parse_args()

    silence_output()
    torch.set_num_threads(1)  # more threads hardly help a model this small, and slow it down on a busy machine
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    untrained = exact_match(base, AutoTokenizer.from_pretrained(BASE), questions())
    runs = []
    for pool_name in POOLS:
        for seed in args.seeds:
            print(f"{pool_name}, seed {seed}:", end="", flush=True)
            for method in METHODS:
                runs.append(run(pool_name, method, seed, args.output))
                print(f"  {method} {runs[-1].accuracy:.3f}", end="", flush=True)
            print()
    print(write_report(runs, untrained, args.output))


if __name__ == "__main__":
    main()
