"""Selections held against each other: every number by hand, and plots that hold many of them."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from datasets import Dataset

from hf_datasel import Selection, select
from hf_datasel.analysis import (
    compare,
    draw_compared,
    draw_coverage,
    draw_jaccard,
    names_of,
    near_duplicates as near_copies,
)
from hf_datasel.errors import ColumnError, ConfigError, DataselError, DatasetMismatchError, SelectionError
from hf_datasel.selectors import All, Longest, Random, Superfiltering, Top

ANSWERS = ["one", "one two", "one two three", "one two", "a b c d", "one two", " ", "a b c d e f"]
CLUSTERS = [0, 0, 1, 1, 2, 2, 3, None]
VECTORS = [[1, 0], [2, 0.1], [0, 1], [0, -1], [-1, 0], [1e-30, 0], [1, 1], None]


@pytest.fixture
def rows():
    """Give eight rows: 3 and 5 are equal, 6 is empty, and 0, 1 and 5 point in about the same direction."""
    prompts = ["p q", "p", "p", "same", "p", "same", "p", "p"]
    return Dataset.from_dict(
        {
            "prompt": prompts,
            "completion": ANSWERS,
            "cluster_id": CLUSTERS,
            "embedding": VECTORS,
            "ifd": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, None, 0.8],
            "source": ["a", "a", "b", "b", None, "c", "c", "c"],
        }
    )


def chosen(data: Dataset, *at: int, seed: int = 0, **columns) -> Selection:
    """Make a selection of these rows, with columns in its table."""
    made = select(data, Random(), size=len(at), seed=seed)
    for name, values in columns.items():
        made.table = made.table.append_column(name, [values])
    made.indices = np.array(at)
    return made


def test_facts_by_hand(rows):
    found = compare({"a": chosen(rows, 5, 0, 3), "b": chosen(rows, 4, 7)})
    assert found["counted"] == {"unit": "words", "source": "prompt and response"}
    one, other = found["selections"]
    assert (one["name"], one["rows"], one["size"], one["duplicates"]) == ("a", 3, 9, 2)
    assert (one["words_mean"], one["words_median"]) == (pytest.approx(5 / 3, rel=1e-5), 2)
    assert (other["rows"], other["size"], other["duplicates"], other["words_mean"]) == (2, 12, 0, 5)
    assert (found["pool"]["rows"], found["pool"]["size"], found["pool"]["duplicates"]) == (8, 28, 2)
    assert one["coverage"] == {"column": "cluster_id", "clusters": 4, "covered": 3, "effective": 3.0}
    assert other["coverage"] == {"column": "cluster_id", "clusters": 4, "covered": 1, "effective": 1.0}
    assert found["pool"]["coverage"]["effective"] == pytest.approx(np.exp(3 * 2 / 7 * np.log(7 / 2) + np.log(7) / 7))
    assert found["dataset"]["rows"] == 8
    assert found["failed"] == []
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_near_copies_by_hand(rows):
    found = compare({"a": chosen(rows, 5, 0, 3, 4), "b": chosen(rows, 2, 3), "none": chosen(rows, 7)})
    near = [each["near_copies"] for each in found["selections"]]
    # rows 5 and 0 point in the same direction, and row 7 has no vector
    assert near[0] == {"column": "embedding", "threshold": 0.9, "share": 0.5, "asked": 4, "sampled": False}
    assert near[1]["share"] == 0
    assert near[2] is None
    assert compare({"a": chosen(rows, 0, 6)}, threshold=0.7)["selections"][0]["near_copies"]["share"] == 1


def test_near_copies_in_blocks_and_of_some_rows(monkeypatch):
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(40, 3))
    vectors[rng.integers(0, 40, 12)] = vectors[7]
    data = Dataset.from_dict({"prompt": ["p"] * 40, "completion": ["c"] * 40, "embedding": vectors.tolist()})
    at = rng.permutation(40)[:31]
    units = vectors[at] / np.linalg.norm(vectors[at], axis=1, keepdims=True)
    cosines = units @ units.T
    np.fill_diagonal(cosines, -1)
    near = (cosines > 0.9).any(axis=1)
    made = {"a": chosen(data, *at)}
    whole = compare(made)["selections"][0]["near_copies"]
    assert whole["share"] == pytest.approx(near.mean(), rel=1e-5)
    monkeypatch.setattr(near_copies, "_BLOCK", 4)
    assert compare(made)["selections"][0]["near_copies"] == whole
    monkeypatch.setattr(near_copies, "_PAIRS", 31 * 10)
    monkeypatch.setattr(near_copies, "_ASKED", 5)
    some = compare(made)["selections"][0]["near_copies"]
    picked = np.linspace(0, 30, 10).astype(int)
    assert some == {**whole, "asked": 10, "sampled": True, "share": pytest.approx(near[picked].mean())}


@pytest.mark.parametrize("threshold", [0.96, 1.0])
def test_only_a_cosine_above_the_threshold_makes_a_near_copy(threshold):
    vectors = np.random.default_rng(4).normal(size=(50, 7))
    vectors = np.concatenate([vectors, vectors]) if threshold == 1 else np.array([[3, 4], [4, 3]])  # 24 / 25
    count = len(vectors)
    data = Dataset.from_dict({"prompt": ["p"] * count, "completion": ["c"] * count, "embedding": vectors.tolist()})
    made = {"a": chosen(data, *range(count))}
    assert compare(made, threshold=threshold)["selections"][0]["near_copies"]["share"] == 0
    assert compare(made, threshold=threshold - 1e-6)["selections"][0]["near_copies"]["share"] == 1


def test_overlap_is_held_against_chance(rows):
    found = compare({"a": chosen(rows, 0, 1, 2, 3), "b": chosen(rows, 3, 4)})
    assert found["overlap"]["matrix"] == [[1, 0.2], [0.2, 1]]
    assert found["chance"] == [[1, 0.2], [0.2, 1]]  # one row in both of five in either
    even = compare({"a": chosen(rows, 0, 1), "b": chosen(rows, 2, 3)})
    assert even["chance"][0][1] == even["overlap"]["chance"]


def test_tokens_come_from_a_column_or_a_tokenizer(rows, tiny_model_dir):
    counted = rows.add_column("num_tokens", [10, 20, 30, 40, 50, 60, None, 80])
    found = compare({"a": chosen(counted, 1, 2)})
    assert found["counted"] == {"unit": "tokens", "source": "column num_tokens"}
    assert (found["selections"][0]["size"], found["pool"]["size"]) == (50, 290)
    in_table = compare({"a": chosen(rows, 1, 2, num_tokens=list(range(8))), "b": chosen(rows, 3)})
    assert [each["size"] for each in in_table["selections"]] == [3, 3]
    unknown = compare({"a": chosen(counted, 1, 6)})
    assert unknown["counted"]["unit"] == "words"  # a sum over the rows that are known would be too low
    by_model = compare({"a": chosen(rows, 1, 2)}, model=str(tiny_model_dir))
    assert by_model["counted"] == {"unit": "tokens", "source": f"tokenizer of {tiny_model_dir.name}"}
    assert by_model["selections"][0]["size"] > 6


def test_lengths_and_scores_of_the_pool_and_each_selection(rows):
    top = select(rows, Top("ifd"), size=2)
    found = compare({"Top": top, "Random": chosen(rows, 0, 1)})
    assert [group["name"] for group in found["lengths"]["groups"]] == ["pool", "Top", "Random"]
    assert [group["rows"] for group in found["lengths"]["groups"]] == [7, 2, 2]
    assert found["scores"] == []  # seven of eight rows are not nine tenths
    [ifd] = compare({"Top": top, "Random": chosen(rows, 0, 1)}, scores=["ifd"])["scores"]
    medians = {group["name"]: group["quantiles"][2] for group in ifd["groups"]}
    assert medians == {
        "pool": 0.4,
        "Top": 0.7,
        "Random": 0.15,
    }


def test_scores_in_selections_are_shown_once_or_apart(rows):
    mine, other = np.arange(8) / 8, np.arange(8)[::-1] / 8
    found = compare(
        {
            "a": chosen(rows, 1, 2, loss=mine, cluster_id=list(range(8)), response_words=list(range(8))),
            "b": chosen(rows, 3, loss=mine + 1e-7),
            "c": chosen(rows, 4, loss=other, some=[1.0, *[None] * 7]),
        }
    )
    assert [each["column"] for each in found["scores"]] == ["loss of a", "loss of c"]
    assert found["scores"][1]["groups"][3]["quantiles"][2] == other[4]


def test_groups_of_any_kind(rows):
    found = compare({"a": chosen(rows, 0, 1, 2, 4)}, clusters="source")["selections"][0]["coverage"]
    assert (found["clusters"], found["covered"]) == (3, 2)
    assert found["effective"] == pytest.approx(np.exp(-(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))), rel=1e-5)
    plain = rows.remove_columns("cluster_id")
    in_table = compare({"a": chosen(plain, 0, 1, cluster_id=[0, 1, -1, -1, 2, 2, 2, 2])})
    assert in_table["pool"]["coverage"]["clusters"] == 3
    assert in_table["selections"][0]["coverage"]["covered"] == 2


def test_without_the_dataset(rows, tmp_path):
    for at, selector in enumerate((Longest(), Top("ifd"))):
        select(rows, selector, size=2).save(tmp_path / str(at))
    loaded = {str(at): Selection.load(tmp_path / str(at)) for at in range(2)}
    found = compare(loaded)
    assert (found["lengths"], found["counted"], found["selections"][0]["near_copies"]) == (None, None, None)
    assert found["selections"][0]["size"] is None
    assert found["selections"][0]["rows_scored"] > 0
    whole = compare(loaded, rows)
    assert whole["lengths"]["groups"][1]["quantiles"][0] == 4


def test_rows_of_text_have_no_response():
    data = Dataset.from_dict({"text": ["a b", "c", "d e f"]})
    found = compare({"All": select(data, All())})
    assert (found["lengths"], found["selections"][0]["words_mean"], found["selections"][0]["size"]) == (None, None, 6)


def test_a_model_in_a_folder_is_named_without_its_path(rows):
    made = chosen(rows, 0, 1)
    made.provenance["selector"] = {"selector": "top", "by": {"score": "ifd", "model": "/home/me/models/mine"}}
    made.provenance["model"] = {"name": "/home/me/models/mine", "resolved": "0" * 8}
    assert "/home/me" not in json.dumps(compare({"a": made}))


# -- what cannot be ---------------------------------------------------------------------------------------------------
def test_another_dataset_is_refused(rows):
    other = rows.select(range(7))
    with pytest.raises(DatasetMismatchError, match=r"'a' and 'b' were made from different datasets"):
        compare({"a": chosen(rows, 0), "b": chosen(other, 0)})
    with pytest.raises(DatasetMismatchError, match=r"made from 8 rows, and this dataset has 7"):
        compare({"a": chosen(rows, 0)}, other)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"scores": ["ifdd"]}, ColumnError, r"There is no column 'ifdd': .* Did you mean 'ifd'\?"),
        ({"scores": ["source"]}, ColumnError, r"'source' holds string, and a distribution needs numbers"),
        ({"clusters": "cluster"}, ColumnError, r"There is no column 'cluster'.* Did you mean 'cluster_id'\?"),
        ({"clusters": "embedding"}, ColumnError, r"'embedding' holds list.*, and groups need numbers or names"),
        ({"vectors": "embeding"}, ColumnError, r"There is no column 'embeding'.* Did you mean 'embedding'\?"),
        ({"vectors": "ifd"}, ColumnError, r"'ifd' holds double, and vectors are lists of numbers"),
        ({"threshold": 1.5}, ConfigError, r"threshold=1.5 has to be a cosine similarity"),
    ],
)
def test_settings_that_cannot_be(rows, settings, error, message):
    with pytest.raises(error, match=message):
        compare({"a": chosen(rows, 0, 1)}, rows, **settings)


def test_selections_that_cannot_be_compared(rows):
    with pytest.raises(SelectionError, match="at least one selection, and got none"):
        compare({})
    with pytest.raises(ConfigError, match="cannot be called 'pool'"):
        compare({"pool": chosen(rows, 0)})
    with pytest.raises(SelectionError, match="'a' has no rows"):
        empty = chosen(rows, 0)
        empty.indices = np.empty(0, dtype=np.int64)
        compare({"a": empty})


# -- names ------------------------------------------------------------------------------------------------------------
def test_names_say_what_differs():
    def named(*settings):
        return names_of([{"seed": 0, "budget": 5, **each} for each in settings])

    top, ifd = {"selector": "top", "by": "loss"}, {"score": "ifd", "model": "/models/big"}
    assert named({"selector": top}, {"selector": {"selector": "my.lab:Mine"}}) == ["Top by loss", "Mine"]
    assert named({"selector": top}, {"selector": {**top, "by": ifd}}) == ["Top by loss", "Top by ifd"]
    assert named({"selector": top}, {"selector": top, "seed": 3}) == ["Top by loss (seed=0)", "Top by loss (seed=3)"]
    assert named({"selector": top}, {"selector": top, "budget": 9}) == [
        "Top by loss (budget=5)",
        "Top by loss (budget=9)",
    ]
    assert named({"selector": top}, {"selector": top}) == ["Top by loss", "Top by loss (2)"]
    one, other = ({"selector": "within", "method": each, "shares": None} for each in (top, {"selector": "random"}))
    assert named({"selector": one}, {"selector": other}) == ["Top by loss within clusters", "Random within clusters"]


# -- plots ------------------------------------------------------------------------------------------------------------
def many(count):
    rng = np.random.default_rng(0)
    data = Dataset.from_dict(
        {
            "prompt": ["p"] * 300,
            "completion": ["w " * int(each) for each in rng.lognormal(3, 1, 300) + 1],
            "cluster_id": rng.integers(0, 50, 300),
            "ifd": rng.random(300),
        }
    )
    names = [f"A method with quite a long name (alpha=0.{at}, quality=ifd, k=1000)" for at in range(count)]
    made = {name: chosen(data, *rng.permutation(300)[: 30 + at]) for at, name in enumerate(names)}
    return compare(made, data, scores=["ifd"])


def check_layout(figure):
    """Nothing sticks out of the image, and no two names or numbers of rows overlap."""
    figure.canvas.draw()
    box = figure.get_tightbbox()
    assert box.x0 >= 0 and box.y0 >= 0
    assert box.x1 <= figure.get_figwidth() and box.y1 <= figure.get_figheight()
    [ax] = figure.axes
    boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
    assert all(one.y0 >= other.y1 for one, other in pairwise(boxes))
    said = [each.get_window_extent() for each in ax.texts]
    for at, one in enumerate(said):
        assert not any(one.overlaps(other) for other in [*said[:at], *boxes])


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("count", [1, 3, 20])
def test_few_and_many_long_names_fit(count, dark):
    found = many(count)
    for figure in (
        draw_compared(found["lengths"], "How long", dark),
        draw_compared(found["scores"][0], "ifd", dark),
        draw_jaccard(found, "What they share", dark),
        draw_coverage(found, "Clusters", dark),
    ):
        check_layout(figure)
        names = [label.get_text().replace("\n", " ") for label in figure.axes[0].get_yticklabels()]
        assert len(names) == len(set(names)) >= count
        assert names[-1].endswith(f"(alpha=0.{count - 1}, quality=ifd, k=1000)")


def test_plots_say_the_numbers():
    found = many(3)
    said = [each.get_text() for each in draw_jaccard(found).axes[0].texts]
    matrix = found["overlap"]["matrix"]
    assert {f"{matrix[row][column]:.2f}" for row, column in ((1, 0), (2, 0), (2, 1))} <= set(said)
    bars = [bar.get_width() for bar in draw_coverage(found).axes[0].patches]
    assert bars[1] == found["selections"][0]["coverage"]["covered"] / 50
    medians = [each.get_text() for each in draw_compared(found["scores"][0]).axes[0].texts]
    assert f"{found['scores'][0]['groups'][1]['quantiles'][2]:.3g}" in medians


def test_coverage_without_clusters_is_refused(rows):
    plain = rows.remove_columns("cluster_id")
    with pytest.raises(DataselError, match="draw_coverage needs clusters"):
        draw_coverage(compare({"a": chosen(plain, 0)}))


def test_few_whole_lengths_are_counted_and_drawn_one_by_one():
    answers = [["one", "one two three four"][at % 2] for at in range(200)]
    data = Dataset.from_dict({"prompt": [f"p {at}" for at in range(200)], "completion": answers})
    found = compare({"Random": select(data, Random(), size=50), "Longest": select(data, Longest(), size=50)}, data)
    assert found["lengths"]["edges"] == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert found["lengths"]["groups"][0]["counts"] == [100, 0, 0, 100]
    [axes] = draw_compared(found["lengths"]).axes
    assert axes.get_xticks().tolist() == [1, 2, 3, 4]
    assert [bar.get_height() != 0 for bar in axes.containers[0]] == [True, False, False, True]


def test_no_bin_of_a_comparison_reaches_across_what_was_ruled_out():
    rows = Dataset.from_dict({"prompt": ["p"] * 90, "completion": ["c"] * 90, "ifd": np.linspace(0.4, 1.31, 90)})
    made = {"best": select(rows, Superfiltering(quality="ifd"), size=5), "Random": select(rows, Random(), size=50)}
    [ifd] = compare(made, rows)["scores"]
    assert 1.0 in ifd["edges"]
    best = next(each for each in ifd["groups"] if each["name"] == "best")
    assert sum(best["counts"][: ifd["edges"].index(1.0)]) == 5
