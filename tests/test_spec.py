"""Names and settings of scores, selectors and filters: to JSON and back."""

import json
import sys
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa
import pytest

from hf_datasel import score, select
from hf_datasel.errors import ConfigError
from hf_datasel.rounds.selector import RowFilter, Selector
from hf_datasel.scores import IFD, DeitaScore, Length, Loss, PromptLoss, RewardGap, Score, get_score, list_scores
from hf_datasel.selectors import (
    Chain,
    Deita,
    InRange,
    IterIT,
    NoNearDuplicates,
    Random,
    Top,
    get_filter,
    get_selector,
    list_filters,
    list_selectors,
)
from hf_datasel.spec import (
    changed_settings,
    compact,
    current_name,
    description,
    from_name,
    from_spec,
    outside_names,
    spec_name,
    to_spec,
    upgraded,
)

MINE = """
from dataclasses import dataclass
import numpy as np
from hf_datasel.selectors import RoundContext, Selector

@dataclass(frozen=True)
class Every(Selector):
    step: int = 2

    def select(self, context: RoundContext) -> np.ndarray:
        return np.flatnonzero(context.eligible)[:: self.step][: context.budget]
"""
MY_SCORES = '''
from dataclasses import dataclass
import pyarrow as pa
from hf_datasel.scores import Score

@dataclass(frozen=True)
class Loss(Score):
    """Characters of the row.

    Not a loss at all.
    """

    factor: int = 1
    citation = "@misc{mine}"

    def columns(self):
        return {"mine": pa.int32()}

    def compute(self, rows, runner):
        lengths = [self.factor * len(row.text("pair")) for row in rows.pool.rows(rows.indices)]
        return {"mine": pa.array(lengths, pa.int32())}
'''


@pytest.fixture
def my_lab(tmp_path, monkeypatch):
    (tmp_path / "my_lab.py").write_text(MINE, encoding="utf-8")
    (tmp_path / "my_scores.py").write_text(MY_SCORES, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("my_lab", "my_scores"):
        sys.modules.pop(name, None)


@dataclass(frozen=True)
class Constant(Score):
    version: ClassVar[int] = 3

    def columns(self):
        return {"one": pa.int32()}

    def compute(self, rows, runner):
        return {"one": pa.array([1] * len(rows), pa.int32())}


@dataclass(frozen=True)
class LongerLoss(Loss):
    """A loss of our own."""


# -- names ------------------------------------------------------------------------------------------------------------
def test_names():
    assert [spec_name(item) for item in (Loss(), PromptLoss(), Top(by="x"), InRange("x"))] == [
        "loss",
        "prompt_loss",
        "top",
        "in_range",
    ]
    assert spec_name(Constant()) == f"{__name__}:Constant"
    assert spec_name(LongerLoss()) == f"{__name__}:LongerLoss"


def test_every_class_is_named_by_its_module():
    for classes, kind in ((list_scores(), Score), (list_selectors(), Selector), (list_filters(), RowFilter)):
        assert all(issubclass(cls, kind) for cls in classes.values())
        assert all(cls.__module__.rsplit(".", 1)[-1] == name for name, cls in classes.items())
    assert set(list_filters()) == {
        "decontaminate",
        "in_language",
        "in_range",
        "no_near_duplicates",
        "no_text_duplicates",
        "top_share",
    }
    assert "base" not in list_selectors()


def test_former_names():
    assert get_score("promptloss") == PromptLoss()
    perplexity = {"scorer": "perplexity"}
    assert get_score("rewardgap", perplexity) == RewardGap(**perplexity)
    assert get_score("deita") == DeitaScore()
    assert get_selector("deita") == Deita()
    assert get_filter("no_near_copies") == NoNearDuplicates()
    names = ("IFD", "RewardGap", "Deita", "PromptLoss", "my_scores:Loss")
    assert [current_name("score", name) for name in names] == [
        "ifd",
        "reward_gap",
        "deita_score",
        "prompt_loss",
        "my_scores:Loss",
    ]


def test_upgraded():
    spec = {
        "selector": "chain",
        "filters": [{"filter": "no_near_copies", "by": {"score": "promptloss"}}],
        "then": {"selector": "deita", "by": {"score": "deita"}},
    }
    assert upgraded(spec) == {
        "selector": "chain",
        "filters": [{"filter": "no_near_duplicates", "by": {"score": "prompt_loss"}}],
        "then": {"selector": "deita", "by": {"score": "deita_score"}},
    }
    assert upgraded([{"score": "IFD", "model": None}]) == [{"score": "ifd", "model": None}]


def test_description():
    assert description(Loss)["about"].startswith("Mean") or description(Loss)["about"]
    assert description(Loss)["citation"] == Loss.citation != ""
    assert description(Constant) == {"about": "", "citation": ""}
    assert description(LongerLoss) == {"about": "A loss of our own.", "citation": ""}


# -- specs ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("settings", [{}, {"candidates": "code", "diversity": "both"}])
def test_spec_round_trip(settings):
    spec = json.loads(json.dumps(IterIT(**settings).spec()))
    assert from_spec(spec, "selector") == IterIT(**settings)


def test_nested_spec_round_trip():
    chain = Chain([InRange(Length(), low=3), NoNearDuplicates("v")], then=Top(by=Loss(reduction="sum")))
    spec = json.loads(json.dumps(to_spec(chain)))
    assert spec["then"] == {"selector": "top", "by": {"score": "loss", "reduction": "sum"}}
    assert spec["filters"][0] == {"filter": "in_range", "by": {"score": "length"}, "low": 3}
    assert from_spec(spec, "selector") == chain


def test_changed_settings():
    assert changed_settings(IFD()) == {}
    assert changed_settings(IFD("gpt2", convention="cherry")) == {"model": "gpt2", "convention": "cherry"}
    assert changed_settings(Top(by="loss")) == {"by": "loss"}
    assert changed_settings(IterIT(), {"decay": 0.5}) == {"decay": 0.5}


def test_compact():
    assert compact(IterIT(decay=0).spec()) == {"selector": "iterit", "decay": 0}
    nested = Chain([InRange("x", low=1)], then=IterIT())
    assert compact(nested.spec())["then"] == {"selector": "iterit"}


def test_outside_names():
    spec = {"selector": "chain", "filters": [{"filter": "a:B"}], "then": {"selector": "top", "by": {"score": "c:D"}}}
    assert outside_names(spec) == ["a:B", "c:D"]
    assert outside_names(IterIT().spec()) == []


# -- objects from names -----------------------------------------------------------------------------------------------
def test_by_name():
    assert get_selector("random") == Random()
    assert get_selector("iterit", {"quality": "ifd", "decay": 0}) == IterIT(quality="ifd", decay=0)
    assert set(list_selectors()) >= {"all", "graphfilter", "iterit", "longest", "random", "superfiltering", "top"}


def test_misspelt_name():
    with pytest.raises(
        ConfigError,
        match=r"no selector 'itterit'\. Did you mean 'iterit'\? There are all, .*chain, .*Your own is named by its",
    ):
        get_selector("itterit")


def test_unknown_name():
    with pytest.raises(ConfigError, match=r"no selector 'xyz'\. There are all, .*chain, .*cross_entropy, deita, "):
        get_selector("xyz")
    with pytest.raises(
        ConfigError, match=r"no score 'xyz'\. There are cluster, compressibility, contamination, deita_score, "
    ):
        get_score("xyz")


@pytest.mark.parametrize("name", ["base", "IterIT", "", "hf_datasel.selectors.iterit", "in_range", "Loss"])
def test_names_of_other_things(name):
    with pytest.raises(ConfigError, match="There is no selector"):
        get_selector(name)


def test_misspelt_setting():
    with pytest.raises(
        ConfigError, match=r"iterit has no setting 'canddates'\. Did you mean 'candidates'\? It has \["
    ):
        get_selector("iterit", {"canddates": "code"})


def test_missing_setting():
    with pytest.raises(ConfigError, match=r"top needs the setting 'by'"):
        get_selector("top")
    assert get_selector("top", {"by": "loss"}) == Top(by="loss")


def test_wrong_value():
    with pytest.raises(ConfigError, match=r"IterIT\(decay=3\)"):
        get_selector("iterit", {"decay": 3})


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "cherry",
            {"clusters": {"scores": "cluster", "k": 4}},
            r"Did you mean 'score' for 'scores', as in clusters: {score: cluster, k: 4}\?$",
        ),
        (
            "chain",
            {"filters": [{"filtre": "in_range", "by": "x"}], "then": {"selector": "random"}},
            r"Did you mean 'filter' for 'filtre', as in filters: {filter: in_range, by: x}\?$",
        ),
        (
            "chain",
            {"filters": [], "then": {"selektor": "random"}},
            r"Did you mean 'selector' for 'selektor', as in then: {selector: random}\?$",
        ),
    ],
)
def test_misspelt_key_within_a_setting(name, settings, message):
    with pytest.raises(ConfigError, match=message):
        get_selector(name, settings)


def test_no_such_hint_for_errors_of_other_settings():
    with pytest.raises(ConfigError, match=r"warmup_size=-1\): it has to be an int of at least 1\.$"):
        get_selector("cherry", {"warmup_size": -1, "clusters": {"score": "cluster", "k": 4}})


# -- names in Python --------------------------------------------------------------------------------------------------
def test_from_name():
    assert from_name("random", "selector") == Random()
    assert from_name({"top": {"by": "loss"}}, "selector") == Top(by="loss")
    assert from_name({"score": "ifd", "model": "gpt2"}, "score") == IFD("gpt2")
    assert from_name({"length": None}, "score") == Length()
    assert from_name(IFD(), "score") == IFD()
    with pytest.raises(ConfigError, match=r"in Python import its class and pass .* \(from my_lab import Every\)"):
        from_name("my_lab:Every", "selector")
    with pytest.raises(ConfigError, match="has to be the name of a score, or a mapping of one name to its settings"):
        from_name({"ifd": {}, "loss": {}}, "score")


def test_select_and_score_take_names(pool_rows):
    assert select(pool_rows, "random", size=3).indices.tolist() == select(pool_rows, Random(), size=3).indices.tolist()
    by_length = select(pool_rows, {"top": {"by": {"score": "length"}}}, size=3)
    assert by_length.indices.tolist() == select(pool_rows, Top(by=Length()), size=3).indices.tolist()
    scored = score(pool_rows, ["length", {"compressibility": {"column_prefix": "my_"}}])
    assert {"response_words", "my_compressibility"} <= set(scored.column_names)
    assert score(pool_rows, "length")["response_words"][:] == scored["response_words"][:]


# -- classes outside the package --------------------------------------------------------------------------------------
def test_imports_have_to_be_permitted(my_lab):
    with pytest.raises(ConfigError, match=r"'my_lab:Every' is code outside hf_datasel\. Permit it with allow_imports"):
        get_selector("my_lab:Every")
    with pytest.raises(ConfigError, match=r"Score 'my_scores:Loss' is code outside hf_datasel"):
        get_selector("top", {"by": {"score": "my_scores:Loss"}})
    assert not {"my_lab", "my_scores"} & set(sys.modules)


def test_own_selector(my_lab, pool_rows):
    selector = get_selector("my_lab:Every", {"step": 3}, allow_imports=True)
    selection = select(pool_rows, selector, size=3)
    assert selection.indices.tolist() == [0, 3, 6]
    assert selection.provenance["selector"] == {"selector": "my_lab:Every", "step": 3}
    assert from_spec(selection.provenance["selector"], "selector", allow_imports=True) == selector
    with pytest.raises(ConfigError, match=r"has no setting 'stepp'\. Did you mean 'step'"):
        get_selector("my_lab:Every", {"stepp": 3}, allow_imports=True)


def test_own_score_named_like_ours(my_lab, pool_rows):
    selector = get_selector("top", {"by": {"score": "my_scores:Loss", "factor": 2}}, allow_imports=True)
    selection = select(pool_rows, selector, size=3)
    provenance = selection.provenance
    assert provenance["selector"]["by"] == {"score": "my_scores:Loss", "factor": 2}
    assert provenance["scores"] == [
        {
            "score": "my_scores:Loss",
            "version": 1,
            "about": "Characters of the row.",
            "citation": "@misc{mine}",
            "column_prefix": "",
            "factor": 2,
        }
    ]
    assert from_spec(json.loads(json.dumps(selector.spec())), "selector", allow_imports=True) == selector


def test_equal_names_do_not_share_results(my_lab, pool_rows, monkeypatch):
    """Two scores of the same name and settings, from different modules, are computed separately."""
    mine = get_score("my_scores:Loss", {"factor": 3}, allow_imports=True)
    source = sys.modules["my_scores"].__file__
    with open(source, encoding="utf-8") as file:
        text = file.read().replace("self.factor *", "-self.factor *")
    with open(source.replace("my_scores", "other_scores"), "w", encoding="utf-8") as file:
        file.write(text)
    reference = get_score("other_scores:Loss", {"factor": 3}, allow_imports=True)
    assert repr(mine) == repr(reference)
    chain = Chain([InRange(reference, high=0)], then=Top(by=mine))
    assert len(select(pool_rows, chain, size=2).indices) == 2
    sys.modules.pop("other_scores")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_lab:Mine", r"cannot be imported: No module named 'no_such_lab'\. Looked for no_such_lab.py or a "),
        ("my_labb.py:Every", r"'my_labb\.py:Every' names a file\. Leave \.py out: my_labb:Every\.$"),
        ("my_lab:Evry", r"cannot be imported: .*my_lab\.py has no 'Evry'\. Did you mean 'Every'\?$"),
        ("my_lab:MINE", r"cannot be imported: .*my_lab\.py has no 'MINE'\.$"),
        ("my_lab.py:Every", r"Selector 'my_lab\.py:Every' names a file\. Leave \.py out: my_lab:Every\.$"),
        ("my_lab.Every:Every", r"cannot be imported: No module named 'my_lab\.Every'.* Did you mean 'my_lab'\?$"),
        (":Every", r"'' is no module\. It is named as in my_selector:Mine\."),
        (".my_lab:Every", r"'\.my_lab' is no module"),
        ("./my_lab.py:Every", r"'\./my_lab\.py' is no module"),
        ("my_lab:", "has no ''"),
        ("my_lab:dataclass", "is not a subclass of hf_datasel.selectors.Selector"),
        ("my_scores:Loss", "is not a subclass of hf_datasel.selectors.Selector"),
        ("collections:Counter", "is not a subclass of hf_datasel.selectors.Selector"),
        (
            "__main__:Mine",
            r"was defined in the program that was run, and others cannot import it\. Put the class into",
        ),
    ],
)
def test_classes_that_cannot_be_imported(my_lab, name, message):
    with pytest.raises(ConfigError, match=message):
        get_selector(name, allow_imports=True)


def test_missing_module(my_lab, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = f"the current folder {tmp_path} and among the installed packages"
    looked = f"Looked for my_lb\\.py or a folder my_lb in {folders}\\.$"
    with pytest.raises(ConfigError, match=rf"Did you mean 'my_lab'\? {looked}"):
        get_selector("my_lb:Every", allow_imports=True)
    (tmp_path / "group").mkdir()
    (tmp_path / "group" / "selected.py").write_text(MINE, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"Did you mean 'selected'\? Looked for selectd\.py .*group\.$"):
        get_selector("group.selectd:Every", allow_imports=True)
    assert get_selector("group.selected:Every", allow_imports=True).step == 2


def test_current_folder_that_is_not_searched(tmp_path, monkeypatch):
    (tmp_path / "selectors_of_mine.py").write_text(MINE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    with pytest.raises(ConfigError, match=rf"and not in the current folder {tmp_path}\.$"):
        get_selector("selectors_of_mine:Every", allow_imports=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_package\n", r"cannot be imported: No module named 'no_such_package'\.$"),
        ("def select(:\n", r"cannot be imported: invalid syntax \(my_lab\.py, line 1\)\.$"),
        (
            MINE.replace("@dataclass(frozen=True)", ""),
            r"has settings \(step\): put @dataclass\(frozen=True\) above it",
        ),
    ],
)
def test_broken_module(my_lab, tmp_path, text, message):
    (tmp_path / "my_lab.py").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        get_selector("my_lab:Every", allow_imports=True)
