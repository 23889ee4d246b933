"""Links in responses."""

from __future__ import annotations

import pytest
from datasets import Dataset

from hf_datasel import score
from hf_datasel.errors import ConfigError
from hf_datasel.scores import URLs
from hf_datasel.testing import contract


@contract(URLs(), URLs("both", ["look there"], column_prefix="old_"))
def test_contract(check, score, pool_rows):
    check(score, pool_rows.select(range(8)))


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("https://hf.co/docs", ["https://hf.co/docs"]),
        ("See (http://a.b/c?d=e&f=1#g), and www.x.org.", ["http://a.b/c?d=e&f=1#g", "www.x.org"]),
        ("[name](https://hf.co/a_b)", ["https://hf.co/a_b"]),
        ('<a href="HTTPS://hf.co">x</a>', ["HTTPS://hf.co"]),
        ("me@hf.co or hf.co or awww.no", []),
        ("https:// is a scheme", []),
    ],
)
def test_urls(text, urls):
    [row] = score(Dataset.from_dict({"prompt": ["Where?"], "completion": [text]}), URLs(), on_summary=str)
    assert row["urls"] == len(urls)
    assert row["url_share"] == pytest.approx(sum(map(len, urls)) / len(text.replace(" ", "")))


def test_phrases():
    data = Dataset.from_dict(
        {"prompt": ["Where?"] * 2, "completion": ["Click  HERE, or see the link below.", "Look there."]}
    )
    assert score(data, URLs(), on_summary=str)["link_phrases"][:] == [2, 0]
    assert score(data, URLs(phrases=["look there"]), on_summary=str)["link_phrases"][:] == [2, 1]
    with pytest.raises(ConfigError, match="it has to be a list of phrases"):
        URLs(phrases=[""])
