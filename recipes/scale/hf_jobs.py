"""Score Alpaca in 64 tasks, eight in each of eight jobs of Hugging Face, and collect the tables in a bucket.

    pip install "hf-datasel[scale]" "datatrove>=0.10"
    hf auth login
    python recipes/scale/hf_jobs.py
    hf buckets sync hf://buckets/me/alpaca-scores/scores outputs/alpaca-scores/scores
    hf-datasel score --dataset_name tatsu-lab/alpaca --scores loss ifd --model_name_or_path Qwen/Qwen3-0.6B \
        --output_dir outputs/alpaca-scores

Replace `me` by your name on the Hub; the bucket is created, and private. This machine waits for the jobs. To continue
what failed, run it again when no job is running: tasks that are done are not started, and one that was killed starts
again, so that many small tasks lose little. The last command puts the tables together in
outputs/alpaca-scores/scored.parquet.
"""

from datatrove.executor import JobsPipelineExecutor

from hf_datasel.scores import IFD, Loss
from hf_datasel.scoring.datatrove import ScoreShards

step = ScoreShards("tatsu-lab/alpaca", [Loss(), IFD()], "hf://buckets/me/alpaca-scores", "Qwen/Qwen3-0.6B")

if __name__ == "__main__":
    JobsPipelineExecutor(
        [step],
        tasks=64,
        tasks_per_job=8,
        flavor="l4x1",
        timeout="2h",
        dependencies=["hf-datasel[scale]", "datatrove>=0.10"],
        job_name="score-alpaca",
        logging_dir="hf://buckets/me/alpaca-scores/logs",
    ).run()
