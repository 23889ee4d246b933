"""Experiments on the quickstart's world: plan, runs, kills, several processes, changed settings, and what is said."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from datasets import Dataset

from hf_datasel import Selection, load_pool, select
from hf_datasel.cards import pull_evaluation
from hf_datasel.cards.report import read_results
from hf_datasel.cli import main
from hf_datasel.errors import ConfigError, EvaluationError, FormatError, ModelError
from hf_datasel.evaluation import Experiment, HeldoutLoss, compare_with_control
from hf_datasel.evaluation.cells import Cell
from hf_datasel.scores import Compressibility, Length
from hf_datasel.selectors import Top

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart"
METHODS = ("untrained", "random", "iterit", "all", "longest")
SEEDS = 2
FEW = 128  # questions, where only the course of an experiment counts

pytestmark = pytest.mark.usefixtures("warm_python")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The files of the experiments: pool, questions, and settings."""
    sys.path.insert(0, str(QUICKSTART))
    try:
        from world import pool, questions
    finally:
        sys.path.remove(str(QUICKSTART))
    folder = tmp_path_factory.mktemp("world")
    pool(0, size=1000).to_parquet(folder / "pool.parquet")
    prompts, answers = zip(*questions(), strict=True)
    relation = [prompt.split()[1] for prompt in prompts]
    rows = Dataset.from_dict({"prompt": prompts, "completion": answers, "relation": relation})
    rows.to_parquet(folder / "questions.parquet")
    rows.shuffle(seed=1).select(range(FEW)).to_parquet(folder / "few.parquet")
    return folder


def settings(world, output, questions="questions", **changes):
    return {
        "model_name_or_path": str(QUICKSTART / "base"),
        "dataset_name": str(world / "pool.parquet"),
        "train": {
            "selection_ratio": 0.1,
            "num_train_epochs": 3,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "linear",
            "per_device_train_batch_size": 32,
            "max_length": 64,
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "disable_tqdm": True,
            "model_init_kwargs": {"dtype": "float32"},
        },
        "methods": ["iterit", "all"],
        "baselines": ["random", "longest", "untrained"],
        "seeds": SEEDS,
        "random_seeds": SEEDS,
        "suite": [
            {
                "questions": {
                    "task": "exact_match",
                    "dataset_name": str(world / f"{questions}.parquet"),
                    "max_new_tokens": 6,
                    "normalization": {"ignore_punctuation": True},  # the tokenizer puts a space before it
                }
            },
            {"heldout": {"dataset_name": str(world / f"{questions}.parquet"), "max_length": 64}},
        ],
        "primary": "questions",
        "margin": 5.0,
        "decontaminate": False,  # prompts of this world repeat each other
        "output_dir": str(output),
        **changes,
    }


def small(world, output, questions="few", **changes):
    """The settings of two methods with two runs each."""
    runs = {"methods": ["all"], "baselines": ["random"], "seeds": 2, "random_seeds": 2}
    return settings(world, output, questions, **runs, **changes)


RUN = """
import json, sys
from hf_datasel.evaluation import Experiment
values, first, parts = json.load(open(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
Experiment(**values).run((first, parts), progress=lambda line: None)
"""


def start(values, shard=(0, 1)):
    """Start a process that does the runs of an experiment."""
    folder = Path(values["output_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "values.json").write_text(json.dumps(values))
    command = [sys.executable, "-c", RUN, str(folder / "values.json"), *map(str, shard)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(values, shard=(0, 1)):
    """Do the runs of an experiment that are left, and return its results."""
    return Experiment(**values).run(shard, progress=lambda line: None)


def bench(folder, values, capsys, *flags):
    """Run `hf-datasel bench`, and return its exit code and what it printed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    code = main(["bench", "--config", str(folder / "bench.yaml"), *flags])
    return code, capsys.readouterr()


def kill_when(process, happened):
    """Kill a process as soon as something has happened, which it does not get to prepare for."""
    limit = time.monotonic() + 600  # for a busy machine
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < limit
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def trainings(folder):
    """Return how often the training of each run was started."""
    logs = sorted((folder / "cells").glob("*/train.log"))
    return {log.parent.name: log.read_text().count("$ hf-datasel train") for log in logs}


def numbers(results):
    """Return what the runs of an experiment measured, without how long they took."""
    return {(run.method, run.seed): (run.state, run.numbers, run.steps) for run in results.runs}


# -- the miniature: 4 methods x 2 seeds, killed in the middle --------------------------------------------------------
@pytest.fixture(scope="module")
def miniature(world):
    folder = world / "miniature"
    values = settings(world, folder)
    kill_when(start(values), lambda: len(list((folder / "cells").glob("*/trained.json"))) == 5)
    before = {file: file.stat().st_mtime_ns for file in (folder / "cells").glob("*/trained.json")}
    results = run(values)
    results.save()
    return folder, before, results


def test_what_was_done_before_a_kill_is_kept(miniature):
    folder, before, _ = miniature
    assert {file: file.stat().st_mtime_ns for file in before} == before
    counts = trainings(folder)
    assert len(counts) == 4 * SEEDS
    assert sorted(counts.values())[-1] <= 2  # the one that was killed
    assert sum(counts.values()) <= 4 * SEEDS + 1


def test_the_table_has_every_method_with_its_interval(miniature):
    folder, _, results = miniature
    table = (folder / "results.md").read_text()
    assert table == results.to_markdown() == Experiment.from_folder(folder).gather().to_markdown()
    assert results.methods == list(METHODS)
    differences = compare_with_control(
        {name: results.values(name) for name in ("iterit", "all", "longest")}, results.values("random")
    )
    for name, each in differences.items():
        cell = f"{each['difference']:+.2f} [{each['low']:.2f}, {each['high']:.2f}]"
        is_bold = each["low"] > 0 or each["high"] < 0
        assert re.search(rf"^\| {name} \|.*\| {re.escape(f'**{cell}**' if is_bold else cell)} \|", table, re.MULTILINE)
    assert "a true difference of" in table
    assert f"{4 * SEEDS} runs planned, {4 * SEEDS} finished" in table
    assert results.values("iterit") > results.values("random")


def test_the_untrained_model_is_that_of_the_quickstart(miniature):
    _, _, results = miniature
    assert results.values("untrained") == [25.390625]  # recipes/quickstart/world.py: exact_match of the base model


def test_seeds_move_the_draw_of_random_rows_and_steps_are_equal(miniature):
    folder, _, results = miniature
    drawn = [
        np.load(folder / run.folder / "model" / "selections" / "round-0" / "indices.npy")
        for run in results.runs_of("random")
    ]
    assert not np.array_equal(drawn[0], drawn[1])
    assert {run.steps for run in results.runs if run.method != "untrained"} == {12}
    assert len(set(results.values("random", "heldout"))) == SEEDS
    assert len(set(results.values("all", "heldout"))) == SEEDS


def test_all_models_answer_for_themselves(miniature):
    """Every file of results is of the weights in the folder beside it, and no two are equal."""
    folder, _, _ = miniature
    files = sorted((folder / "cells").glob("*/evaluations/heldout-*.parquet"))
    results = [HeldoutLoss.load(file) for file in files]
    assert len({each.settings["model"]["identity"]["weights"] for each in results}) == 4 * SEEDS + 1
    assert len({each.nats.tobytes() for each in results}) == 4 * SEEDS + 1


def test_results_for_cards(miniature):
    folder, _, _ = miniature
    own, *others = read_results(str(folder / "results" / "iterit.json"))
    assert (own["trained_on"], own["versus"], own["runs"], own["items"]) == (
        "this selection",
        "random rows",
        SEEDS,
        512,
    )
    assert own["low"] < own["difference"] < own["high"]
    assert {"random rows", "the whole pool", "the untrained model"} < {each["trained_on"] for each in others}
    heldout = [each for each in others if each["metric"] == "bits_per_byte"]
    assert heldout
    assert not any(each["higher_is_better"] for each in heldout)


def test_plots_are_written(miniature):
    folder, _, _ = miniature
    assert (folder / "forest.png").read_bytes().startswith(b"\x89PNG")


def test_gather_refuses_other_settings(miniature, world):
    folder, _, _ = miniature
    changed = settings(world, folder)
    changed["train"] = {**changed["train"], "learning_rate": 2e-3}
    with pytest.raises(EvaluationError, match=r"begun with other settings: train .*0\.001.* -> .*0\.002"):
        Experiment(**changed).gather()


def test_gather_refuses_runs_with_other_versions(miniature):
    folder, _, _ = miniature
    file = next((folder / "cells").glob("random-seed-1-*/trained.json"))
    text = file.read_text()
    record = json.loads(text)
    record["versions"]["trl"] = "0.1"
    file.write_text(json.dumps(record))
    try:
        with pytest.raises(
            EvaluationError, match=r"random-seed-1-\w+ was trained with other versions.*trl .* -> 0\.1"
        ):
            Experiment.from_folder(folder).gather()
        with pytest.raises(EvaluationError, match=r"was trained with other versions: trl 0\.1 -> "):
            Experiment.from_folder(folder).prepare()
    finally:
        file.write_text(text)


# -- kills -----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def reference(world):
    """The runs of two methods that nothing interrupts, from a YAML file."""
    values = small(world, world / "reference")
    (world / "reference.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    assert main(["bench", "--config", str(world / "reference.yaml")]) == 0
    return Experiment.from_folder(world / "reference").gather()


MOMENTS = {
    "in training": lambda folder: any(
        (folder / "cells").glob("random-seed-1*/model/selections/round-0/selection.json")
    ),
    "between": lambda folder: any((folder / "cells").glob("random-seed-1*/trained.json")),
    "in evaluation": lambda folder: any((folder / "cells").glob("random-seed-1*/eval.log")),
    "after the first task": lambda folder: any((folder / "cells").glob("random-seed-1*/evaluations/questions*")),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_changes_nothing(world, reference, moment, tmp_path):
    folder = tmp_path / "out"
    values = small(world, folder)
    kill_when(start(values, (2, 4)), lambda: MOMENTS[moment](folder))
    results = run(values, (2, 4))
    finished = {key: value for key, value in numbers(results).items() if value[0] == "finished"}
    assert finished == {("random", 1): numbers(reference)["random", 1]}
    assert list(trainings(folder).values()) == [2 if moment == "in training" else 1]


@pytest.mark.slow
def test_two_processes_share_the_runs(world, reference, tmp_path):
    folder = tmp_path / "out"
    values = small(world, folder)
    processes = [start(values), start(values)]
    outputs = [process.communicate()[0] for process in processes]
    assert sorted(trainings(folder).values()) == [1, 1, 1, 1], outputs
    assert numbers(Experiment(**values).gather()) == numbers(reference)


# -- parts, failures and changes -------------------------------------------------------------------------------------
def test_the_plan_says_what_is_done_and_seen(world, tmp_path):
    plan = Experiment(**settings(world, tmp_path, sd=1.5)).plan()
    text = plan.to_text()
    assert [each.steps for each in plan.methods] == [12, 12, 12, 12]
    assert f"{4 * SEEDS + 1} runs, each evaluated on: questions (512 items), heldout (512 items)." in text
    assert f"{plan.detectable * 1.5:.3g} with a standard deviation of 1.5 as expected" in text
    assert not (tmp_path / "cells").exists()


def test_the_plan_has_bounds_for_rows_that_only_filters_know(world, tmp_path):
    short = {"filters": [{"filter": "in_range", "by": {"score": "length"}, "high": 3}], "then": {"selector": "all"}}
    chain = {"selector": "chain", "selector_kwargs": short}
    methods = [{"short": chain}, {"limited": {**chain, "train": {"max_steps": 5}}}, "all"]
    plan = Experiment(**{**settings(world, tmp_path), "methods": methods, "baselines": ["random"]}).plan()
    random, short, limited, everything = plan.methods
    assert (everything.steps, everything.rows_at_most) == (random.steps, False), "as many as a method of a known size"
    assert (short.rows, short.steps, short.rows_at_most, short.steps_at_most) == (1000, 96, True, True)
    assert (limited.rows, limited.steps, limited.rows_at_most, limited.steps_at_most) == (1000, 5, True, False)
    text = " ".join(plan.to_text().split())
    assert f"| ≤ 1,000 | ≤ 96 | ≤ {short.tokens:,} |" in text
    assert f"| ≤ 1,000 | 5 | {limited.tokens:,} |" in text
    assert "How many rows the filters keep is known when they have run (short, limited)." in text
    assert "Training takes at most " in text
    with pytest.raises(ConfigError, match=r"cannot tell the number of updates .* filters that keep an unknown number"):
        Experiment(**{**settings(world, tmp_path), "methods": [methods[0], "all"], "baselines": []}).plan()


def test_parts_that_start_in_other_folders_have_the_same_rows(world, tmp_path, monkeypatch):
    """A relative path is one in the current folder, and never names two pools of one experiment."""
    values = {**small(world, tmp_path / "out"), "dataset_name": "pool.parquet"}
    monkeypatch.chdir(world)
    Experiment(**values).prepare().begin()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FormatError, match=f"no file or folder 'pool.parquet' in the current folder '{tmp_path}'"):
        Experiment(**values).prepare()
    pool = Dataset.from_parquet(str(world / "pool.parquet"))
    pool.to_parquet("pool.parquet")
    Experiment(**values).prepare()
    pool.select(range(500)).to_parquet("pool.parquet")
    message = (
        f"The pool 'pool.parquet' is not what the experiment was begun with: id .* -> .*; rows 1000 -> 500.*{tmp_path}"
    )
    with pytest.raises(EvaluationError, match=message):
        Experiment(**values).prepare()


def test_runs_without_the_record_of_their_settings(tmp_path):
    (tmp_path / "cells" / "random-seed-0").mkdir(parents=True)
    with pytest.raises(EvaluationError, match="no experiment has begun there"):
        Experiment.from_folder(tmp_path)
    (tmp_path / "cells" / "random-seed-0" / "trained.json").write_text("{}")
    with pytest.raises(EvaluationError, match=r"no experiment\.json, but runs in cells, .* Copy it back"):
        Experiment.from_folder(tmp_path)


def test_flags_of_the_command_line(world, reference, tmp_path, capsys):
    folder, done = tmp_path / "out", world / "reference"
    assert bench(folder, small(world, folder), capsys, "--list")[1].out.split("\n")[:-1] == [
        f"--shard {number}/4" for number in (1, 2, 3, 4)
    ]
    assert bench(done, small(world, done), capsys, "--list")[1].out.strip() == ""
    code, printed = bench(folder, small(world, folder), capsys, "--plan")
    assert code == 0
    assert f"4 runs, each evaluated on: questions ({FEW} items), heldout ({FEW} items)." in printed.out
    assert not (folder / "cells").exists()
    code, printed = bench(done, small(world, done), capsys, "--gather")
    assert code == 0
    assert reference.to_markdown() in printed.out


def test_runs_at_equal_cost_are_listed_when_the_others_have_finished(world, reference, tmp_path):
    folder = tmp_path / "out"
    experiment = Experiment(**small(world, folder, equal=["steps", "cost"]))
    experiment.prepare().begin()
    assert "- random at equal cost: not begun. Run the experiment again" in experiment.gather().to_markdown()
    shutil.rmtree(folder)
    shutil.copytree(world / "reference", folder)
    assert experiment.unfinished() == ["--shard 1/4", "--shard 2/4"]


def test_weights_of_a_mix_are_tried(world, tmp_path):
    parts = [{"score": "length"}, {"score": "compressibility"}]
    grid = {"score": "mix", "by": parts, "weights": {"steps": 1}}
    values = small(world, tmp_path / "out") | {"methods": [{"top": {"by": grid}}], "baselines": [], "seeds": 1}
    results = run(values | {"suite": values["suite"][1:], "primary": "heldout"})
    assert results.methods == ["top (length 0, compressibility 1)", "top (length 1, compressibility 0)"]
    pool = load_pool(str(world / "pool.parquet"))
    for name, by in zip(results.methods, (Compressibility(), Length()), strict=True):
        (cell,) = results.runs_of(name)
        trained = np.load(tmp_path / "out" / cell.folder / "model" / "selections" / "round-0" / "indices.npy")
        assert trained.tolist() == select(pool, Top(by=by), ratio=0.1).indices.tolist()
    best = min(results.methods, key=lambda name: results.values(name)[0])
    said = results.to_markdown().replace("\\", "")
    assert f"of 2 that were tried, those of {best} have the lowest heldout" in said
    assert "on a second held-out set" in said


def test_a_margin_of_after_the_runs_is_said(world, reference, tmp_path):
    assert "a margin of 5, which was named before the runs" in reference.to_markdown()
    folder = tmp_path / "out"
    shutil.copytree(world / "reference", folder)
    for margin in (20.0, 15.0):
        experiment = Experiment(**small(world, folder, margin=margin))
        experiment.prepare().begin()
        table = experiment.gather().to_markdown()
        assert re.search(rf"- Changed after the first run had been trained: margin 5\.0 \S+ {margin}\.", table)
        assert f"a margin of {margin:g}, which was not named before the runs" in table


def test_a_run_that_fails_is_a_row(world, tmp_path, capsys):
    """A method whose rows do not suffice ends with its message, and the others go on."""
    folder = tmp_path / "out"
    values = small(world, folder)
    values["methods"] = [{"huge": {"selector": "random", "train": {"selection_size": 100_000}}}]
    values |= {"seeds": 1, "random_seeds": 1}
    code, printed = bench(folder, values, capsys)
    assert code == 2
    assert "- huge: 0 of 1 planned runs finished; an interval needs at least 2." in printed.out
    assert re.search(r"- huge, seed 0: failed: .*selection_size=100000 is more than", printed.out)
    assert "error: 1 of 2 runs failed. See the log in cells/huge-seed-0-" in printed.err


def test_the_record_of_a_failure_is_of_the_last_attempt(tmp_path):
    class Failing:
        process = os.getpid()

        def run(self, argv, log, launcher=()):
            with log.open("a") as file:
                file.write("Out of memory\n")
            return 1

    cell = Cell("huge", 0, tmp_path / "cell", {"selector": "all"}, {})
    for _ in range(2):
        assert cell.run(Failing(), {}, {}) == "failed"
        assert cell.failure["log"] == "Out of memory"


def test_other_shots_are_evaluated_again_and_never_mixed(world, reference, tmp_path):
    """Settings of a task that change give another file, and results with the old ones are refused."""
    folder = tmp_path / "out"
    shutil.copytree(world / "reference", folder)
    changed = small(world, folder)
    changed["suite"][1]["heldout"]["max_length"] = 48
    experiment = Experiment(**changed)
    prepared = experiment.prepare()
    prepared.begin()
    with pytest.raises(EvaluationError, match=r"evaluated on heldout with other settings.*max_length 64 -> 48"):
        experiment.gather()


# -- what is refused before work -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["iterti"]}, "There is no selector 'iterti'. Did you mean 'iterit'"),
        ({"methods": ["iterit", "iterit"]}, "two of them have the name 'iterit'. Give one a label"),
        ({"methods": [{"mine": {"selector": "iterit", "seeds": 3}}]}, "'mine' has the key 'seeds'"),
        ({"train": {"learning_rat": 1}}, "train: unknown key 'learning_rat'. Did you mean 'learning_rate'"),
        ({"train": {"seed": 1}}, "train: 'seed' is set by the experiment. Use seeds."),
        ({"train": {"num_train_epochs": "many"}}, "train"),
        ({"seeds": 0}, "seeds=0 has to be a number of runs"),
        ({"seeds": [1, 1]}, "a list of different seeds"),
        ({"seeds": 2.5}, "seeds=2.5 has to be a number of runs"),
        ({"methods": [{"random": {"selector": "longest"}}]}, "'random' is the name of a baseline"),
        ({"methods": [{"untrained": {"selector": "all"}}]}, "'untrained' is the name of a baseline"),
        (
            {"methods": [{"A b": {"selector": "all"}}, {"a-b": {"selector": "iterit"}}]},
            "have the same file name, 'a-b'",
        ),
        ({"train": {"max_length": "64a"}}, "train: max_length='64a' is not valid"),
        ({"train": {"bf16": "nope"}}, "train: bf16='nope' is not valid"),
        ({"train": {"learning_rate": [1]}}, "train: learning_rate=[1] is not valid"),
        ({"train": {"use_peft": True, "lora_r": "four"}}, "train: lora_r='four' is not valid"),
        ({"baselines": "random"}, "baselines='random' has to be a list"),
        ({"launcher": "accelerate launch"}, "launcher='accelerate launch' has to be a list"),
        ({"num_processes": 0}, "num_processes=0 has to be 1 or more"),
        ({"margin": -1.0}, "margin=-1.0 has to be above 0"),
        ({"eval_dtype": "bf17"}, "dtype='bf17': it has to be 'auto'"),
        ({"suite": [{"mine": {"task": "exactmatch", "dataset_name": "x"}}]}, "Did you mean 'exact_match'?"),
        ({"equal": ["step"]}, "equal=['step'] has 'step': it has to be 'steps' or 'cost'. Did you mean 'steps'?"),
        ({"train": {"lr_scheduler_type": "cosin"}}, "train: lr_scheduler_type='cosin'"),
        ({"train": {"lr_scheduler_type": "cosin"}}, "Did you mean 'cosine'?"),
        ({"train": {"logging_strategy": False}}, 'YAML reads no as false: write "no", with quotes.'),
        (
            {"primary": "question"},
            "primary='question' is none of the tasks: questions, heldout. Did you mean 'questions'?",
        ),
        ({"primary": None}, "have different units, so that their average means nothing"),
        ({"decontaminate": {"m": 3}}, "decontaminate has no setting 'm'"),
        ({"suite": [{"heldout": {"dataset_name": "none.jsonl"}}], "primary": None}, "cannot be loaded"),
        ({"dataset_name": "none.jsonl"}, "There is no file or folder 'none.jsonl'"),
        ({"model_name_or_path": "./none"}, "none"),
    ],
    ids=str,
)
def test_errors_before_any_work(world, tmp_path, changes, message):
    with pytest.raises((ConfigError, EvaluationError, ValueError), match=re.escape(message)):
        Experiment(**settings(world, tmp_path / "out", **changes)).prepare()
    assert not (tmp_path / "out").exists()


def test_more_tokens_than_the_model_supports_are_refused(world, tmp_path):
    values = settings(world, tmp_path)
    del values["suite"][1]["heldout"]["max_length"]
    with pytest.raises(ModelError, match=r"heldout\(max_length=1024\) is more than the 128 tokens"):
        Experiment(**values).prepare()


def test_settings_of_decontamination_and_a_suite_that_is_a_mapping(world, tmp_path, capsys):
    values = small(world, tmp_path, decontaminate={"n": 40, "threshold": 0.5})
    values["suite"] = {name: task for entry in values["suite"] for name, task in entry.items()}
    code, printed = bench(tmp_path, values, capsys, "--plan")
    assert code == 0
    assert f"questions ({FEW} items), heldout ({FEW} items)" in printed.out
    assert "0 of 1,000 rows are contaminated" in printed.out
    cell = Experiment(**values).prepare().cells()[0]
    assert cell.evaluation["suite"] == values["suite"]


def test_held_out_rows_in_the_pool_are_refused(world, tmp_path):
    values = settings(world, tmp_path, dataset_name=str(world / "questions.parquet"))
    with pytest.raises(EvaluationError, match=r"512 of 512 held-out rows of the task 'questions' are in the pool"):
        Experiment(**values).prepare()


# -- decontamination -------------------------------------------------------------------------------------------------
def test_rows_that_repeat_questions_are_excluded_from_all_runs(world, tmp_path):
    folder = tmp_path / "out"
    values = small(world, folder, "questions")
    values |= {"decontaminate": True, "seeds": 1, "random_seeds": 1}
    results = run(values)
    assert [each.state for each in results.runs] == ["finished", "finished"]
    excluded = results.record["pool"]["contaminated"]["rows"]
    assert excluded > 50
    assert f"{excluded:,} of 1,000 rows are contaminated" in results.to_markdown()
    (folder_of_round,) = (folder / "cells").glob("random-seed-0-*/model/selections/round-0")
    counts = Selection.load(folder_of_round).provenance["exclusions"]
    assert sum(counts.values()) == excluded
    assert all(reason.startswith("contaminated with") for reason in counts)
    (whole,) = (folder / "cells").glob("all-seed-0-*/model/selections/round-0/indices.npy")
    assert len(np.load(whole)) == 1000 - excluded


# -- from a YAML file to the Hub and back ----------------------------------------------------------------------------
def test_results_come_back_from_the_hub(world, reference, local_hub, monkeypatch):
    monkeypatch.setattr("hf_datasel.cards.repository_files.png", lambda *_: b"")
    folder = world / "reference"
    (model,) = (folder / "cells").glob("all-seed-0-*/model")
    command = ["push", "--selection", str(model), "--repo_id", "tester/all"]
    command += ["--dataset_name", str(world / "pool.parquet"), "--results", str(folder / "results" / "all.json")]
    assert main([*command, "--items", str(folder / "cells")]) == 0

    published = pull_evaluation("tester/all")
    assert published.results == read_results(str(folder / "results" / "all.json"))
    assert published.results[0]["values"] == reference.values("all")
    assert len(published.items) == 4 * 2
    for each in reference.runs:
        for task in reference.tasks:
            file = each.files[task.name].removeprefix("cells/").removesuffix(".parquet")
            here, there = folder / each.files[task.name], published.items[file]
            assert np.array_equal(task.results_type.load(here).values, task.results_type.load(there).values)
            assert task.numbers(task.results_type.load(there))[task.name] == each.numbers[task.name]
    selected = Selection.load(model / "selections" / "round-0").indices
    assert np.array_equal(Selection.from_hub("tester/all").indices, selected)
    card = local_hub.files("tester/all")["README.md"].decode()
    assert f"{published.results[0]['value']:.2f}" in card
