"""`hf-datasel browse`: the page, and errors before anything is loaded."""

from __future__ import annotations

import json
import re

import pytest

from hf_datasel import select
from hf_datasel.cli import main
from hf_datasel.selectors import Random


def test_page_of_two_selections(selection, rows_file, pool_rows, tmp_path, capsys):
    select(pool_rows, Random(), size=4).save(tmp_path / "other")
    page = tmp_path / "pages" / "rows.html"
    command = ["browse", "--selection", str(selection), str(tmp_path / "other"), "--dataset_name", str(rows_file)]
    assert main([*command, "--output_file", str(page), "--max_characters", "9"]) == 0
    text = page.read_text(encoding="utf-8")
    (meta,) = re.findall(r'<script type="application/json" id="meta">(.*)</script>', text)
    assert [item["name"] for item in json.loads(meta)["selections"]] == ["Longest", "Random"]
    assert "<title>Longest, Random on rows</title>" in text and "cut at 9 characters" in text
    assert capsys.readouterr().out.startswith(f"Written to {page} (0.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "No selection is named. Pass --selection FOLDER"),
        (["--selection", "nowhere"], "nowhere"),
        (["--max_rows", "0", "--selection", "SELECTION", "--dataset_name", "ROWS"], "max_rows=0 has to be an int"),
        (["--output_file", "ROWS/rows.html", "--selection", "SELECTION", "--dataset_name", "ROWS"], "Cannot write"),
    ],
)
def test_errors_are_one_line(arguments, message, selection, rows_file, capsys):
    filled = [text.replace("SELECTION", str(selection)).replace("ROWS", str(rows_file)) for text in arguments]
    assert main(["browse", *filled]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
