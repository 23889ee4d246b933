"""Every snippet of the README and of the documentation runs, in the order of its page and with nothing else prepared.

The Hub is a local one. It has small datasets and models under the names that the pages use, and the user is `me`.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from datasets import Dataset

from tests.docs.snippets import run_page, snippets
from tests.local_hub import LocalHub, connected

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES_WITH_CODE = [page for page in PAGES if any(snippet.reason is None for snippet in snippets(page))]
SLOW = ("docs/guides/choose-a-method.md", "docs/guides/large-pools.md")
"""Pages that take more than three seconds."""
NOT_RUN = {
    "docs/guides/endpoints.md": ["needs an endpoint"],
    "docs/guides/evaluate.md": ["trains 17 models", "trains 14 models", "reads benchmarks from the Hub"],
    "docs/guides/large-pools.md": ["needs several GPUs", "needs a cluster"],
    "docs/guides/several-processes.md": ["needs several GPUs"],
}
"""Snippets that are not run: pages and reasons."""
SMALLER = {"10_000": "10", "1_000_000": "500", "k=1000": "k=3", "k: 1000": "k: 3", "(512, 1024)": "(2, 3)"}
MODELS = ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-8B", "openai-community/gpt2", "sentence-transformers/all-MiniLM-L6-v2")
REWARD_MODEL = "Skywork/Skywork-Reward-V2-Qwen3-0.6B"


pytestmark = [
    pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw:DeprecationWarning"),  # of huggingface_hub
    pytest.mark.filterwarnings("ignore:Specifying null_placement:FutureWarning"),  # of Dataset.sort
]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def parquet(rows: Dataset) -> bytes:
    content = io.BytesIO()
    rows.to_parquet(content)
    return content.getvalue()


@pytest.fixture(scope="module")
def hub(pool_rows, tiny_model_dir, reward_dir, tmp_path_factory):
    """Yield a local Hub with the datasets and models of the pages."""
    turns = [
        [{"role": "user", "content": f"{row['instruction']} {row['input']}"}]
        + [{"role": "assistant", "content": row["output"]}]
        for row in pool_rows
    ]
    texts = pool_rows["instruction"][:]
    answers = [f"So it is. #### {row}" for row in range(len(pool_rows))]
    sources = ["ai2-adapt-dev/no_robots_converted", "ai2-adapt-dev/oasst1_converted"] * (len(turns) // 2)
    datasets = {
        "allenai/tulu-3-sft-mixture": {
            "data/train-00000-of-00001.parquet": Dataset.from_dict({"messages": turns, "source": sources})
        },
        "tatsu-lab/alpaca": {"data/train-00000-of-00001.parquet": pool_rows},
        "trl-lib/Capybara": {
            "data/train-00000-of-00001.parquet": Dataset.from_dict({"messages": turns[:20]}),
            "data/test-00000-of-00001.parquet": Dataset.from_dict({"messages": turns[20:]}),
        },
        "openai/gsm8k": {
            f"main/{split}-00000-of-00001.parquet": Dataset.from_dict(
                {"question": [f"{text} How many are there, if one comes a day?" for text in texts], "answer": answers}
            )
            for split in ("train", "test")
        },
    }
    card = b"---\nconfigs:\n- config_name: main\n  data_files:\n  - {split: train, path: main/train-*}\n"
    card += b"  - {split: test, path: main/test-*}\n---\n"
    with LocalHub() as hub:
        hub.token = hub.add_token("me")
        for repo, files in datasets.items():
            hub.commit(repo, {path: parquet(rows) for path, rows in files.items()})
        hub.commit("openai/gsm8k", {"README.md": card})
        for repo, folder in (*((model, tiny_model_dir) for model in MODELS), (REWARD_MODEL, Path(reward_dir))):
            hub.commit(repo, {path.name: path.read_bytes() for path in folder.iterdir()}, repo_type="model")
        with connected(hub, tmp_path_factory.mktemp("home")):
            yield hub


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Work in an empty folder, without a GPU, which the pages assume, without progress bars and drawing."""
    from transformers import TrainingArguments

    original = TrainingArguments.__post_init__

    def without_gpu(self):
        self.use_cpu, self.bf16, self.disable_tqdm, self.report_to = True, False, True, "none"
        original(self)

    monkeypatch.setattr(TrainingArguments, "__post_init__", without_gpu)
    monkeypatch.setattr("hf_datasel.hub.retry.WAIT", 0.01)
    for module in ("repository_files", "report"):
        monkeypatch.setattr(f"hf_datasel.cards.{module}.png", lambda *_: b"\x89PNG")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # as Python does for scripts of the current folder
    modules = set(sys.modules)
    yield
    for module in set(sys.modules) - modules:
        if module.startswith("my_"):
            del sys.modules[module]


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=name(page), marks=[pytest.mark.slow] * (name(page) in SLOW)) for page in PAGES_WITH_CODE],
)
def test_snippets_run(page, hub, here):
    run_page(page, SMALLER)


def test_snippets_that_are_not_run():
    reasons = {}
    for page in PAGES:
        if found := [snippet.reason for snippet in snippets(page) if snippet.reason]:
            reasons[name(page)] = found
    assert reasons == NOT_RUN
