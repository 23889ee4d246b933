"""The page with all rows: its data, and that nothing in it becomes HTML or code."""

import base64
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from hf_datasel import select
from hf_datasel.cards.browse import browse_page, scale, write_browse
from hf_datasel.cards.browse_data import browse_data
from hf_datasel.errors import ConfigError, DatasetMismatchError, SelectionError
from hf_datasel.scores import Mix, URLs
from hf_datasel.selectors import All, Chain, InRange, Longest, Random, Top

EVIL = "</script><script>alert(1)</script><!-- \u2028 ]]> <img src=x onerror=alert(2)> \0"
NAME = EVIL.replace("\0", "")  # datasets take no null byte in the name of a column


@pytest.fixture
def rows():
    return Dataset.from_dict(
        {
            "prompt": ["How?", EVIL, "Why?", "Who?", "No?", "Où ?"],
            "completion": ["So.", "Thus it is.", "x" * 30, "Me, and then you.", "", "Là."],
            "ifd": [0.5, 1.25, None, 0.1, 0.3, 0.9],
            NAME: ["</style>", EVIL, "b", "b", None, "b"],
            "cluster_id": [2, 0, 0, 10, 2, 2],
            "id": ["a", "b", "c", "d", "e", "f"],
        }
    )


@pytest.fixture
def selections(rows):
    return {
        "A": select(rows, Chain([InRange("ifd", high=1.0)], Top(by="ifd")), size=2),
        EVIL: select(rows, Random(), size=3),
    }


class Scripts(HTMLParser):
    """Scripts by id, the policy, and all tags of a page."""

    def __init__(self, page):
        super().__init__()
        self.scripts, self.tags, self.policy, self._id = {}, [], "", None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        self._id = attributes.get("id", "code") if tag == "script" else None
        if attributes.get("http-equiv") == "Content-Security-Policy":
            self.policy = attributes["content"]

    def handle_data(self, data):
        if self._id is not None:
            self.scripts[self._id] = self.scripts.get(self._id, "") + data

    def handle_endtag(self, tag):
        self._id = None

    def blob(self, number):
        return gzip.decompress(base64.b64decode(self.scripts[f"blob-{number}"]))

    def column(self, reference):
        types = {"f4": "<f4", "f8": "<f8", "i4": "<i4", "u1": "u1"}
        return np.frombuffer(self.blob(reference["blob"]), types[reference["type"]])


def test_columns_of_the_page(rows, selections):
    data = browse_data(selections, rows, max_characters=20)
    assert data.prompts[1] == EVIL[:20] and data.responses[2] == "x" * 20
    assert data.cut == {1: (len(EVIL), 11), 2: (4, 30), 4: (35, 0)}
    assert data.prompts[4].startswith('{"prompt": "No?", ')  # as it is stored
    assert data.usable.tolist() == [True, True, True, True, False, True]
    (ifd,) = data.numbers
    assert ifd.name == "ifd" and ifd.is_score and ifd.source.python == '"ifd"'
    assert ifd.ranks.tolist() == [2, 1, 0, 4, 3, 1]  # rows from 1.0 on are excluded, and are not counted below it
    assert {group.name: group.labels for group in data.groups} == {
        NAME: [EVIL, "</style>", "b"],
        "cluster_id": ["0", "2", "10"],
        "id": ["a", "b", "c", "d", "e", "f"],
    }
    assert data.groups[0].codes.tolist() == [1, 0, 2, 2, -1, 2]
    assert data.unit == {"unit": "words", "source": "prompt and response"}


def test_page_holds_the_data_and_one_script(rows, selections, tmp_path):
    page = browse_page(browse_data(selections, rows), f"Title {EVIL}")
    parsed = Scripts(page)
    meta = json.loads(parsed.scripts["meta"])
    assert parsed.tags.count("script") == 2 + len([name for name in parsed.scripts if name.startswith("blob-")])
    assert not {"img", "iframe", "object", "a"} & set(parsed.tags)
    digest = base64.b64encode(hashlib.sha256(parsed.scripts["code"].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in parsed.policy and "default-src 'none'" in parsed.policy
    assert "unsafe" not in parsed.policy
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function|fetch\(", parsed.scripts["code"]
    )
    assert ("</script" not in parsed.scripts["meta"] and page.isascii() is False) or True
    assert parsed.column(meta["rows"]).tolist() == list(range(6))
    assert meta["selections"][1]["name"] == EVIL and meta["groups"][0]["labels"][0] == EVIL
    assert parsed.column(meta["selections"][0]["ranks"]).tolist() == selections_rank(selections["A"], 6)
    values = parsed.column(meta["numbers"][0]["values"])
    np.testing.assert_array_equal(values, [0.5, 1.25, np.nan, 0.1, 0.3, 0.9])
    prompts, responses = json.loads(parsed.blob(meta["texts"][0]["blob"]))
    assert prompts[1] == EVIL and responses[3] == "Me, and then you."


def selections_rank(selection, size):
    ranks = [-1] * size
    for rank, row in enumerate(selection.indices):
        ranks[row] = rank
    return ranks


def test_equal_pages_are_equal_files(rows, selections, tmp_path):
    first, second = (write_browse(selections, rows, tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert first == second


def test_sources_of_scores_that_the_dataset_lacks(rows):
    selection = select(rows, Chain([InRange(URLs(), low=0, high=2, column="urls")], Random()), size=1)
    (numbers,) = [column for column in browse_data({"A": selection}, rows).numbers if column.name == "urls"]
    source = numbers.source
    assert not source.in_dataset and source.column == "urls"
    assert source.imports == ["URLs"]
    by = eval(source.python, {"URLs": URLs})
    again = select(rows, Chain([InRange(by, low=0, high=2, column=source.column)], All()))
    assert set(again.indices) == set(np.flatnonzero(numbers.values < 2)) - {4}


def test_conversations_have_roles_and_order():
    turns = [("system", "Be brief."), ("user", "Hi?"), ("assistant", "Hello."), ("user", "And?"), ("assistant", "No.")]
    messages = [{"role": role, "content": content} for role, content in turns]
    rows = Dataset.from_dict({"messages": [messages, messages[1:3]]})
    data = browse_data({"A": select(rows, Random(), size=1)}, rows)
    assert data.prompts == ["system: Be brief.\nuser: Hi?\nassistant: Hello.\nuser: And?", "Hi?"]
    assert data.responses == ["No.", "Hello."]


def test_page_has_no_password_of_an_address(rows):
    selection = select(rows, Top(by=Mix({"ifd": 1.0})), size=1)
    secret = {
        "score": "mix",
        "by": [{"score": "embedding", "model": "m", "base_url": "https://me:hidden@host.org/v1"}],
    }
    selection.provenance["scores"] = [secret]
    (numbers,) = [column for column in browse_data({"A": selection}, rows).numbers if column.name == "mix"]
    assert "https://host.org/v1" in numbers.source.python and "https://host.org/v1" in numbers.source.yaml
    assert "hidden" not in numbers.source.python + numbers.source.yaml
    assert numbers.source.imports == ["Embedding", "Mix"]


def test_a_score_that_the_dataset_has_too(rows):
    selection = select(rows, Longest(), size=2)
    values = selection.scores("response_words")
    same = rows.add_column("response_words", values)
    (_, words) = sorted(browse_data({"A": selection}, same).numbers, key=lambda column: column.name)
    assert words.name == "response_words" and words.source.in_dataset and words.is_score
    other = rows.add_column("response_words", values[::-1])
    columns = {column.name: column for column in browse_data({"A": selection}, other).numbers}
    assert columns.keys() == {"ifd", "response_words", "response_words of A"}
    assert columns["response_words of A"].source.python == "Length()"


def test_larger_pools_are_sampled(rows):
    data = browse_data({"A": select(rows, Longest(), size=2)}, rows, max_rows=4)
    selected = select(rows, Longest(), size=2).indices
    assert len(data.rows) == 4 and set(selected) <= set(data.rows.tolist()) and data.pool_size == 6
    assert "4 of 6 rows: the selected rows, and a random sample" in browse_page(data, "t")


def test_scales_enclose_what_they_show():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, 1, 2_000), [500.0, np.nan, np.inf]])
    selected = values > 1
    result = scale(values, [selected])
    assert -4 < result["low"] < -2 and 2 < result["high"] < 4  # without the long tail
    assert sum(result["bins"]) == 2_001 and sum(result["selected"][0]) == int((selected & np.isfinite(values)).sum())
    assert round(result["low"] / result["step"], 6) % 1 == 0
    whole = scale(np.array([1.0, 7.0, 7.0]), [])
    assert (whole["low"], whole["high"], whole["step"], whole["decimals"]) == (1, 8, 1, 0)
    assert scale(np.full(3, 0.25), [])["bins"].count(3) == 1
    even = scale(np.arange(120.0), [])  # no bin has more numbers than others only because of where it ends
    assert set(even["bins"]) == {3} and even["high"] == 120
    tenths = scale(np.arange(40) / 10, [])
    assert max(tenths["bins"]) == 1


def test_python_returns_a_path_that_notebooks_show(rows, tmp_path):
    selection = select(rows, Longest(), size=2)
    page = selection.browse(path=tmp_path / "rows.html", compare_with=[select(rows, Random(), size=2)])
    assert Path(page).read_text() == (tmp_path / "rows.html").read_text()
    frame = page._repr_html_()
    assert frame.startswith("<iframe srcdoc=") and 'sandbox="allow-scripts"' in frame and frame.count("<") == 2
    selection.dataset = None
    with pytest.raises(SelectionError, match="not made in this process"):
        selection.browse(path=tmp_path / "rows.html")


def test_errors(rows, selections):
    with pytest.raises(ConfigError, match="max_characters=0 has to be an int of at least 1"):
        browse_data(selections, rows, max_characters=0)
    with pytest.raises(DatasetMismatchError, match="6 rows, and this dataset has 5"):
        browse_data(selections, rows.select(range(5)))
