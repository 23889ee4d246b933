import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_datasel import score, select
from hf_datasel.errors import ConfigError, FormatError, ModelError, ScoreError, SelectionError
from hf_datasel.rounds.plan import RoundPlan
from hf_datasel.rounds.selector import Selector
from hf_datasel.scores import IFD
from hf_datasel.scoring.models import model_identity
from hf_datasel.selection import resolve_size
from hf_datasel.selectors import LESS, All, Cherry, DiverseEvol, GraphFilter, Longest, Random, Superfiltering, Top


# -- how many --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("rows", "ratio", "expected"),
    [
        (5200, None, 260),
        (5200, 0.05, 260),
        (1030, 0.05, 51),
        (19, None, 1),
        (5, 0.01, 1),
        (10, 0.3, 3),
        (100, 0.29, 29),  # 0.29 * 100 is 28.999999999999996
        (7, 1, 7),
        (7, 1.0, 7),
        (3, 2 / 3, 2),
    ],
)
def test_ratio_is_rounded_down(rows, ratio, expected):
    assert resolve_size(rows, None, ratio) == expected


def test_size_does_not_depend_on_pool():
    assert resolve_size(10, 25, None) == 25


@pytest.mark.parametrize("size", [0, -3, 2.0, "5", True, [5]])
def test_invalid_size(size):
    with pytest.raises(ConfigError, match=r"size=.* has to be a number of rows, an int of at least 1"):
        resolve_size(10, size, None)


@pytest.mark.parametrize("ratio", [0, 0.0, -0.1, 1.01, 5, "0.05", True, float("nan")])
def test_invalid_ratio(ratio):
    with pytest.raises(ConfigError, match=r"ratio=.* has to be a share of the pool, above 0 and at most 1"):
        resolve_size(10, None, ratio)


def test_size_and_ratio_are_refused(pool_rows):
    with pytest.raises(ConfigError, match=r"size=3 and ratio=0\.5 say the same thing twice"):
        select(pool_rows, Random(), size=3, ratio=0.5)
    with pytest.raises(ConfigError, match=r"selection_size=3 and selection_ratio=0\.5"):
        resolve_size(10, 3, 0.5, names=("selection_size", "selection_ratio"))


def test_ratio_counts_unusable_rows(pool_rows):
    data = pool_rows.select(range(10)).remove_columns("output").add_column("output", ["fine"] * 6 + [""] * 4)
    assert len(select(data, Random(), ratio=0.5).indices) == 5
    assert len(select(data, Random()).indices) == 1


# -- refusals --------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def half_broken(pool_rows):
    data = pool_rows.select(range(6)).remove_columns("output")
    return data.add_column("output", ["fine", "", None, "good", " ", "well"])


@pytest.mark.parametrize(
    ("settings", "asked"), [({"size": 4}, "size=4"), ({"ratio": 0.7}, r"ratio=0\.7 \(4 rows\)")], ids=["size", "ratio"]
)
def test_budget_above_usable_rows(half_broken, settings, asked):
    with pytest.raises(
        SelectionError,
        match=rf"^{asked} is more than the 3 of 6 rows that can be selected \(3 empty_response\)\. Lower it\.$",
    ):
        select(half_broken, Random(), **settings)


def test_budget_above_pool(pool_rows):
    with pytest.raises(
        SelectionError, match=r"^size=25 is more than the 24 of 24 rows that can be selected\. Lower it"
    ):
        select(pool_rows, Random(), size=25)


def test_budget_is_checked_before_scoring(half_broken):
    with pytest.raises(SelectionError, match="size=4 is more than the 3 of 6 rows"):
        select(half_broken, Superfiltering(), size=4, model="/there/is/no/such/model")


@pytest.mark.parametrize("selector", [Random(), All(), Longest()])
def test_no_usable_row(half_broken, selector):
    with pytest.raises(SelectionError, match=r"^None of the 2 rows can be selected \(2 empty_response\)\.$"):
        select(half_broken.select([1, 2]), selector)


@pytest.mark.parametrize("columns", [{"instruction": [], "output": []}, {}])
def test_empty_dataset(columns):
    with pytest.raises(SelectionError, match="The dataset is empty"):
        select(Dataset.from_dict(columns), Random(), size=1)


def test_streaming_dataset_and_splits_are_refused(pool_rows):
    with pytest.raises(FormatError, match="Rows of a streaming dataset have no row numbers: map it with a score"):
        select(pool_rows.to_iterable_dataset(), Random(), size=1)
    with pytest.raises(FormatError, match=r"Pick a split: dataset\['train'\]"):
        select(DatasetDict({"train": pool_rows}), Random(), size=1)


@pytest.mark.parametrize(
    ("rows", "way"),
    [([{"prompt": "a"}], r"Dataset\.from_list\(rows\)"), ({"prompt": ["a"]}, r"Dataset\.from_dict\(rows\)")],
)
def test_rows_in_memory_are_refused(rows, way):
    with pytest.raises(FormatError, match=rf"this is {type(rows).__name__}\. Convert it with datasets\.{way}\.$"):
        select(rows, Random())


@pytest.mark.parametrize("model", [3, {"name": "x"}])
def test_invalid_model(model, pool_rows):
    with pytest.raises(ScoreError, match=r"^model=.* has to be the name or path of a model, or a loaded model"):
        select(pool_rows, Superfiltering(), model=model)


@pytest.mark.parametrize("selector", [Cherry(), DiverseEvol(), LESS(validation="x")])
def test_training_methods_are_refused(selector, pool_rows):
    with pytest.raises(SelectionError, match=r"selects in (2|11) rounds with training between them. Use it in"):
        select(pool_rows, selector, size=5)


@pytest.mark.parametrize("selector", [3, Random, None])
def test_invalid_selector(pool_rows, selector):
    with pytest.raises(ConfigError, match=r"selector has to be a Selector such as Random\(\)"):
        select(pool_rows, selector)


class WarmUp(Selector):
    """Trains on a few rows first."""

    def plan(self, total_budget, num_epochs, pool_size):
        return (RoundPlan(2), RoundPlan(total_budget, num_epochs, restart=True))

    def select(self, context):
        return np.arange(context.budget)


def test_several_rounds_are_refused(pool_rows):
    with pytest.raises(
        SelectionError, match=r"WarmUp selects in 2 rounds .* Use it in SelectiveSFTTrainer\."
    ) as error:
        select(pool_rows, WarmUp(), size=3)
    assert error.value.cli_message.endswith("Use it with hf-datasel train.")


def test_score_without_model(pool_rows):
    with pytest.raises(ScoreError, match=r"IFD has no model to run\. Pass its name or path"):
        select(pool_rows, Superfiltering(), size=1)
    with pytest.raises(ModelError, match="there is no such folder"):
        select(pool_rows, Superfiltering(), size=1, model="/there/is/no/such/model")


def test_score_without_model_is_read_from_a_column_of_the_same_settings(pool_rows, tiny_model_dir):
    subject, model = Top(by=IFD(convention="cherry")), str(tiny_model_dir)
    selection = select(score(pool_rows, [subject.by], model=model), subject, size=5)
    assert selection.indices.tolist() == select(pool_rows, subject, size=5, model=model).indices.tolist()
    assert selection.provenance["columns_verified"] == ["ifd"]
    scored = score(pool_rows, [IFD()], model=model)
    with pytest.raises(ScoreError, match=r"column 'ifd' was computed with .*convention='sft', and not 'cherry'"):
        select(scored, subject, size=5)


class Answers(Selector):
    """Returns whatever it is told to, for the checks on what selectors return."""

    answer = None

    def select(self, context):
        return np.array(self.answer)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([0, 0, 1], "returned 1 rows twice"),
        ([0, 1, 24], "row numbers outside the 24 rows"),
        ([-1, 0, 1], "row numbers outside the 24 rows"),
        ([0, 1, 2, 3], "returned 4 rows for a budget of 3"),
        ([0.5, 1.0, 2.0], "returned float64 of shape"),
        ([[0, 1, 2]], "returned int64 of shape"),
        ([True, False, True], "returned bool of shape"),
        ([3, 4], "returned 2 rows for a budget of 3, and 22 more rows can be selected"),
    ],
)
def test_invalid_row_numbers(pool_rows, monkeypatch, answer, message):
    monkeypatch.setattr(Answers, "answer", answer)
    with pytest.raises(SelectionError, match=message):
        select(pool_rows, Answers(), size=3)


def test_ineligible_row_numbers(half_broken, monkeypatch):
    monkeypatch.setattr(Answers, "answer", [0, 1, 2])
    with pytest.raises(SelectionError, match="returned 2 rows that cannot be trained on"):
        select(half_broken, Answers(), size=3)


# -- scores on the way -----------------------------------------------------------------------------------------------
def test_scores_equal_those_of_score(pool_rows, tiny_model_dir):
    model = str(tiny_model_dir)
    scored = score(pool_rows, [IFD()], model=model)
    by_name = select(pool_rows, GraphFilter(), size=6, model=model)
    live = select(
        pool_rows,
        GraphFilter(),
        size=6,
        model=AutoModelForCausalLM.from_pretrained(model),
        processing_class=AutoTokenizer.from_pretrained(model),
    )
    by_column = select(scored, GraphFilter(quality="ifd"), size=6)
    for column in ("ifd", "loss", "loss_prior"):
        expected = np.array(scored[column][:])
        assert np.allclose(by_name.scores(column), expected, atol=1e-5)
        assert np.allclose(live.scores(column), expected, atol=1e-5)
    assert by_name.indices.tolist() == live.indices.tolist() == by_column.indices.tolist()


def test_model_is_recorded(pool_rows, tiny_model_dir):
    model = str(tiny_model_dir)
    provenance = select(pool_rows, GraphFilter(), size=2, model=tiny_model_dir).provenance
    assert provenance["model"] == {"name": model, "resolved": model_identity(model)}
    named = select(pool_rows, GraphFilter(model=model), size=2).provenance
    assert named["scores"][0]["resolved_model"] == model_identity(model)
    live = AutoModelForCausalLM.from_pretrained(model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    own = select(pool_rows, GraphFilter(), size=2, model=live, processing_class=tokenizer).provenance
    assert own["model"] == {"name": model, "dtype": "torch.float32"}
    assert "model" not in select(pool_rows, Random(), size=2, model=model).provenance
    assert "model" not in select(pool_rows, Longest(), size=2).provenance


def test_unusable_rows_keep_row_numbers(half_broken, tiny_model_dir):
    selection = select(half_broken, GraphFilter(), size=3, model=str(tiny_model_dir))
    assert sorted(selection.indices.tolist()) == [0, 3, 5]
    assert np.isnan(selection.scores("ifd")).tolist() == [False, True, True, False, True, False]


def test_dataset_is_not_modified(pool_rows):
    data = pool_rows.add_column("loss", [float(row) for row in range(24)])
    before = (data.column_names, data[:], data._fingerprint)
    select(data, Top(by="loss"), size=2)
    assert (data.column_names, data[:], data._fingerprint) == before


def test_output_format_is_ignored(pool_rows):
    data = pool_rows.add_column("loss", [float(row % 7) for row in range(24)])
    plain = select(data, Top(by="loss"), size=4)
    for kind in ("numpy", "pandas", "torch"):
        other = select(data.with_format(kind), Top(by="loss"), size=4)
        assert other.indices.tolist() == plain.indices.tolist()
        assert other.overlap(plain) == 1.0
