import pytest
from markdown_it import MarkdownIt

from hf_datasel.hub.markdown import Markdown, code, fence, link, table, text

HOSTILE = [
    "<script>alert(1)</script>",
    "{{ 7 * 7 }} {% raw %}",
    "](javascript:alert(1)) [click](http://x)",
    "`tick` ``two``",
    "a | b || c",
    "---\nlicense: mit\n---",
    "- not a list",
    "1. nor this",
    "# not a heading\n\n- not a list",
    "*stars* _lines_ ~~gone~~ $x^2$ \\",
    "<!-- hf_datasel: default: end -->",
    "&lt;b&gt; &amp;",
    "  spaces around  ",
    "\u202eabc\x00\x1b[31m\ttab",
    "naïve – 日本 🙂",
]


def plain(rendered: str) -> str:
    """Return what a reader sees of one line of Markdown, and fail if it holds any markup beyond a code span."""
    [inline] = [
        token for token in MarkdownIt("gfm-like", {"linkify": False}).parse(rendered) if token.type == "inline"
    ]
    assert {child.type for child in inline.children} <= {"text", "code_inline", "html_inline", "text_special"}, (
        rendered
    )
    html = [child.content for child in inline.children if child.type == "html_inline"]
    assert set(html) <= {"<code>", "</code>"}, rendered
    return "".join(child.content for child in inline.children if child.type != "html_inline")


def readable(value: str) -> str:
    return " ".join("".join(item if item.isprintable() else " " for item in value).split())


@pytest.mark.parametrize("value", HOSTILE)
def test_text_roundtrip(value):
    assert plain(text(value)) == readable(value)


@pytest.mark.parametrize("value", HOSTILE)
def test_code_roundtrip(value):
    assert plain(code(value)) == readable(value)


@pytest.mark.parametrize("value", HOSTILE)
def test_table_keeps_its_cells(value):
    rendered = MarkdownIt("gfm-like", {"linkify": False}).parse(table(["name", "value"], [(value, code(value))] * 2))
    assert [token.type for token in rendered].count("td_open") == 4
    assert [token.type for token in rendered].count("tr_open") == 3


@pytest.mark.parametrize("value", [*HOSTILE, "```\n<b>out</b>\n````\n# out"])
def test_fence_keeps_its_content(value):
    blocks = MarkdownIt().parse(fence(value, "yaml"))
    seen = "".join(item if item.isprintable() or item in "\n\t" else "\ufffd" for item in value)
    seen = seen.replace("<!--", "<\ufffd--")
    assert [(token.type, token.content) for token in blocks] == [("fence", f"{seen.rstrip()}\n")]


def test_long_values_are_cut():
    assert len(text("x" * 1_000_000)) == len(code("x" * 1_000_000)) - 2 == 160
    assert text("x" * 1_000_000).endswith("…")


def test_markdown_is_not_escaped():
    assert text(Markdown("**bold**")) == "**bold**"


def test_links_of_valid_names_only():
    assert link("me/a-b.c") == "[me/a-b.c](https://huggingface.co/datasets/me/a-b.c)"
    assert link("me/x](http://evil)") == "`me/x](http://evil)`"


def test_code_of_plain_values():
    assert [code(value) for value in (0.1, None, True, ["a", 1], {"a": 1})] == [
        "`0.1`", "`null`", "`true`", '`["a", 1]`', '`{"a": 1}`',
    ]  # fmt: skip
