"""Comparison of selections: numbers computed by hand, and plots of few and many selections."""

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
    near_duplicates as near_duplicates,
    selection_names,
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


def selected(data: Dataset, *row_numbers: int, seed: int = 0, **columns) -> Selection:
    """Make a selection of these rows, with columns in its table."""
    selection = select(data, Random(), size=len(row_numbers), seed=seed)
    for name, values in columns.items():
        selection.table = selection.table.append_column(name, [values])
    selection.indices = np.array(row_numbers)
    return selection


def test_statistics_by_hand(rows):
    result = compare({"a": selected(rows, 5, 0, 3), "b": selected(rows, 4, 7)})
    assert result["size_unit"] == {"unit": "words", "source": "prompt and response"}
    one, other = result["selections"]
    assert (one["name"], one["rows"], one["size"], one["duplicates"]) == ("a", 3, 9, 2)
    assert (one["words_mean"], one["words_median"]) == (pytest.approx(5 / 3, rel=1e-5), 2)
    assert (other["rows"], other["size"], other["duplicates"], other["words_mean"]) == (2, 12, 0, 5)
    assert (result["pool"]["rows"], result["pool"]["size"], result["pool"]["duplicates"]) == (8, 28, 2)
    assert one["coverage"] == {"column": "cluster_id", "clusters": 4, "covered": 3, "effective": 3.0}
    assert other["coverage"] == {"column": "cluster_id", "clusters": 4, "covered": 1, "effective": 1.0}
    assert result["pool"]["coverage"]["effective"] == pytest.approx(np.exp(3 * 2 / 7 * np.log(7 / 2) + np.log(7) / 7))
    assert result["dataset"]["rows"] == 8
    assert result["failures"] == []
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_near_duplicates_by_hand(rows):
    result = compare({"a": selected(rows, 5, 0, 3, 4), "b": selected(rows, 2, 3), "none": selected(rows, 7)})
    near = [item["near_duplicates"] for item in result["selections"]]
    # rows 5 and 0 point in the same direction, and row 7 has no vector
    assert near[0] == {"column": "embedding", "threshold": 0.9, "share": 0.5, "compared": 4, "sampled": False}
    assert near[1]["share"] == 0
    assert near[2] is None
    assert compare({"a": selected(rows, 0, 6)}, threshold=0.7)["selections"][0]["near_duplicates"]["share"] == 1


def test_near_duplicates_in_blocks_and_sampled(monkeypatch):
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(40, 3))
    vectors[rng.integers(0, 40, 12)] = vectors[7]
    data = Dataset.from_dict({"prompt": ["p"] * 40, "completion": ["c"] * 40, "embedding": vectors.tolist()})
    index = rng.permutation(40)[:31]
    units = vectors[index] / np.linalg.norm(vectors[index], axis=1, keepdims=True)
    cosines = units @ units.T
    np.fill_diagonal(cosines, -1)
    near = (cosines > 0.9).any(axis=1)
    selections = {"a": selected(data, *index)}
    expected = compare(selections)["selections"][0]["near_duplicates"]
    assert expected["share"] == pytest.approx(near.mean(), rel=1e-5)
    monkeypatch.setattr(near_duplicates, "_BLOCK", 4)
    assert compare(selections)["selections"][0]["near_duplicates"] == expected
    monkeypatch.setattr(near_duplicates, "_MAX_PAIRS", 31 * 10)
    monkeypatch.setattr(near_duplicates, "_MIN_COMPARED", 5)
    some = compare(selections)["selections"][0]["near_duplicates"]
    picked = np.linspace(0, 30, 10).astype(int)
    assert some == {**expected, "compared": 10, "sampled": True, "share": pytest.approx(near[picked].mean())}


@pytest.mark.parametrize("threshold", [0.96, 1.0])
def test_near_duplicate_threshold_is_exclusive(threshold):
    vectors = np.random.default_rng(4).normal(size=(50, 7))
    vectors = np.concatenate([vectors, vectors]) if threshold == 1 else np.array([[3, 4], [4, 3]])  # 24 / 25
    count = len(vectors)
    data = Dataset.from_dict({"prompt": ["p"] * count, "completion": ["c"] * count, "embedding": vectors.tolist()})
    selections = {"a": selected(data, *range(count))}
    assert compare(selections, threshold=threshold)["selections"][0]["near_duplicates"]["share"] == 0
    assert compare(selections, threshold=threshold - 1e-6)["selections"][0]["near_duplicates"]["share"] == 1


def test_overlap_and_chance(rows):
    result = compare({"a": selected(rows, 0, 1, 2, 3), "b": selected(rows, 3, 4)})
    assert result["overlap"]["matrix"] == [[1, 0.2], [0.2, 1]]
    assert result["chance"] == [[1, 0.2], [0.2, 1]]  # one row in both of five in either
    even = compare({"a": selected(rows, 0, 1), "b": selected(rows, 2, 3)})
    assert even["chance"][0][1] == even["overlap"]["chance"]


def test_token_counts(rows, tiny_model_dir):
    counted = rows.add_column("num_tokens", [10, 20, 30, 40, 50, 60, None, 80])
    result = compare({"a": selected(counted, 1, 2)})
    assert result["size_unit"] == {"unit": "tokens", "source": "column num_tokens"}
    assert (result["selections"][0]["size"], result["pool"]["size"]) == (50, 290)
    in_table = compare({"a": selected(rows, 1, 2, num_tokens=list(range(8))), "b": selected(rows, 3)})
    assert [item["size"] for item in in_table["selections"]] == [3, 3]
    unknown = compare({"a": selected(counted, 1, 6)})
    assert unknown["size_unit"]["unit"] == "words"  # a sum over the rows that are known would be too low
    by_model = compare({"a": selected(rows, 1, 2)}, model=str(tiny_model_dir))
    assert by_model["size_unit"] == {"unit": "tokens", "source": f"tokenizer of {tiny_model_dir.name}"}
    assert by_model["selections"][0]["size"] > 6


def test_distributions_of_pool_and_selections(rows):
    top = select(rows, Top("ifd"), size=2)
    result = compare({"Top": top, "Random": selected(rows, 0, 1)})
    assert [group["name"] for group in result["lengths"]["groups"]] == ["pool", "Top", "Random"]
    assert [group["rows"] for group in result["lengths"]["groups"]] == [7, 2, 2]
    assert result["scores"] == []  # seven of eight rows are not nine tenths
    [ifd] = compare({"Top": top, "Random": selected(rows, 0, 1)}, scores=["ifd"])["scores"]
    medians = {group["name"]: group["quantiles"][2] for group in ifd["groups"]}
    assert medians == {
        "pool": 0.4,
        "Top": 0.7,
        "Random": 0.15,
    }


def test_scores_that_differ_between_selections(rows):
    mine, other = np.arange(8) / 8, np.arange(8)[::-1] / 8
    result = compare(
        {
            "a": selected(rows, 1, 2, loss=mine, cluster_id=list(range(8)), response_words=list(range(8))),
            "b": selected(rows, 3, loss=mine + 1e-7),
            "c": selected(rows, 4, loss=other, some=[1.0, *[None] * 7]),
        }
    )
    assert [item["column"] for item in result["scores"]] == ["loss of a", "loss of c"]
    assert result["scores"][1]["groups"][3]["quantiles"][2] == other[4]


def test_cluster_columns(rows):
    result = compare({"a": selected(rows, 0, 1, 2, 4)}, clusters="source")["selections"][0]["coverage"]
    assert (result["clusters"], result["covered"]) == (3, 2)
    assert result["effective"] == pytest.approx(np.exp(-(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))), rel=1e-5)
    plain = rows.remove_columns("cluster_id")
    in_table = compare({"a": selected(plain, 0, 1, cluster_id=[0, 1, -1, -1, 2, 2, 2, 2])})
    assert in_table["pool"]["coverage"]["clusters"] == 3
    assert in_table["selections"][0]["coverage"]["covered"] == 2


def test_without_dataset(rows, tmp_path):
    for index, selector in enumerate((Longest(), Top("ifd"))):
        select(rows, selector, size=2).save(tmp_path / str(index))
    loaded = {str(index): Selection.load(tmp_path / str(index)) for index in range(2)}
    result = compare(loaded)
    assert (result["lengths"], result["size_unit"], result["selections"][0]["near_duplicates"]) == (None, None, None)
    assert result["selections"][0]["size"] is None
    assert result["selections"][0]["rows_scored"] > 0
    expected = compare(loaded, rows)
    assert expected["lengths"]["groups"][1]["quantiles"][0] == 4


def test_text_rows_have_no_response():
    data = Dataset.from_dict({"text": ["a b", "c", "d e f"]})
    result = compare({"All": select(data, All())})
    assert (result["lengths"], result["selections"][0]["words_mean"], result["selections"][0]["size"]) == (
        None,
        None,
        6,
    )


def test_local_paths_are_removed(rows):
    selection = selected(rows, 0, 1)
    selection.provenance["selector"] = {"selector": "top", "by": {"score": "ifd", "model": "/home/me/models/mine"}}
    selection.provenance["model"] = {"name": "/home/me/models/mine", "resolved": "0" * 8}
    assert "/home/me" not in json.dumps(compare({"a": selection}))


# -- errors -----------------------------------------------------------------------------------------------------------
def test_dataset_mismatch(rows):
    other = rows.select(range(7))
    with pytest.raises(DatasetMismatchError, match=r"'a' and 'b' were made from different datasets"):
        compare({"a": selected(rows, 0), "b": selected(other, 0)})
    with pytest.raises(DatasetMismatchError, match=r"made from 8 rows, and this dataset has 7"):
        compare({"a": selected(rows, 0)}, other)


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
def test_invalid_settings(rows, settings, error, message):
    with pytest.raises(error, match=message):
        compare({"a": selected(rows, 0, 1)}, rows, **settings)


def test_invalid_selections(rows):
    with pytest.raises(SelectionError, match="at least one selection, and got none"):
        compare({})
    with pytest.raises(ConfigError, match="cannot be called 'pool'"):
        compare({"pool": selected(rows, 0)})
    with pytest.raises(SelectionError, match="'a' has no rows"):
        empty = selected(rows, 0)
        empty.indices = np.empty(0, dtype=np.int64)
        compare({"a": empty})


# -- names ------------------------------------------------------------------------------------------------------------
def test_selection_names():
    def named(*settings):
        return selection_names([{"seed": 0, "budget": 5, **item} for item in settings])

    top, ifd = {"selector": "top", "by": "loss"}, {"score": "ifd", "model": "/models/big"}
    assert named({"selector": top}, {"selector": {"selector": "my.lab:Mine"}}) == ["Top by loss", "Mine"]
    assert named({"selector": top}, {"selector": {**top, "by": ifd}}) == ["Top by loss", "Top by ifd"]
    assert named({"selector": top}, {"selector": top, "seed": 3}) == ["Top by loss (seed=0)", "Top by loss (seed=3)"]
    assert named({"selector": top}, {"selector": top, "budget": 9}) == [
        "Top by loss (budget=5)",
        "Top by loss (budget=9)",
    ]
    assert named({"selector": top}, {"selector": top}) == ["Top by loss", "Top by loss (2)"]
    one, other = ({"selector": "within", "method": item, "shares": None} for item in (top, {"selector": "random"}))
    assert named({"selector": one}, {"selector": other}) == ["Top by loss within clusters", "Random within clusters"]


# -- plots ------------------------------------------------------------------------------------------------------------
def comparison_of(count):
    rng = np.random.default_rng(0)
    data = Dataset.from_dict(
        {
            "prompt": ["p"] * 300,
            "completion": ["w " * int(item) for item in rng.lognormal(3, 1, 300) + 1],
            "cluster_id": rng.integers(0, 50, 300),
            "ifd": rng.random(300),
        }
    )
    names = [f"A method with quite a long name (alpha=0.{index}, quality=ifd, k=1000)" for index in range(count)]
    selections = {name: selected(data, *rng.permutation(300)[: 30 + index]) for index, name in enumerate(names)}
    return compare(selections, data, scores=["ifd"])


def check_layout(figure):
    """Nothing sticks out of the image, and no two names or numbers of rows overlap."""
    figure.canvas.draw()
    box = figure.get_tightbbox()
    assert box.x0 >= 0 and box.y0 >= 0
    assert box.x1 <= figure.get_figwidth() and box.y1 <= figure.get_figheight()
    [ax] = figure.axes
    boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
    assert all(one.y0 >= other.y1 for one, other in pairwise(boxes))
    boxes_of_texts = [item.get_window_extent() for item in ax.texts]
    for index, one in enumerate(boxes_of_texts):
        assert not any(one.overlaps(other) for other in [*boxes_of_texts[:index], *boxes])


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("count", [1, 3, 20])
def test_long_names_fit(count, dark):
    result = comparison_of(count)
    for figure in (
        draw_compared(result["lengths"], "How long", dark),
        draw_compared(result["scores"][0], "ifd", dark),
        draw_jaccard(result, "What they share", dark),
        draw_coverage(result, "Clusters", dark),
    ):
        check_layout(figure)
        names = [label.get_text().replace("\n", " ") for label in figure.axes[0].get_yticklabels()]
        assert len(names) == len(set(names)) >= count
        assert names[-1].endswith(f"(alpha=0.{count - 1}, quality=ifd, k=1000)")


def test_plots_show_the_numbers():
    result = comparison_of(3)
    boxes_of_texts = [item.get_text() for item in draw_jaccard(result).axes[0].texts]
    matrix = result["overlap"]["matrix"]
    assert {f"{matrix[row][column]:.2f}" for row, column in ((1, 0), (2, 0), (2, 1))} <= set(boxes_of_texts)
    bars = [bar.get_width() for bar in draw_coverage(result).axes[0].patches]
    assert bars[1] == result["selections"][0]["coverage"]["covered"] / 50
    medians = [item.get_text() for item in draw_compared(result["scores"][0]).axes[0].texts]
    assert f"{result['scores'][0]['groups'][1]['quantiles'][2]:.3g}" in medians


def test_draw_coverage_without_clusters(rows):
    plain = rows.remove_columns("cluster_id")
    with pytest.raises(DataselError, match="draw_coverage needs clusters"):
        draw_coverage(compare({"a": selected(plain, 0)}))


def test_few_integer_lengths_have_a_bin_each():
    answers = [["one", "one two three four"][index % 2] for index in range(200)]
    data = Dataset.from_dict({"prompt": [f"p {index}" for index in range(200)], "completion": answers})
    result = compare({"Random": select(data, Random(), size=50), "Longest": select(data, Longest(), size=50)}, data)
    assert result["lengths"]["edges"] == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert result["lengths"]["groups"][0]["counts"] == [100, 0, 0, 100]
    [axes] = draw_compared(result["lengths"]).axes
    assert axes.get_xticks().tolist() == [1, 2, 3, 4]
    assert [bar.get_height() != 0 for bar in axes.containers[0]] == [True, False, False, True]


def test_selection_threshold_is_a_bin_edge():
    rows = Dataset.from_dict({"prompt": ["p"] * 90, "completion": ["c"] * 90, "ifd": np.linspace(0.4, 1.31, 90)})
    selections = {
        "best": select(rows, Superfiltering(quality="ifd"), size=5),
        "Random": select(rows, Random(), size=50),
    }
    [ifd] = compare(selections, rows)["scores"]
    assert 1.0 in ifd["edges"]
    best = next(item for item in ifd["groups"] if item["name"] == "best")
    assert sum(best["counts"][: ifd["edges"].index(1.0)]) == 5
