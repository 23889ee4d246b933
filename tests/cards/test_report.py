"""The report: one file that asks nothing of a network, and facts that come back as they were."""

from __future__ import annotations

import base64
import copy
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from hf_datasel import select
from hf_datasel.cards import report
from hf_datasel.cards.build import gather
from hf_datasel.cards.card import page, without_other_rows
from hf_datasel.cards.report import read_facts, read_results, write_card, write_report
from hf_datasel.errors import PublishError
from hf_datasel.hub.card_yaml import split_card
from hf_datasel.selectors import Top

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
OURS = {
    "html", "head", "meta", "title", "link", "style", "body", "main", "h1", "h2", "p", "details", "summary",
    "ul", "li", "a", "em", "strong",
    "code", "pre", "picture", "br", "source", "img", "div", "table", "thead", "tbody", "tr", "th", "td",
}  # fmt: skip
VOID = {"meta", "link", "img", "source", "br", "hr"}
RESULT = {
    "trained_on": "this selection",
    "metric": "loss",
    "dataset": "held-out rows",
    "value": 1.25,
    "note": "1 seed",
}
TRAINING = {
    "model": "tiny",
    "settings": {"learning_rate": 0.01},
    "steps": 4,
    "epochs": 2.0,
    "loss": [(1, 4.5), (2, 4.25), (4, 4.0)],
    "eval_loss": [(4, 4.125)],
    "selection_time_share": 0.25,
}


class Page(HTMLParser):
    """Tags with their attributes, the text of the body, and whether every tag that was opened is closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text, self.headings = [], [], "", []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def facts(pool_rows):
    scored = pool_rows.add_column("ifd", np.linspace(0.1, 1.3, len(pool_rows)).astype(np.float32))
    selection = select(scored, Top(by="ifd"), size=6)
    return gather([selection], scored, title="The best six", results=[RESULT], training=TRAINING)


@pytest.fixture
def no_drawing(monkeypatch):
    monkeypatch.setattr(report, "png", lambda facts, name, dark: PIXEL)


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def html(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


def test_html_is_one_file_without_requests(facts, tmp_path, no_drawing):
    paths = write_report(facts, tmp_path)
    assert sorted(paths) == sorted(tmp_path / name for name in files(tmp_path))
    shown = Page(html(tmp_path))
    links = [attributes.pop("href") for attributes in shown.all("a")]
    assert links
    assert all(link.startswith("https://") for link in links)
    for tag, attributes in shown.tags:
        assert tag in OURS
        for name in {"src", "href", "srcset", "poster", "data", "action", "background"} & set(attributes):
            assert attributes[name].startswith("data:"), (tag, name)
    assert "@import" not in html(tmp_path)
    assert "url(" not in html(tmp_path)
    (policy,) = [item["content"] for item in shown.all("meta") if "http-equiv" in item]
    assert set(policy.split("; ")) == {
        "default-src 'none'", "style-src 'unsafe-inline'", "img-src data:", "base-uri 'none'", "form-action 'none'",
    }  # fmt: skip
    assert shown.all("html") == [{"lang": "en"}]


def test_images_are_embedded_for_both_themes(facts, tmp_path):
    write_report(facts, tmp_path)
    images = {name: content for name, content in files(tmp_path).items() if name.endswith(".png")}
    shown = Page(html(tmp_path))
    light = [base64.b64decode(item["src"].partition(",")[2]) for item in shown.all("img")]
    dark = [base64.b64decode(item["srcset"].partition(",")[2]) for item in shown.all("source")]
    assert light == [images[f"plots/{name}-light.png"] for name in names(facts)]
    assert dark == [images[f"plots/{name}-dark.png"] for name in names(facts)]
    assert len(set(light + dark)) == len(images) == 2 * len(names(facts)) > 4
    assert all(item["media"] == "(prefers-color-scheme: dark)" for item in shown.all("source"))
    assert all(len(item["alt"]) > 20 for item in shown.all("img"))


def names(facts):
    return [item.name for item in report.figures(facts)]


def test_html_matches_markdown(facts, tmp_path, no_drawing):
    write_report(facts, tmp_path)
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert markdown == page(facts)
    assert Page(html(tmp_path)).headings == re.findall(r"^## (.*)$", markdown, re.MULTILINE)
    assert len(Page(html(tmp_path)).all("table")) == markdown.count("| --- |\n")
    assert all((tmp_path / name).is_file() for name in re.findall(r'src(?:set)?="(.+?)"', markdown))


def test_facts_roundtrip(facts, tmp_path, no_drawing):
    backwards = dict(reversed(facts.items())) | {"method": dict(reversed(facts["method"].items()))}
    write_report(backwards, tmp_path)
    assert read_facts(tmp_path / "facts.json") == facts
    text = (tmp_path / "facts.json").read_text(encoding="utf-8")
    assert list(json.loads(text)) == list(facts)
    assert list(json.loads(text)["method"]) == list(facts["method"])
    assert text.endswith("}\n")
    counts = facts["sections"]["distributions"][0]["groups"][0]["counts"]
    assert f'"counts": [{", ".join(map(str, counts))}]' in text


def test_facts_are_not_ascii_escaped(facts, tmp_path, no_drawing):
    write_report({**facts, "title": "最好的六行"}, tmp_path)
    assert '"title": "最好的六行"' in (tmp_path / "facts.json").read_text(encoding="utf-8")


def test_nan_loss_is_valid_json(facts, tmp_path, no_drawing):
    facts["training"] = {**TRAINING, "loss": [(1, 4.5), (2, math.nan)]}
    write_report(facts, tmp_path)
    content = json.loads((tmp_path / "facts.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert content["training"]["loss"] == [[1, 4.5], [2, None]]
    assert math.isnan(read_facts(tmp_path / "facts.json")["training"]["loss"][1][1])


def test_report_is_deterministic(facts, tmp_path):
    facts["sections"] |= {"lengths": None, "overlap": None}  # one figure is enough
    facts["training"] = None
    write_report(facts, tmp_path / "a")
    write_report(copy.deepcopy(facts), tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_card_from_facts(facts, tmp_path, no_drawing):
    write_card({**facts, "images": "https://example.org/"}, tmp_path / "a")
    metadata, body = split_card((tmp_path / "a" / "README.md").read_text(encoding="utf-8"))
    assert metadata["pretty_name"] == "The best six"
    assert page(without_other_rows(facts)) in body
    assert all((tmp_path / "a" / name).is_file() for name in re.findall(r'src(?:set)?="(.+?)"', body))
    write_card(read_facts(tmp_path / "a" / "facts.json"), tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")


HOSTILE = [
    "<script>alert(1)</script>",
    "</title></style></main><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}{% include 'x' %}",
    "---",
    "- one\n\n# two\n\n***",
    "](javascript:alert(1)) ![x](https://example.org/x.png) <https://example.org>",
    '" onerror="alert(1)" x="',
    "` `` ``` </code></pre>\n```\n<b>",
    "a | b |\n| --- |",
    "<!-- <![CDATA[ &lt;script&gt; \\",
    "\u202eevil\x00\x1b[2J",
]


def with_words(facts, words):
    """Return the facts with these words for all names of datasets, models and users."""
    facts = copy.deepcopy(facts)
    facts["title"] = words
    facts["parent"] |= {"name": words, "revision": words, "config": words, "split": words, "id": words}
    facts["parent"]["metadata"] = {"license": words}
    facts["method"] = {
        "selector": words,
        "name": words,
        "about": words,
        "settings": {words: words, "b": [{words: words}]},
        "citation": words,
    }
    facts["scores"] = [{"score": words, words: words}]
    facts["rounds"][0] |= {"model": {"name": words}, "columns_unverified": [words], "means": {words: (0.1, 0.2)}}
    facts["rounds"][0] |= {"not_eligible": {words: 1}, "exclusions": {words: 3}}
    facts["sections"]["reproduce"] |= {
        "recipe": {"dataset_name": words, "selector_kwargs": {words: words}, "list": [words]},
        "unsettled": [words],
        "versions": {words: words},
    }
    facts["sections"]["evaluation"] = [
        {"trained_on": words, "metric": words, "dataset": words, "value": 1.0, "note": words}
    ]
    facts["training"]["model"] = words
    for summary in facts["sections"]["distributions"]:
        summary["column"] = words
    return facts


@pytest.mark.parametrize("words", HOSTILE)
def test_foreign_text_is_escaped(words, facts, tmp_path, no_drawing):
    write_report(with_words(facts, "some words"), tmp_path / "ours")
    write_report(with_words(facts, words), tmp_path / "theirs")
    own, foreign = Page(html(tmp_path / "ours")), Page(html(tmp_path / "theirs"))
    assert {tag for tag, _ in foreign.tags} <= OURS
    assert foreign.headings == own.headings
    for tag in ("a", "table", "tr", "td", "pre", "li", "img", "h1", "style", "meta"):
        assert len(foreign.all(tag)) == len(own.all(tag)), tag
    assert [set(item) for item in foreign.all("img")] == [set(item) for item in own.all("img")]
    assert foreign.all("a") == own.all("a")
    shown = " ".join("".join(item if item.isprintable() else " " for item in words).split())
    assert foreign.text.count(shown) >= 20
    assert read_facts(tmp_path / "theirs" / "facts.json")["title"] == words


@pytest.mark.parametrize("letter", ["x", "<"])
def test_long_names_are_cut(letter, facts, tmp_path, no_drawing):
    long = letter * 1_000_000
    facts["title"] = facts["sections"]["distributions"][0]["column"] = long
    facts["method"]["settings"] = {long: long}
    write_report(facts, tmp_path)
    assert Page(html(tmp_path)).all("h1") == [{}]
    assert len(html(tmp_path)) < 100_000


# -- what is refused -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 1}, "has format_version 1, but this version of hf_datasel reads 2. Write it again"),
        ({"title": 3}, r"facts.json\['title'\] has to be text, not a whole number"),
        ({"tittle": "x"}, "has an unknown key 'tittle'. Did you mean 'title'?"),
        ({"rounds": {}}, r"facts.json\['rounds'\] has to be a list, not an object"),
        ({"rounds": [{}]}, r"facts.json\['rounds'\]\[0\] has no 'config'"),
        ({"sections": {}}, r"facts.json\['sections'\] has no 'distributions'"),
        ({"sections": {"length": None}}, r"\['sections'\] has an unknown key 'length'. Did you mean 'lengths'"),
        ({"seed": True}, r"facts.json\['seed'\] has to be a whole number, not true or false"),
        ({"training": {**TRAINING, "loss": [[1]]}}, r"\['loss'\]\[0\] has to be a list of 2, not a list"),
        ({"parent": None}, r"facts.json\['parent'\] has to be an object, not null"),
    ],
)
def test_invalid_facts_are_refused(change, message, facts, tmp_path):
    (tmp_path / "facts.json").write_text(json.dumps({**facts, **change}))
    with pytest.raises(PublishError, match=message):
        read_facts(tmp_path / "facts.json")


@pytest.mark.parametrize(("content", "message"), [(b"{", "is not valid JSON"), (b"\xff", "is not valid JSON")])
def test_broken_json_is_refused(content, message, tmp_path):
    (tmp_path / "facts.json").write_bytes(content)
    with pytest.raises(PublishError, match=message):
        read_facts(tmp_path / "facts.json")
    with pytest.raises(PublishError, match=r"Cannot read .*: No such file"):
        read_facts(tmp_path / "nowhere.json")


def test_publication_outside_the_folder_is_refused(facts, tmp_path, no_drawing):
    with pytest.raises(PublishError, match=r"publication='../x' has to consist of letters"):
        write_card({**facts, "publication": "../x"}, tmp_path)
    assert files(tmp_path) == {}


def test_unwritable_folder(facts, tmp_path, no_drawing):
    (tmp_path / "file").write_text("")
    with pytest.raises(PublishError, match=r"Cannot write '.*/file/report\.html': File exists"):
        write_report(facts, tmp_path / "file")


def test_note_of_results_is_optional(tmp_path):
    without = {key: value for key, value in RESULT.items() if key != "note"}
    (tmp_path / "results.json").write_text(json.dumps([RESULT, without]))
    assert read_results(tmp_path / "results.json") == [RESULT, {**RESULT, "note": ""}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"value": 1}, "has to hold a list of results, not an object"),
        ([1], r"results.json\[0\] has to be an object, not a whole number"),
        ([{**RESULT, "value": "high"}], r"results.json\[0\]\['value'\] has to be a number, not text"),
        ([RESULT, {**RESULT, "value": None}], r"results.json\[1\]\['value'\] has to be a number"),
        ([{"metric": "loss"}], r"results.json\[0\] has no 'trained_on'"),
        ([{**RESULT, "metrik": "loss"}], "unknown key 'metrik'. Did you mean 'metric'?"),
    ],
)
def test_invalid_results_are_refused(content, message, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(PublishError, match=message):
        read_results(tmp_path / "results.json")
