import json
import sys

import pytest

from hf_datasel import select
from hf_datasel.errors import ConfigError
from hf_datasel.rounds.selector import Selector
from hf_datasel.selectors import IterIT, Random, Top, available, by_name

MINE = """
from dataclasses import dataclass
import numpy as np
from hf_datasel.selectors import Round, Selector

@dataclass(frozen=True)
class Every(Selector):
    step: int = 2

    def choose(self, round: Round) -> np.ndarray:
        return np.flatnonzero(round.eligible)[:: self.step][: round.budget]
"""


@pytest.fixture
def my_lab(tmp_path, monkeypatch):
    (tmp_path / "my_lab.py").write_text(MINE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_lab", None)


def test_a_module_name_is_the_name():
    assert by_name("random") == Random()
    assert by_name("iterit", {"quality": "ifd", "decay": 0}) == IterIT(quality="ifd", decay=0)
    assert set(available()) >= {"all", "graphfilter", "iterit", "longest", "random", "superfiltering", "top"}
    assert all(issubclass(kind, Selector) for kind in available().values())
    assert "base" not in available()


@pytest.mark.parametrize("settings", [{}, {"candidates": "code", "diversity": "both"}])
def test_a_spec_gives_the_selector_back(settings):
    spec = json.loads(json.dumps(IterIT(**settings).spec()))
    assert by_name(spec.pop("selector"), spec) == IterIT(**settings)


def test_a_misspelt_name_gets_a_suggestion():
    with pytest.raises(
        ConfigError,
        match=r"no selector 'itterit'\. Did you mean 'iterit'\? There are all, chain, .*Your own goes by its module",
    ):
        by_name("itterit")


def test_a_name_like_no_other_gets_the_list():
    with pytest.raises(ConfigError, match=r"no selector 'xyz'\. There are all, chain, .*cross_entropy, deita, "):
        by_name("xyz")


@pytest.mark.parametrize("name", ["base", "IterIT", "", "hf_datasel.selectors.iterit"])
def test_other_names_are_no_selectors(name):
    with pytest.raises(ConfigError, match="There is no selector"):
        by_name(name)


def test_a_misspelt_setting_gets_a_suggestion():
    with pytest.raises(
        ConfigError, match=r"iterit has no setting 'canddates'\. Did you mean 'candidates'\? It has \["
    ):
        by_name("iterit", {"canddates": "code"})


def test_a_setting_that_is_missing():
    with pytest.raises(ConfigError, match=r"top needs the setting 'by'"):
        by_name("top")
    assert by_name("top", {"by": "loss"}) == Top(by="loss")


def test_a_value_that_cannot_be():
    with pytest.raises(ConfigError, match=r"IterIT\(decay=3\)"):
        by_name("iterit", {"decay": 3})


def test_a_dotted_name_needs_leave(my_lab):
    with pytest.raises(ConfigError, match=r"'my_lab:Every' is code outside hf_datasel\. Pass --allow-imports"):
        by_name("my_lab:Every")
    assert "my_lab" not in sys.modules


def test_somebody_elses_selector(my_lab, rows):
    selector = by_name("my_lab:Every", {"step": 3}, allow_imports=True)
    selection = select(rows, selector, size=3)
    assert selection.indices.tolist() == [0, 3, 6]
    assert selection.provenance["selector"] == {"selector": "my_lab:Every", "step": 3}
    spec = dict(selection.provenance["selector"])
    assert by_name(spec.pop("selector"), spec, allow_imports=True) == selector
    with pytest.raises(ConfigError, match=r"has no setting 'stepp'\. Did you mean 'step'"):
        by_name("my_lab:Every", {"stepp": 3}, allow_imports=True)


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
        ("collections:Counter", "is not a subclass of hf_datasel.selectors.Selector"),
    ],
)
def test_dotted_names_that_lead_nowhere(my_lab, name, message):
    with pytest.raises(ConfigError, match=message):
        by_name(name, allow_imports=True)


def test_a_module_that_is_not_there_is_looked_for_by_name(my_lab, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    looked = (
        f"Looked for my_lb\\.py or a folder my_lb in the current folder {tmp_path} and among what is installed\\.$"
    )
    with pytest.raises(ConfigError, match=rf"Did you mean 'my_lab'\? {looked}"):
        by_name("my_lb:Every", allow_imports=True)
    (tmp_path / "group").mkdir()
    (tmp_path / "group" / "chosen.py").write_text(MINE, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"Did you mean 'chosen'\? Looked for chosn\.py .*group\.$"):
        by_name("group.chosn:Every", allow_imports=True)
    assert by_name("group.chosen:Every", allow_imports=True).step == 2


def test_where_the_current_folder_is_not_looked_in_it_is_said(tmp_path, monkeypatch):
    (tmp_path / "selectors_of_mine.py").write_text(MINE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", str(tmp_path))])
    with pytest.raises(ConfigError, match=rf"and not in the current folder {tmp_path}\.$"):
        by_name("selectors_of_mine:Every", allow_imports=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_package\n", r"cannot be imported: No module named 'no_such_package'\.$"),
        ("def choose(:\n", r"cannot be imported: invalid syntax \(my_lab\.py, line 1\)\.$"),
        (
            MINE.replace("@dataclass(frozen=True)", ""),
            r"has settings \(step\): put @dataclass\(frozen=True\) above it",
        ),
    ],
)
def test_a_file_that_cannot_be_used(my_lab, tmp_path, text, message):
    (tmp_path / "my_lab.py").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        by_name("my_lab:Every", allow_imports=True)


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
def test_a_misspelt_key_within_a_setting_is_shown_as_recipes_write_it(name, settings, message):
    with pytest.raises(ConfigError, match=message):
        by_name(name, settings)


def test_a_refusal_that_is_of_another_setting_has_no_such_hint():
    with pytest.raises(ConfigError, match=r"warmup_size=-1\): it has to be an int of at least 1\.$"):
        by_name("cherry", {"warmup_size": -1, "clusters": {"score": "cluster", "k": 4}})
