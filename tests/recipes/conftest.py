"""What the tests of recipes share: toy rows in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.recipes.toys import write_toys


@pytest.fixture(scope="session")
def toy_files(tmp_path_factory: pytest.TempPathFactory, pool_rows: Any) -> dict[str, Path]:
    """Give files like those datasets on the Hub that recipes name."""
    return write_toys(tmp_path_factory.mktemp("rows"), pool_rows)
