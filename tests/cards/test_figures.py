from __future__ import annotations

import io
import json
import re
import sys
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest

from hf_datasel import Selection
from hf_datasel.analysis import cluster_weights, distribution, distribution_by_round, embedding_map, overlaps
from hf_datasel.analysis.weights import ClusterWeights
from hf_datasel.cards.facts import Facts
from hf_datasel.cards.figures import draw, figures, png
from hf_datasel.errors import DataselError

HOSTILE = "$x^2$ {{ 1 }} <script>alert(1)</script> ](x) `a` 日本 😀 \n# " + "y" * 500


def facts(
    weights: ClusterWeights | None = None,
    rounds: Any = None,
    training: Any = None,
    round_facts: Any = (),
    **sections: Any,
) -> Facts:
    """Return facts with only the parts that figures are drawn from."""
    empty = {"distributions": [], "lengths": None, "overlap": None, "embedding_map": None}
    groups = {"coverage": None, "weights": weights}
    own = {"groups": groups, "rounds": {"distribution": rounds, "overlap": []}, "evaluation": []}
    return cast(Facts, {"sections": empty | own | sections, "training": training, "rounds": list(round_facts)})


def everything(name: str = "ifd") -> Facts:
    """Return facts with every figure, with a name of somebody else wherever there can be one."""
    rng = np.random.default_rng(0)
    scores, rows = rng.lognormal(-0.4, 0.3, 400), np.arange(40)
    groups = {"pool": scores, "selected": scores[rows]}
    words = {"pool": rng.integers(1, 300, 400), "selected": np.array([5.0]), name: rng.integers(1, 300, 40)}
    training = {"loss": [(step, 3 / step) for step in range(1, 9)], "eval_loss": [(4, 2.0), (8, 1.5)]}
    return facts(
        distributions=[distribution(name, groups), distribution(f"{name}!", groups, log=True)],
        rounds=distribution_by_round(
            name, [(index, scores / (index + 1), scores[rows]) for index in range(3)], log=True
        ),
        lengths=distribution("response_words", words, log=True),
        overlap=overlaps({"round 0": rows, name: rows + 20, "Random": rows * 3}, 400),
        weights=weights(rng.dirichlet(np.ones(30), size=3)),
        embedding_map=embedding_map(name, rng.normal(size=(400, 8)), rows),
        evaluation=[
            {"trained_on": "random rows", "metric": name, "dataset": name, "value": 2.0, "values": [1.0, 3.0]},
            {
                "trained_on": name,
                "metric": name,
                "dataset": name,
                "value": 4.0,
                "versus": "random rows",
                "difference": 2.0,
                "low": 1.0,
                "high": 3.0,
            },
        ],
        training=training,
    )


def weights(values: np.ndarray) -> ClusterWeights:
    """Return the facts of a run with these weights of shape (rounds, clusters)."""
    selections = [
        Selection(
            np.array([0]),
            {
                "round": index,
                "dataset": {"id": "x"},
                "notes": {"clusters": list(range(len(item))), "cluster_weights": item.tolist()},
            },
            pa.table({}),
        )
        for index, item in enumerate(values)
    ]
    return cluster_weights(selections)


def least() -> Facts:
    """Return facts with every figure, as small as possible."""
    one, same = np.array([0.5]), np.full(9, 0.5)
    return facts(
        distributions=[distribution("ifd", {"pool": np.array([0.5, 0.6]), "selected": one})],
        rounds=distribution_by_round("ifd", [(0, same, one), (1, one, one)]),
        lengths=distribution("response_words", {"pool": np.array([3]), "selected": np.array([3])}, log=True),
        overlap=overlaps({"selected": np.array([0]), "Random": np.array([1])}, 2),
        weights=weights(np.ones((2, 1))),
        embedding_map=embedding_map("embedding", np.zeros((2, 3)), np.array([0])),
        training={"loss": [(1, 1.0), (2, 1.0)], "eval_loss": []},
    )


NAMES = ["scores-ifd", "scores-ifd-2", "rounds-ifd", "lengths", "overlap", "weights", "map", "forest", "training"]


def test_figures_follow_the_facts():
    assert [item.name for item in figures(everything())] == NAMES
    assert figures(facts()) == []
    assert figures(facts(overlap=overlaps({"selected": np.array([0])}, 2))) == []
    assert figures(facts(training={"loss": [(1, 2.0), (2, float("nan"))], "eval_loss": []})) == []


def round_facts(kind: str, restart: bool, before: int) -> dict[str, Any]:
    """Return the facts of a round that the figure of training is drawn from."""
    return {"step": {"kind": kind, "restart": restart}, "model": {"global_step": before}}


def test_loss_is_interrupted_at_restarts():
    run = {"loss": [(step, float(step)) for step in (2, 4, 6, 8, 10)], "eval_loss": [(4, 2.0), (8, 1.0)]}
    rounds = [round_facts("warm-up", False, 0), round_facts("selection", True, 4), round_facts("selection", True, 9)]
    again = facts(training=run, round_facts=rounds)
    [info] = figures(again)
    assert info.alt.endswith(
        "evaluation loss: 2 at step 4, 1 at step 8. The warm-up ends at step 4. Training started again from the base "
        "model after step 4, 9, where the lines are interrupted."
    )
    lines = draw(again, "training", dark=False).axes[0].lines
    drawn = [item.get_xdata().tolist() for item in lines if len(item.get_xdata()) and item.get_linestyle() == "-"]
    assert drawn == [[2, 4], [6, 8], [10], [4], [8]]
    assert [item.get_xdata()[0] for item in lines if item.get_linestyle() == ":"] == [4, 9]
    assert lines[2].get_marker() == "."
    legend = [item.get_text() for item in draw(again, "training", dark=True).axes[0].get_legend().get_texts()]
    assert legend == ["training loss", "evaluation loss", "warm-up", "restart from the base model"]
    plain = facts(training=run, round_facts=[round_facts("growing", False, 0), round_facts("growing", False, 4)])
    assert "started again" not in figures(plain)[0].alt
    assert len(draw(plain, "training", dark=False).axes[0].lines) == 2


def test_facts_json_roundtrip():
    assert figures(json.loads(json.dumps(everything()))) == figures(everything())


def test_figures_need_no_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert [item.name for item in figures(everything())] == NAMES
    with pytest.raises(DataselError, match=r"not installed: pip install 'hf-datasel\[plot\]'"):
        png(everything(), "lengths", dark=False)


def test_alt_texts_contain_the_numbers():
    rich = everything()
    alt = {item.name: item.alt for item in figures(rich)}
    pool, selected = rich["sections"]["distributions"][0]["groups"]
    assert f"pool, 400 rows: median {pool['quantiles'][2]:.3g}, interquartile range " in alt["scores-ifd"]
    assert f"selected, 40 rows: median {selected['quantiles'][2]:.3g}," in alt["scores-ifd"]
    assert re.search(r"round 2: median [\d.]+ of 400 scored rows, [\d.]+ of 40 selected rows", alt["rounds-ifd"])
    assert "the same in all rounds" not in alt["rounds-ifd"]
    assert "selected, 1 row: median 5" in alt["lengths"]
    assert "ifd and round 0 0.33" in alt["overlap"]
    assert "Two random selections from the pool have 0.053" in alt["overlap"]
    moved_weights = rich["sections"]["groups"]["weights"]
    moved = moved_weights["moved"][0]
    first, last = moved["weights"][0], moved["weights"][-1]
    assert f"changed most: cluster {moved['cluster']} from {100 * first:.3g}% to {100 * last:.3g}%;" in alt["weights"]
    assert "the weights of 30 clusters in 3 rounds. First, the share" in alt["weights"]
    assert f"round 2 {moved_weights['effective'][2]:.3g}." in alt["weights"]
    assert "40 selected rows as discs on the density of the 400 rows of the pool" in alt["map"]
    assert "Training loss: 3 at step 1, 0.375 at step 8; evaluation loss: 2 at step 4" in alt["training"]


def test_alt_text_of_a_shortlist():
    named = {f"round {index}": np.arange(index, 26 + index) for index in range(3)} | {"Random": np.arange(26) * 20}
    [info] = figures(facts(overlap=overlaps(named, 520, (["round 0", "round 1", "round 2"], 78))))
    assert (
        "Two random selections from the pool have 0.026, and from the 78 rows that round 0, round 1 and round 2 were "
        "selected from 0.20. round 1 and round 0 0.93"
    ) in info.alt


def test_alt_text_of_few_lengths():
    few, many = np.array([1, 4, 4]), np.arange(1, 90)
    [info] = figures(facts(lengths=distribution("response_words", {"pool": few, "selected": few}, log=True)))
    assert info.alt.startswith("Histograms of response_words, one below")
    [info] = figures(facts(lengths=distribution("response_words", {"pool": many, "selected": many}, log=True)))
    assert info.alt.startswith("Histograms of response_words on a logarithmic axis, one below")


def test_alt_texts_stay_short():
    many = {f"selection {index}": np.arange(index, 2 * index + 3) for index in range(12)}
    rounds = [(index, np.arange(5.0), np.arange(2.0)) for index in range(40)]
    crowd = facts(rounds=distribution_by_round("x", rounds), overlap=overlaps(many, 30))
    for item in figures(crowd):
        assert len(item.alt) < 500
    assert "in 40 rounds, of which the first and the last are described" in figures(crowd)[0].alt
    assert re.search(r"Lowest: .* 0\.00; highest: .* 0\.\d\d", figures(crowd)[1].alt)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_images_of_full_facts(name, dark):
    check_image(png(everything(), name, dark), dark)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("index", range(7))
def test_figures_of_minimal_facts(index, dark):
    poor = least()
    draw(poor, figures(poor)[index].name, dark)
    assert len(figures(poor)) == 7


@pytest.mark.parametrize("index", range(9))
def test_foreign_text_in_figures(index):
    wild = everything(HOSTILE)
    info = figures(wild)[index]
    assert len(figures(wild)) == 9
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", info.name)
    assert len(info.name) <= 60
    assert "\n" not in info.alt + info.title
    assert len(info.title) <= 80 and len(info.alt) < 700
    draw(wild, info.name, dark=False)


def test_figure_names_are_unique():
    columns = ["a!", "a?", "a-2", "日本", "中国", "x" * 300, "x" * 301]
    distributions = [distribution(column, {"pool": np.array([0.1, 0.2])}) for column in columns]
    names = [item.name for item in figures(facts(distributions=distributions))]
    assert names[:5] == ["scores-a", "scores-a-2", "scores-a-2-2", "scores", "scores-2"]
    assert len(set(names)) == len(columns)


def test_png_is_deterministic():
    assert png(everything(), "lengths", dark=True) == png(everything(), "lengths", dark=True)


def test_png_ignores_matplotlib_settings():
    import matplotlib

    plain = png(least(), "training", dark=False)
    with matplotlib.rc_context({"font.size": 20, "savefig.dpi": 30, "lines.antialiased": False}):
        assert png(least(), "training", dark=False) == plain


def test_unknown_figure():
    with pytest.raises(DataselError, match=r"no figure 'length'.*Did you mean 'lengths'\?"):
        draw(everything(), "length", dark=False)


def check_image(content: bytes, dark: bool) -> None:
    """Check size, width, ground and that nothing but pixels is in the file."""
    from PIL import Image

    assert len(content) < 40_000
    image = Image.open(io.BytesIO(content))
    assert image.width == 1152
    assert image.info == {}
    ground = image.convert("RGB").getpixel((2, image.height - 3))
    assert np.abs(np.array(ground) - ([11, 15, 25] if dark else [255, 255, 255])).max() <= 3
