from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset

from hf_datasel import select
from hf_datasel.errors import ColumnError, ConfigError, Interrupted, SelectionError
from hf_datasel.formats import Pool
from hf_datasel.rounds.cache import RoundCache
from hf_datasel.scores import Cluster, Embedding, InsTag, Length, Loss
from hf_datasel.scoring.row_vectors import _Encoder
from hf_datasel.scoring.store.store import ScoreStore
from hf_datasel.selection import SelectionSession
from hf_datasel.selectors import MIG, Chain, get_selector, per_source
from hf_datasel.testing import contract

TAGS = [
    ["math", "algebra"], ["math"], ["poem"], None, ["code", "python"], ["poem", "rhyme"], ["code"], [],
    ["math", "code"], ["history"], ["math", "math"], ["history", ""],
]  # fmt: skip


@pytest.fixture(scope="module")
def tagged(full):
    return full.add_column("tags", TAGS)


@contract(
    MIG(quality="deita", vectors=None),
    MIG(quality="deita", norm=True, phi_type="exp", phi_alpha=0.1, sim_threshold=0.5, min_count=2),
    MIG(quality="golden", labels="cluster_id", prop_weight=0.5),
    MIG(quality="golden", labels=Cluster(k=3)),
)
def test_contract(check, selector, tagged, tiny_model_dir):
    check(selector, tagged, tiny_model_dir)


def slow(rows, quality, budget, spread=None, names=None):
    """Every gain anew at each step: rows are sets of labels."""
    names = sorted(set().union(*rows.values())) if names is None else names
    spread = np.eye(len(names)) if spread is None else spread / spread.sum(axis=0)
    brings = {
        row: quality[row] * np.array([name in rows[row] for name in names], dtype=float) @ spread for row in rows
    }
    total, selected = np.zeros(len(names)), []
    for _ in range(budget):
        slopes = 0.8 * (total + 1e-6) ** -0.2
        left = [row for row in rows if row not in selected]
        selected.append(max(left, key=lambda row: (brings[row] @ slopes, -row)))
        total = total + brings[selected[-1]]
    return selected


def able(tags):
    return {row: set(labels) - {""} for row, labels in enumerate(tags) if labels}


def test_rows_without_tags_are_excluded(tagged):
    selection = select(tagged, MIG(quality="deita", vectors=None), size=10)
    assert selection.indices.tolist() == slow(able(TAGS), tagged["deita"][:], 10)
    assert selection.provenance["exclusions"] == {"without tags": 2}


def test_tags_are_spread_to_similar_ones(tagged):
    rows = able(TAGS)
    names = sorted(set().union(*rows.values()))
    vectors = np.array(tagged["embedding"][:])
    means = np.array([np.mean([vectors[row] for row in rows if name in rows[row]], axis=0) for name in names])
    units = means / np.linalg.norm(means, axis=1, keepdims=True)
    close = np.where(units @ units.T >= 0.7, units @ units.T, 0)
    assert np.count_nonzero(close) > len(names)
    expected = slow(rows, tagged["deita"][:], 10, close)
    assert select(tagged, MIG(quality="deita", sim_threshold=0.7), size=10).indices.tolist() == expected
    assert expected != slow(rows, tagged["deita"][:], 10)


def test_text_of_tags_is_embedded(tagged, tiny_model_dir):
    embedding = Embedding(str(tiny_model_dir))
    names = sorted({tag for tags in TAGS for tag in tags or ()} - {""})
    texts = Dataset.from_dict({"text": names})
    units = np.array(texts.map(embedding, batched=True)["embedding"][:])
    threshold = float(np.median(units @ units.T))
    close = np.where(units @ units.T >= threshold, units @ units.T, 0)
    selector = MIG(quality="deita", vectors=embedding, sim_threshold=threshold)
    selection = select(tagged, selector, size=6)
    assert selection.indices.tolist() == slow(able(TAGS), tagged["deita"][:], 6, close)
    assert [spec["resolved_model"] for spec in selection.provenance["scores"]] == [embedding.spec()["resolved_model"]]


def test_tags_are_embedded_once(tagged, tiny_model_dir, tmp_path, monkeypatch):
    lengths, pooled = [], _Encoder.pooled
    monkeypatch.setattr(_Encoder, "pooled", lambda self, batch: lengths.append(len(batch)) or pooled(self, batch))
    embedding, session = Embedding(str(tiny_model_dir)), SelectionSession(tagged)
    mig = MIG(quality="deita", vectors=embedding)
    for selector in (mig, replace(mig, phi_b=0.5), Chain([], mig)):
        selection = session.select(selector, tokens=sum(tagged["num_tokens"]) // 2)  # tries several numbers of rows
        assert [spec["score"] for spec in selection.provenance["scores"]] == ["embedding"]
    assert sum(lengths) == 7
    caches = [RoundCache(Pool(tagged), Embedding.compute, store=ScoreStore(tmp_path)) for _ in range(2)]
    first, second = [cache.text_vectors(("a tag", "another"), embedding) for cache in caches]
    assert sum(lengths) == 9, "the second run reads the store"
    np.testing.assert_array_equal(first, second)


def test_clusters_are_labels(gaps):
    ids = dict(enumerate(gaps["cluster_id"][:]))
    quality = gaps["reward"][:]
    shifted = gaps.add_column("shifted", [None if value is None else value + 3 for value in quality])
    rows = {row: {str(ids[row])} for row in ids if row not in (2, 5, 8)}  # no response, no quality, no cluster
    selection = select(shifted, MIG(quality="shifted", labels="cluster_id", vectors=None), size=9)
    assert selection.indices.tolist() == slow(rows, shifted["shifted"][:], 9)


@pytest.mark.parametrize("form", ["texts", "json", "large"])
def test_other_columns_of_tags(tagged, form):
    import json

    import pyarrow as pa

    first = [tags[0] if tags else None for tags in TAGS]
    data = tagged.remove_columns("tags")
    if form == "texts":
        data, expected = data.add_column("tags", first), able([[tag] if tag else None for tag in first])
    elif form == "json":
        data, expected = (
            data.add_column("tags", [None if tags is None else json.dumps(tags) for tags in TAGS]),
            able(TAGS),
        )
    else:
        table = pa.table({"tags": pa.array(TAGS, pa.large_list(pa.large_string()))})
        from datasets import concatenate_datasets

        data, expected = concatenate_datasets([data, Dataset(table)], axis=1), able(TAGS)
    selection = select(data, MIG(quality="deita", vectors=None), size=8)
    assert selection.indices.tolist() == slow(expected, data["deita"][:], 8)


def test_rare_tags_are_ignored(tagged):
    counts = {tag: sum(tag in (tags or ()) for tags in TAGS) for tag in ("math", "poem", "code", "history")}
    rows = able([[tag for tag in tags or () if counts.get(tag, 1) >= 2] for tags in TAGS])
    selection = select(tagged, MIG(quality="deita", vectors=None, min_count=2), size=len(rows))
    assert selection.indices.tolist() == slow(rows, tagged["deita"][:], len(rows))


def test_groups(tagged):
    data = tagged.add_column("half", [row % 2 for row in range(12)])
    selector = per_source(MIG(quality="deita", vectors=None), "half")
    rows = able(TAGS)
    expected = set()
    for half, size in ((0, 2), (1, 4)):
        own = {row: labels for row, labels in rows.items() if row % 2 == half}
        expected |= set(slow(own, tagged["deita"][:], size))
    shares = per_source(MIG(quality="deita", vectors=None), "half", {"0": 1 / 3, "1": 2 / 3})
    assert set(select(data, shares, size=6).indices.tolist()) == expected
    assert len(select(data, selector, size=6).indices) == 6


def test_explanation_counts_selected_rows_with_each_label(tagged):
    from hf_datasel.selection import explain

    selector = MIG(quality="deita", vectors=None)
    selection = select(tagged, selector, size=5)
    row = int(selection.indices[-1])
    before = selection.indices[:-1].tolist()
    told = " ".join(explain(selection, tagged, row)["decided"])
    for tag in set(TAGS[row]):
        assert f"{tag!r} ({sum(tag in TAGS[other] for other in before)})" in told
    assert "of the 4 rows selected before it" in told


def test_stops_with_the_rows_so_far(tagged, make_round, stop_at):
    context = stop_at(make_round(tagged, 6), 3)
    with pytest.raises(Interrupted, match="3 rows had been selected") as caught:
        MIG(quality="deita", vectors=None).select(context)
    assert caught.value.selected.tolist() == slow(able(TAGS), tagged["deita"][:], 3)


def test_from_settings():
    settings = {"quality": {"score": "length"}, "labels": {"score": "instag", "model": "m"}, "vectors": None}
    assert get_selector("mig", settings) == MIG(quality=Length(), labels=InsTag("m"), vectors=None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sim_threshold": 0}, "number above 0 and at most 1"),
        ({"phi_b": 1.5}, "number above 0 and at most 1"),
        ({"phi_type": "log"}, r"phi_type='log'"),
        ({"labels": Length()}, r"the name of a column, or InsTag\(\.\.\.\) or Cluster\(\.\.\.\)"),
        ({"vectors": 3}, r"the name of a column, or Embedding"),
        ({"min_count": 0}, "an int of at least 1"),
        ({"norm": 1}, "true or false"),
    ],
)
def test_settings_that_cannot_work(settings, message):
    with pytest.raises(ConfigError, match=message):
        MIG(quality="deita", **settings)


def test_data_that_cannot_work(tagged):
    with pytest.raises(
        SelectionError, match=r"MIG needs a quality of 0 or more, and column 'influence' is negative in .*add_col"
    ):
        select(tagged, MIG(quality="influence", vectors=None), size=3)
    with pytest.raises(ColumnError, match=r"'turns' holds .*labels are lists of texts, texts, or cluster numbers"):
        data = tagged.add_column("turns", [[1]] * len(tagged))
        select(data, MIG(quality="deita", labels="turns", vectors=None), size=3)
    with pytest.raises(ConfigError, match=r"a model of its own: name it, as in vectors=Embedding\('name or path'\)"):
        select(tagged, MIG(quality=Loss(), vectors=Embedding()), size=3)
    with pytest.raises(ColumnError, match="needs column 'topics'"):
        select(tagged, MIG(quality="deita", labels="topics"), size=3)
