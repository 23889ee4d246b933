"""Score Alpaca in 64 tasks of a Slurm cluster, 16 at a time. Run it on the login node, in a folder that all nodes see.

    pip install "hf-datasel[scale]"
    python recipes/scale/slurm.py
    hf-datasel score --dataset_name tatsu-lab/alpaca --scores loss ifd --model_name_or_path Qwen/Qwen3-0.6B \
        --output_dir outputs/alpaca-scores

The first command submits a job array and ends. To continue what failed or was killed, run it again when no task is
running. The last command, once all tasks are done, puts their tables together in outputs/alpaca-scores/scored.parquet.
Change partition, time, memory and the path of the environment to those of your cluster.
"""

from datatrove.executor import SlurmPipelineExecutor

from hf_datasel.scores import IFD, Loss
from hf_datasel.scoring.datatrove import ScoreShards

# num_proc is the number of processes that tokenize the rows of a task.
step = ScoreShards("tatsu-lab/alpaca", [Loss(), IFD()], "outputs/alpaca-scores", "Qwen/Qwen3-0.6B", num_proc=8)

if __name__ == "__main__":
    SlurmPipelineExecutor(
        [step],
        tasks=64,
        workers=16,
        time="02:00:00",
        partition="gpu",
        qos=None,
        gpus_per_task=1,
        cpus_per_task=8,
        mem_per_cpu_gb=4,
        venv_path=".venv/bin/activate",
        job_name="score-alpaca",
        logging_dir="outputs/alpaca-scores/logs",
    ).run()
