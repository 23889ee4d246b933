"""The page with all rows in a real browser: what a user clicks, types and reads."""

import numpy as np
import pytest
from datasets import Dataset

from hf_datasel import select
from hf_datasel.cards.browse import write_browse
from hf_datasel.cli import main
from hf_datasel.selection import Selection
from hf_datasel.selectors import Chain, InRange, Top
from tests.browser import PROGRAM, Browser

pytestmark = [pytest.mark.slow, pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium")]

EVIL = (
    "</script><script>hacked = 1</script><!-- <img src=x onerror='hacked = 2'> \u2028 \0 \x1b "
    "&lt;b&gt; \u202eשלום مرحبا\u202c 👩‍👩‍👧 ${hacked = 3}\n<svg onload='hacked = 4'>"
)
SHOWN = EVIL.replace("\0", "␀").replace("\x1b", "␛")
ROWS = 5_000
SECOND = "B's <b>rows</b>"


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    scores = {name: rng.normal(1, 0.3, ROWS).astype(np.float32) for name in ("ifd", "loss")}
    texts = [f"Question {row} of café {'x' * (row % 7)}" for row in range(ROWS)]
    answers = [f"Answer {row}." for row in range(ROWS)]
    texts[3], answers[3], answers[4], answers[5] = EVIL, EVIL, "y" * 100_000, ""
    return Dataset.from_dict(
        {
            "prompt": texts,
            "completion": answers,
            "source": [f"{'abc'[row % 3]}" for row in range(ROWS)],
            "num_tokens": rng.integers(3, 900, ROWS),
            **scores,
        }
    )


@pytest.fixture(scope="module")
def selections(rows):
    return {
        "A": select(rows, Chain([InRange("ifd", high=1.5)], Top(by="ifd")), size=300),
        SECOND: select(rows, Top(by="loss"), size=300),
    }


@pytest.fixture(scope="module")
def page(rows, selections, tmp_path_factory):
    return write_browse(selections, rows, tmp_path_factory.mktemp("page") / "rows.html")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def tab(browser, page):
    """Give the page in the order of the dataset."""
    browser.events.clear()
    browser.open(page)
    browser.run("document.querySelector('#head [data-name=row] button').click()")
    return browser


def status(tab):
    tab.run("new Promise(requestAnimationFrame)")
    return tab.run("document.getElementById('status').textContent").split(" · ")


def choose(tab, label, option):
    """Choose the option that begins with a text, in the list whose label begins with another."""
    tab.run(f"""(() => {{
      const control = [...document.querySelectorAll("label.control")].find((node) =>
        node.firstChild.textContent.startsWith({label!r}));
      const list = control.querySelector("select");
      list.value = [...list.options].find((node) => node.textContent.startsWith({option!r})).value;
      list.dispatchEvent(new Event("change"));
    }})()""")


def bound(tab, column, low=None, high=None):
    for label, value in (("lowest value kept", low), ("values from here on dropped", high)):
        if value is not None:
            tab.run(f"""(() => {{
              const input = document.querySelector('input[type=number][aria-label="{column}: {label}"]');
              input.value = {value};
              input.dispatchEvent(new Event("change"));
            }})()""")


def code(tab, language):
    return tab.run(f"document.querySelector('[data-language=\"{language}\"] pre').textContent")


def shown_numbers(tab):
    """Return the row numbers of the first rows of the table."""
    return tab.run(
        "[...document.querySelectorAll('#body td.row')].map((cell) => Number(cell.textContent.replace(/,/g, '')))"
    )


def test_rows_are_text_and_nothing_is_loaded(tab):
    tab.run("document.querySelectorAll('#body tr:not(.space)')[3].click()")
    texts = tab.run("[...document.querySelectorAll('#row .text')].map((node) => node.textContent)")
    assert texts == [SHOWN, SHOWN]
    tab.run("document.querySelectorAll('#body tr:not(.space)')[4].click()")
    assert tab.run("document.querySelectorAll('#row .text')[1].textContent") == "y" * 2_000
    assert "Cut: the first 2,000 of 100,000 characters." in tab.run("document.getElementById('row').textContent")
    assert tab.run("typeof hacked") == "undefined"
    assert tab.run("document.querySelectorAll('img, iframe, b, #rows svg, #row svg').length") == 0
    assert SECOND in tab.run("document.querySelector('header').textContent")
    tab.run('setTimeout("hacked = 5")')  # a string is code, which the policy forbids
    tab.run("new Promise((done) => setTimeout(done, 50))")
    assert tab.run("typeof hacked") == "undefined"
    urls = [
        event["params"]["request"]["url"] for event in tab.events if event["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in urls if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in urls if url.startswith("file:")]) == 1
    assert not [event for event in tab.events if event["method"] == "Runtime.exceptionThrown"]


def test_selected_rows_come_first(browser, page):
    browser.open(page)
    cells = browser.run("[...document.querySelectorAll('#body td:nth-child(2)')].map((cell) => cell.textContent)")
    assert cells[:3] == ["● rank 1", "● rank 2", "● rank 3"]
    assert browser.run("document.querySelector('#head [aria-sort]').textContent") == "A"


def test_only_rows_on_the_screen_exist(tab):
    assert tab.run("document.querySelectorAll('#body tr').length") < 60
    tab.run("document.getElementById('scroll').scrollTop = 1e9")
    assert status(tab)[0] == f"{ROWS:,} of {ROWS:,} rows"
    assert shown_numbers(tab)[-1] == ROWS - 1
    assert tab.run("document.querySelectorAll('#body tr').length") < 60
    assert tab.run("document.querySelector('#body tr:last-of-type').previousSibling.offsetHeight") == 32


def test_filters_and_order(tab, rows, selections):
    first, second = (np.isin(np.arange(ROWS), selection.indices) for selection in selections.values())
    tokens, source = np.array(rows["num_tokens"]), np.array(rows["source"])
    choose(tab, "Compare", "Only A")
    kept = first & ~second
    assert status(tab)[:2] == [
        f"{kept.sum():,} of 5,000 rows",
        f"{tokens[kept].sum():,} tokens (column num_tokens)",
    ]
    choose(tab, "source", "b (")
    kept &= source == "b"
    assert status(tab)[0] == f"{kept.sum():,} of 5,000 rows"
    tab.run("[...document.querySelectorAll('#head button')].find((node) => node.textContent === 'loss').click()")
    loss = np.array(rows["loss"])
    expected = sorted(np.flatnonzero(kept), key=lambda row: (-loss[row], row))
    assert shown_numbers(tab)[:20] == [int(row) for row in expected[:20]]
    assert tab.run("document.querySelector('#head [aria-sort]').getAttribute('aria-sort')") == "descending"
    tab.run("document.querySelector('button[type=reset]').click()")
    tab.wait("document.getElementById('status').textContent.startsWith('5,000 of')")
    choose(tab, "A", "with ifd ≥ 1.5")
    assert status(tab)[0] == f"{(np.array(rows['ifd']) >= np.float32(1.5)).sum():,} of 5,000 rows"
    choose(tab, "A", "Borderline")
    assert status(tab)[0::2] == ["40 of 5,000 rows", "20 selected by A"]
    choose(tab, "A", "All rows")
    tab.run(
        "(() => { const input = document.querySelector('input[type=search]'); input.value = 'QUESTION 12 OF CAFÉ';"
        "input.dispatchEvent(new Event('input')); })()"
    )
    tab.wait("document.getElementById('status').textContent.startsWith('1 of')")
    assert shown_numbers(tab) == [12]


def test_ranges_and_their_code(tab, rows, tmp_path):
    bound(tab, "ifd", low=0.9, high=1.2)
    bound(tab, "num_tokens", low=100)
    text = tab.run("document.getElementById('code').firstChild.textContent")
    names = {"dataset": rows}
    exec(code(tab, "Python"), names)
    indices = names["selection"].indices
    assert text.startswith(f"The ranges together keep {len(indices):,} of 4,999 rows and ")
    unusable = {5} if 0.9 <= rows["ifd"][5] < 1.2 and rows["num_tokens"][5] >= 100 else set()
    assert status(tab)[0] == f"{len(indices) + len(unusable):,} of 5,000 rows" and 0 < len(indices) < ROWS
    exec(code(tab, "Plain dataset"), names)
    assert list(names["dataset"]["prompt"]) == list(rows.select(sorted({*indices, *unusable}))["prompt"])
    (tmp_path / "recipe.yaml").write_text(code(tab, "YAML"))
    rows.to_parquet(tmp_path / "rows.parquet")
    command = ["--dataset_name", str(tmp_path / "rows.parquet"), "--output_dir", str(tmp_path / "s")]
    assert main(["select", "--config", str(tmp_path / "recipe.yaml"), *command]) == 0
    assert sorted(Selection.load(tmp_path / "s").indices) == sorted(indices)
    tab.run("""(() => {
      const slider = document.querySelector('input[type=range][aria-label="num_tokens: lowest value kept"]');
      slider.value = 0;
      slider.dispatchEvent(new Event("input"));
      const number = document.querySelector('input[type=number][aria-label="ifd: lowest value kept"]');
      number.value = "1e-7";
      number.dispatchEvent(new Event("change"));
    })()""")
    assert "low: 1.0e-7, high: 1.2}" in code(tab, "YAML") and "num_tokens" not in code(tab, "YAML")


def test_keyboard(tab):
    tab.run("document.getElementById('table').focus()")
    for key in ("ArrowDown", "ArrowDown", "Enter", "ArrowDown"):
        tab.press(key)
    assert tab.run("document.querySelector('#row h2').textContent") == "Row 3"
    assert tab.run("document.getElementById('table').getAttribute('aria-activedescendant')") == "row-3"
    tab.press("End")
    assert tab.run("document.querySelector('#row h2').textContent") == f"Row {ROWS - 1:,}"
    tab.press("Escape")
    assert tab.run("document.getElementById('row').hidden")
    unlabelled = """[...document.querySelectorAll("input, select, button, table[role=grid]")].filter((node) =>
      !node.getAttribute("aria-label") && !node.closest("label") && !node.textContent.trim()).length"""
    assert tab.run(unlabelled) == 0


@pytest.mark.parametrize("dark", [False, True])
def test_narrow_page(browser, page, dark):
    browser.open(page, 390, 844, dark)
    assert browser.run("document.documentElement.scrollWidth") == 390
    assert not browser.run("document.getElementById('filters').open")
    colors = browser.run("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
    luminance = [sum(int(number) for number in color[4:-1].split(",")) for color in colors]
    assert (luminance[0] < luminance[1]) == dark
    browser.run("document.querySelectorAll('#body tr:not(.space)')[3].click()")
    assert browser.run("document.getElementById('row').getBoundingClientRect().width") == 390
    assert browser.run("document.documentElement.scrollWidth") == 390
