"""Score Alpaca in 64 tasks, one after the other, on this machine. If it is interrupted, run it again to continue.

    pip install "hf-datasel[scale]"
    python recipes/scale/local.py
    hf-datasel score --dataset_name tatsu-lab/alpaca --scores loss ifd --model_name_or_path Qwen/Qwen3-0.6B \
        --output_dir outputs/alpaca-scores

The last command puts the tables of all tasks together in outputs/alpaca-scores/scored.parquet. It computes what other
settings or rows would make missing: datatrove goes by its marks in `logging_dir` alone. To use several GPUs of one
machine, start that command with torchrun, without the tasks, or see slurm.py and ray_cluster.py.
"""

from datatrove.executor import LocalPipelineExecutor

from hf_datasel.scores import IFD, Loss
from hf_datasel.scoring.datatrove import ScoreShards

step = ScoreShards("tatsu-lab/alpaca", [Loss(), IFD()], "outputs/alpaca-scores", "Qwen/Qwen3-0.6B")

if __name__ == "__main__":  # datatrove imports this file in its workers
    # With more workers that many models are loaded, on the same GPU.
    LocalPipelineExecutor([step], tasks=64, workers=1, logging_dir="outputs/alpaca-scores/logs").run()
