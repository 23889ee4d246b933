"""Memory of the machine and of its containers."""

import psutil
import pytest

from hf_datasel import memory


@pytest.fixture
def no_container(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    return tmp_path


def test_memory_of_the_machine(no_container):
    assert 0 < memory.available_memory() <= psutil.virtual_memory().total


@pytest.mark.parametrize("version", [1, 2])
def test_the_limit_of_a_container_counts_without_its_page_cache(no_container, version):
    folder = no_container if version == 2 else no_container / "memory"
    folder.mkdir(exist_ok=True)
    names = ("max", "current") if version == 2 else ("limit_in_bytes", "usage_in_bytes")
    for name, content in zip(names, ("5000000", "3000000"), strict=True):
        (folder / f"memory.{name}").write_text(content + "\n")
    entry = "inactive_file" if version == 2 else "total_inactive_file"
    (folder / "memory.stat").write_text(f"anon 7\n{entry} 1000000\n")
    assert memory.available_memory() == 3_000_000


def test_a_container_without_a_limit(no_container):
    for name, content in (("max", "max"), ("current", "3000000"), ("stat", "inactive_file 0")):
        (no_container / f"memory.{name}").write_text(content + "\n")
    assert memory.available_memory() > 3_000_000
