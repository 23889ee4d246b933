"""Score Alpaca in 64 tasks of a Ray cluster, one GPU each. The folder outputs has to be visible to all nodes.

    pip install "hf-datasel[scale]" "ray[default]"
    python recipes/scale/ray_cluster.py
    hf-datasel score --dataset_name tatsu-lab/alpaca --scores loss ifd --model_name_or_path Qwen/Qwen3-0.6B \
        --output_dir outputs/alpaca-scores

Run it on a node of the cluster (`ray start`), or on a single machine, where Ray starts by itself; run it again to
continue what failed or was killed. The last command puts the tables of all tasks together in
outputs/alpaca-scores/scored.parquet.
"""

import ray
from datatrove.executor import RayPipelineExecutor

from hf_datasel.scores import IFD, Loss
from hf_datasel.scoring.datatrove import ScoreShards

step = ScoreShards("tatsu-lab/alpaca", [Loss(), IFD()], "outputs/alpaca-scores", "Qwen/Qwen3-0.6B")

if __name__ == "__main__":
    ray.init()
    RayPipelineExecutor(
        [step],
        tasks=64,
        gpus_per_task=1,
        cpus_per_task=4,
        mem_per_cpu_gb=4,
        logging_dir="outputs/alpaca-scores/logs",
    ).run()
