"""Segments of the score store: truncated and changed files never give wrong values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from hf_datasel.scoring.store import segment_log
from hf_datasel.scoring.store.segment_log import KEY_BYTES, Records, SegmentWriter, lock_if_finished, read_segment

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
    """Write random batches with NaN and infinity, and return the path, the ends of batches, keys and values."""
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


def require_batches(result: Records, keys, values, count):
    """Require exactly the first `count` batches, bit for bit."""
    assert result.keys.dtype == np.uint8
    assert result.values.dtype == values[0].dtype
    empty = np.empty((0, KEY_BYTES), dtype=np.uint8), np.empty((0, values[0].shape[1]), dtype=values[0].dtype)
    assert result.keys.tobytes() == np.concatenate([empty[0], *keys[:count]]).tobytes()
    assert result.values.tobytes() == np.concatenate([empty[1], *values[:count]]).tobytes()
    assert result.values.shape == (len(result.keys), values[0].shape[1])


@SETTINGS
@given(counts=COUNTS, width=WIDTHS, dtype=DTYPES, seed=SEEDS, cut=st.floats(0, 1))
def test_truncated_file(tmp_path, counts, width, dtype, seed, cut):
    path, ends, keys, values = written(tmp_path, counts, width, dtype, seed)
    require_batches(*read_segment(path, width, dtype), keys, values, len(counts))
    stored = round(cut * ends[-1])
    path.write_bytes(path.read_bytes()[:stored])
    [result] = read_segment(path, width, dtype)
    require_batches(result, keys, values, sum(end <= stored for end in ends))
    assert not result.damaged


@SETTINGS
@given(counts=COUNTS, width=WIDTHS, dtype=DTYPES, seed=SEEDS, index=st.floats(0, 1), flip=st.integers(1, 255))
def test_changed_byte(tmp_path, counts, width, dtype, seed, index, flip):
    path, ends, keys, values = written(tmp_path, counts, width, dtype, seed)
    changed, where = bytearray(path.read_bytes()), min(int(index * ends[-1]), ends[-1] - 1)
    changed[where] ^= flip
    path.write_bytes(changed)
    [result] = read_segment(path, width, dtype)
    require_batches(result, keys, values, sum(end <= where for end in ends))
    assert result.damaged


@SETTINGS
@given(counts=COUNTS, width=WIDTHS, dtype=DTYPES, seed=SEEDS, remaining=st.binary(max_size=60))
def test_bytes_after_the_batches(tmp_path, counts, width, dtype, seed, remaining):
    path, _, keys, values = written(tmp_path, counts, width, dtype, seed)
    with open(path, "ab") as file:
        file.write(remaining)
    require_batches(*read_segment(path, width, dtype), keys, values, len(counts))


@SETTINGS
@given(counts=COUNTS, width=WIDTHS, dtype=DTYPES, seed=SEEDS, other=WIDTHS)
def test_other_width(tmp_path, counts, width, dtype, seed, other):
    path, *_ = written(tmp_path, counts, width, dtype, seed)
    [result] = read_segment(path, other, dtype)
    assert result.damaged is (width != other)
    assert len(result.keys) == (sum(counts) if width == other else 0)


def test_segment_is_read_in_parts(tmp_path, monkeypatch):
    path, _, keys, values = written(tmp_path, [3, 1, 2], 4, np.dtype(np.float32), 0)
    monkeypatch.setattr(segment_log, "_READ_BYTES", 1)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    results = list(read_segment(path, 4, np.dtype(np.float32)))
    assert [(len(result.keys), result.damaged) for result in results] == [(3, False), (1, False), (0, True)]
    for result, batch, numbers in zip(results, keys, values, strict=False):
        assert result.damaged or ((result.keys == batch).all() and result.values.tobytes() == numbers.tobytes())


@pytest.mark.parametrize("content", [b"", b"HDS1", b"\0" * 100])
def test_files_without_batch(tmp_path, content):
    path = tmp_path / "a.segment"
    path.write_bytes(content)
    [result] = read_segment(path, 2, np.dtype(np.float32))
    assert (result.keys.shape, result.values.shape) == ((0, KEY_BYTES), (0, 2))
    assert result.damaged is (len(content) > 20)


def test_segment_is_locked_until_closed(tmp_path):
    writer = SegmentWriter(tmp_path / "deeper" / "still")
    assert lock_if_finished(writer.path) is None
    writer.close()
    lock = lock_if_finished(writer.path)
    assert lock is not None
    lock.release()
