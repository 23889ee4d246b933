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


def facts(**given: Any) -> Facts:
    """Facts of which only those are there that figures are drawn from."""
    keys = {"distributions": [], "rounds": [], "lengths": None, "overlap": None, "weights": None, "map": None}
    return cast(Facts, keys | {"training": None, "choices": []} | given)


def everything(name: str = "ifd") -> Facts:
    """Facts with every figure, with other people's words where there can be some."""
    rng = np.random.default_rng(0)
    scores, rows = rng.lognormal(-0.4, 0.3, 400), np.arange(40)
    groups = {"pool": scores, "chosen": scores[rows]}
    words = {"pool": rng.integers(1, 300, 400), "chosen": np.array([5.0]), name: rng.integers(1, 300, 40)}
    training = {"loss": [(step, 3 / step) for step in range(1, 9)], "eval_loss": [(4, 2.0), (8, 1.5)]}
    return facts(
        distributions=[distribution(name, groups), distribution(f"{name}!", groups, log=True)],
        rounds=[distribution_by_round(name, [(at, scores / (at + 1), scores[rows]) for at in range(3)], log=True)],
        lengths=distribution("response_words", words, log=True),
        overlap=overlaps({"round 0": rows, name: rows + 20, "Random": rows * 3}, 400),
        weights=weights(rng.dirichlet(np.ones(30), size=3)),
        map=embedding_map(name, rng.normal(size=(400, 8)), rows),
        training=training,
    )


def weights(values: np.ndarray) -> ClusterWeights:
    """What runs with these weights of shape (rounds, clusters) have recorded."""
    selections = [
        Selection(
            np.array([0]),
            {
                "round": at,
                "dataset": {"id": "x"},
                "notes": {"clusters": list(range(len(each))), "cluster_weights": each.tolist()},
            },
            pa.table({}),
        )
        for at, each in enumerate(values)
    ]
    return cluster_weights(selections)


def least() -> Facts:
    """Facts with every figure, of as little as there can be."""
    one, same = np.array([0.5]), np.full(9, 0.5)
    return facts(
        distributions=[distribution("ifd", {"pool": same, "chosen": one})],
        rounds=[distribution_by_round("ifd", [(0, same, one), (1, one, one)])],
        lengths=distribution("response_words", {"pool": np.array([3]), "chosen": np.array([3])}, log=True),
        overlap=overlaps({"chosen": np.array([0]), "Random": np.array([1])}, 2),
        weights=weights(np.ones((2, 1))),
        map=embedding_map("embedding", np.zeros((2, 3)), np.array([0])),
        training={"loss": [(1, 1.0), (2, 1.0)], "eval_loss": []},
    )


NAMES = ["scores-ifd", "scores-ifd-2", "rounds-ifd", "lengths", "overlap", "weights", "map", "training"]


def test_figures_follow_the_facts():
    assert [each.name for each in figures(everything())] == NAMES
    assert figures(facts()) == []
    assert figures(facts(overlap=overlaps({"chosen": np.array([0])}, 2))) == []
    assert figures(facts(training={"loss": [(1, 2.0), (2, float("nan"))], "eval_loss": []})) == []


def choice(kind: str, restart: bool, before: int) -> dict[str, Any]:
    """Facts of a round, as far as the course of training is told from them."""
    return {"step": {"kind": kind, "restart": restart}, "model": {"global_step": before}}


def test_the_loss_breaks_where_training_began_again():
    run = {"loss": [(step, float(step)) for step in (2, 4, 6, 8, 10)], "eval_loss": [(4, 2.0), (8, 1.0)]}
    rounds = [choice("warm-up", False, 0), choice("choice", True, 4), choice("choice", True, 9)]
    again = facts(training=run, choices=rounds)
    [info] = figures(again)
    assert info.alt.endswith(
        "evaluation loss: 2 at step 4, 1 at step 8. The warm-up ends at step 4. Training began again from the base "
        "model after step 4, 9, where the lines break."
    )
    lines = draw(again, "training", dark=False).axes[0].lines
    drawn = [each.get_xdata().tolist() for each in lines if len(each.get_xdata()) and each.get_linestyle() == "-"]
    assert drawn == [[2, 4], [6, 8], [10], [4], [8]]
    assert [each.get_xdata()[0] for each in lines if each.get_linestyle() == ":"] == [4, 9]
    assert lines[2].get_marker() == "."
    legend = [each.get_text() for each in draw(again, "training", dark=True).axes[0].get_legend().get_texts()]
    assert legend == ["training loss", "evaluation loss", "warm-up", "from the base model again"]
    plain = facts(training=run, choices=[choice("growing", False, 0), choice("growing", False, 4)])
    assert "began again" not in figures(plain)[0].alt
    assert len(draw(plain, "training", dark=False).axes[0].lines) == 2


def test_facts_come_back_from_json_as_they_were():
    assert figures(json.loads(json.dumps(everything()))) == figures(everything())


def test_figures_need_no_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert [each.name for each in figures(everything())] == NAMES
    with pytest.raises(DataselError, match=r"not installed: pip install 'hf-datasel\[plot\]'"):
        png(everything(), "lengths", dark=False)


def test_alternative_texts_hold_the_numbers():
    rich = everything()
    alt = {each.name: each.alt for each in figures(rich)}
    pool, chosen = rich["distributions"][0]["groups"]
    assert f"pool, 400 rows: median {pool['quantiles'][2]:.3g}, middle half from" in alt["scores-ifd"]
    assert f"chosen, 40 rows: median {chosen['quantiles'][2]:.3g}," in alt["scores-ifd"]
    assert re.search(r"round 2: median [\d.]+ of 400 rows scored, [\d.]+ of 40 rows chosen", alt["rounds-ifd"])
    assert "the same in all rounds" not in alt["rounds-ifd"]
    assert "chosen, 1 row: median 5" in alt["lengths"]
    assert "ifd and round 0 0.33" in alt["overlap"]
    assert "Two random draws from the pool would have 0.053" in alt["overlap"]
    moved = rich["weights"]["moved"][0]
    first, last = moved["weights"][0], moved["weights"][-1]
    assert f"moved most: cluster {moved['cluster']} from {100 * first:.3g}% to {100 * last:.3g}%;" in alt["weights"]
    assert "the weights of 30 clusters in 3 rounds. The share" in alt["weights"]
    assert f"round 2 {rich['weights']['effective'][2]:.3g}." in alt["weights"]
    assert "40 chosen rows as discs on the density of the pool's 400" in alt["map"]
    assert "Training loss: 3 at step 1, 0.375 at step 8; evaluation loss: 2 at step 4" in alt["training"]


def test_rounds_from_a_shortlist_are_held_against_draws_from_it():
    named = {f"round {at}": np.arange(at, 26 + at) for at in range(3)} | {"Random": np.arange(26) * 20}
    [info] = figures(facts(overlap=overlaps(named, 520, (["round 0", "round 1", "round 2"], 78))))
    assert (
        "Two random draws from the pool would have 0.026; from the 78 rows that round 0, round 1 and round 2 are all "
        "from, 0.20. round 1 and round 0 0.93"
    ) in info.alt


def test_few_lengths_are_not_said_to_be_on_a_logarithmic_axis():
    few, many = np.array([1, 4, 4]), np.arange(1, 90)
    [info] = figures(facts(lengths=distribution("response_words", {"pool": few, "chosen": few}, log=True)))
    assert info.alt.startswith("Histograms of response_words, one below")
    [info] = figures(facts(lengths=distribution("response_words", {"pool": many, "chosen": many}, log=True)))
    assert info.alt.startswith("Histograms of response_words on a logarithmic axis, one below")


def test_alternative_texts_of_much_stay_short():
    many = {f"choice {at}": np.arange(at, 2 * at + 3) for at in range(12)}
    rounds = [(at, np.arange(5.0), np.arange(2.0)) for at in range(40)]
    crowd = facts(rounds=[distribution_by_round("x", rounds)], overlap=overlaps(many, 30))
    for each in figures(crowd):
        assert len(each.alt) < 500
    assert "in 40 rounds, the first and the last" in figures(crowd)[0].alt
    assert re.search(r"Lowest: .* 0\.00; highest: .* 0\.\d\d", figures(crowd)[1].alt)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_images_of_rich_facts(name, dark):
    check_image(png(everything(), name, dark), dark)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("at", range(7))
def test_drawings_of_the_least_facts(at, dark):
    poor = least()
    draw(poor, figures(poor)[at].name, dark)
    assert len(figures(poor)) == 7


@pytest.mark.parametrize("at", range(8))
def test_words_of_other_people_are_shown_and_not_obeyed(at):
    wild = everything(HOSTILE)
    info = figures(wild)[at]
    assert len(figures(wild)) == 8
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", info.name)
    assert len(info.name) <= 60
    assert "\n" not in info.alt + info.title
    assert len(info.title) <= 80 and len(info.alt) < 700
    draw(wild, info.name, dark=False)


def test_names_differ_even_if_columns_hardly_do():
    columns = ["a!", "a?", "a-2", "日本", "中国", "x" * 300, "x" * 301]
    names = [each.name for each in figures(facts(distributions=[distribution(c, {"p": np.ones(2)}) for c in columns]))]
    assert names[:5] == ["scores-a", "scores-a-2", "scores-a-2-2", "scores", "scores-2"]
    assert len(set(names)) == len(columns)


def test_bytes_are_the_same_every_time():
    assert png(everything(), "lengths", dark=True) == png(everything(), "lengths", dark=True)


def test_bytes_do_not_depend_on_settings_of_others():
    import matplotlib

    plain = png(least(), "training", dark=False)
    with matplotlib.rc_context({"font.size": 20, "savefig.dpi": 30, "lines.antialiased": False}):
        assert png(least(), "training", dark=False) == plain


def test_a_figure_that_is_not_there():
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
