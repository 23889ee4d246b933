"""Segments of the score store: whatever is cut off or changed in a file, what is read is what was written."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from hf_datasel.scoring.store.segment_log import KEY_BYTES, Records, SegmentWriter, claimed, read_segment

SETTINGS = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
WIDTHS = st.integers(1, 4)
DTYPES = st.sampled_from([np.dtype(np.float32), np.dtype(np.float64)])
COUNTS = st.lists(st.integers(1, 5), min_size=1, max_size=5)
SEEDS = st.integers(0, 2**32 - 1)


def written(folder, counts, width, dtype, seed):
    """A segment of random batches, NaN and infinity among them; its path, their ends in bytes, keys and values."""
    rng = np.random.default_rng(seed)
    writer, ends, keys, values = SegmentWriter(folder), [], [], []
    for count in counts:
        keys.append(rng.integers(0, 256, (count, KEY_BYTES), dtype=np.uint8))
        numbers = rng.normal(size=(count, width))
        numbers[rng.random(numbers.shape) < 0.2] = rng.choice([np.nan, np.inf, -np.inf, 0.0])
        values.append(numbers.astype(dtype))
        writer.append(keys[-1], values[-1])
        ends.append(writer.path.stat().st_size)
    writer.close()
    return writer.path, ends, keys, values


def require_batches(found: Records, keys, values, count):
    """The first so many batches, to the bit, and nothing else."""
    assert found.keys.dtype == np.uint8
    assert found.values.dtype == values[0].dtype
    empty = np.empty((0, KEY_BYTES), dtype=np.uint8), np.empty((0, values[0].shape[1]), dtype=values[0].dtype)
    assert found.keys.tobytes() == np.concatenate([empty[0], *keys[:count]]).tobytes()
    assert found.values.tobytes() == np.concatenate([empty[1], *values[:count]]).tobytes()
    assert found.values.shape == (len(found.keys), values[0].shape[1])


@SETTINGS
@given(counts=COUNTS, width=WIDTHS, dtype=DTYPES, seed=SEEDS, cut=st.floats(0, 1))
def test_a_file_that_is_cut_has_the_whole_batches_before_the_cut(tmp_path, counts, width, dtype, seed, cut):
    path, ends, keys, values = written(tmp_path, counts, width, dtype, seed)
    require_batches(read_segment(path, width, dtype), keys, values, len(counts))
    kept = round(cut * ends[-1])
    path.write_bytes(path.read_bytes()[:kept])
    found = read_segment(path, width, dtype)
    require_batches(found, keys, values, sum(end <= kept for end in ends))
    assert not found.damaged


@SETTINGS
@given(counts=COUNTS, width=WIDTHS, dtype=DTYPES, seed=SEEDS, at=st.floats(0, 1), flip=st.integers(1, 255))
def test_a_byte_that_is_changed_never_gives_a_wrong_value(tmp_path, counts, width, dtype, seed, at, flip):
    path, ends, keys, values = written(tmp_path, counts, width, dtype, seed)
    changed, where = bytearray(path.read_bytes()), min(int(at * ends[-1]), ends[-1] - 1)
    changed[where] ^= flip
    path.write_bytes(changed)
    found = read_segment(path, width, dtype)
    require_batches(found, keys, values, sum(end <= where for end in ends))
    assert found.damaged


@SETTINGS
@given(counts=COUNTS, width=WIDTHS, dtype=DTYPES, seed=SEEDS, rest=st.binary(max_size=60))
def test_bytes_behind_the_batches_change_nothing_before_them(tmp_path, counts, width, dtype, seed, rest):
    path, _, keys, values = written(tmp_path, counts, width, dtype, seed)
    with open(path, "ab") as file:
        file.write(rest)
    require_batches(read_segment(path, width, dtype), keys, values, len(counts))


@SETTINGS
@given(counts=COUNTS, width=WIDTHS, dtype=DTYPES, seed=SEEDS, other=WIDTHS)
def test_items_of_another_width_are_not_read(tmp_path, counts, width, dtype, seed, other):
    path, *_ = written(tmp_path, counts, width, dtype, seed)
    found = read_segment(path, other, dtype)
    assert found.damaged is (width != other)
    assert len(found.keys) == (sum(counts) if width == other else 0)


@pytest.mark.parametrize("content", [b"", b"HDS1", b"\0" * 100])
def test_files_that_hold_no_batch(tmp_path, content):
    path = tmp_path / "a.segment"
    path.write_bytes(content)
    found = read_segment(path, 2, np.dtype(np.float32))
    assert (found.keys.shape, found.values.shape) == ((0, KEY_BYTES), (0, 2))
    assert found.damaged is (len(content) > 20)


def test_a_segment_belongs_to_its_writer_until_it_is_closed(tmp_path):
    writer = SegmentWriter(tmp_path / "deeper" / "still")
    assert claimed(writer.path) is None
    writer.close()
    lock = claimed(writer.path)
    assert lock is not None
    lock.release()
