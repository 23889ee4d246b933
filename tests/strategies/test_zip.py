import json
import zlib
from itertools import product

import numpy as np
import pytest

from hf_datasel.errors import Interrupted, SelectionError
from hf_datasel.strategies import zip as zip_module
from hf_datasel.strategies._topk import topk_smallest
from hf_datasel.strategies.zip import compression_ratio, ratios_with, zip_greedy, zlib_build

# Values that make the GNU C++ library's quick steps give up and go on with a heap, and what torch.topk makes of them.
AWKWARD = """
37 0 44 1 36 2 50 3 35 4 43 5 34 6 47 7 33 8 42 9 32 10 31 11 50 49 48 47 46 45 44 43 42 41 40 39 38 37 36 35
34 33 32 49 41 46 40 51 39 45 38 48 0 1 2 3 4 5 6 7 8 9 10 11 31 30 30 29 29 28 28 27 27 26 26 25 25 24 24 23
23 22 22 21 21 20 20 19 19 18 18 17 17 16 16 15 15 14 14 13 13 12 12 51
"""
AWKWARD_ORDER = """
52 1 3 53 5 54 7 55 9 56 11 57 58 13 15 59 17 60 19 61 21 62 23 63 102 101 100 99 98 97 95 96 94 93 92 91 90
89 87 88 86 85 83 84 82 81 80 79 78 77 76 75 74 73 72 71 70 69 68 67 66 65 22 64 20 42 16 41 12 40 8 39 4 38 0
37 50 36 35 48 46 34 44 33 18 32 10 31 2 30 49 29 28 45 14 27 51 26 25 43 24 6 103 47
"""


def plain_ratio(texts, frame, level=9):
    content = frame[0] + frame[1].join(texts) + frame[2]
    return len(content) / len(zlib.compress(content, level))


def plain_zip(texts, budget, k1, k2, k3, frame=(b"[", b", ", b"]"), level=9):
    """Compress every set from the start, and sort by (ratio, position)."""
    ratios = {row: plain_ratio([text], frame, level) for row, text in enumerate(texts)}
    selected = []
    while len(selected) < budget:
        candidates = sorted(ratios, key=lambda row: (ratios[row], row))[:k1]
        for row in candidates:
            ratios[row] = plain_ratio([texts[i] for i in [*selected, row]], frame, level)
        shortlist = sorted(candidates, key=lambda row: (ratios[row], row))[:k2]
        step = []
        while len(step) < min(k3, budget - len(selected), len(shortlist)):
            left = [row for row in shortlist if row not in step]
            step.append(min(left, key=lambda row: (plain_ratio([texts[i] for i in [*step, row]], frame, level), row)))
        for row in step:
            del ratios[row]
        selected += step
    return selected


def random_texts(rng, n):
    """Texts with repeats, exact copies and empty ones."""
    words = [b"red", b"green", b"apples", b"pears", b"Sphinx", b"quartz", bytes(range(60, 90))]
    texts = [b" ".join(words[i] for i in rng.integers(len(words), size=rng.integers(0, 12))) for _ in range(n)]
    return [texts[i] for i in rng.integers(n, size=n)] if n and rng.random() < 0.3 else texts


def noise(rng, size):
    """Text that repeats itself a little, so that long sets have matches far back."""
    return b"".join(b"%d," % i for i in rng.integers(2_000, size=size))


# -- the published selection ------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def published(shared):
    """Give the published selection and its texts."""
    golden = json.loads((shared / "golden" / "zip_syn400.json").read_text(encoding="utf-8"))
    probes = {"a*1000 at 9": b"a" * 1000, "repr(range(5000)) at 9": repr(list(range(5000))).encode()}
    lengths = {name: len(zlib.compress(probes[name], 9)) for name in golden["zlib_probe_len"]}
    if lengths != golden["zlib_probe_len"]:
        pytest.xfail(
            f"The published selection was made with zlib {golden['zlib_runtime']}, which compresses the probes to"
            f" {golden['zlib_probe_len']} bytes; {zlib.ZLIB_RUNTIME_VERSION} here to {lengths}: other rows are right."
        )
    rows = json.loads((shared / "golden" / "zip_synthetic_pool_400.json").read_text(encoding="utf-8"))
    return golden, [str(row).encode() for row in rows]


def test_compat_published_selection(published):
    golden, texts = published
    sizes = golden["k1"], golden["k2"], golden["k3"]
    selected = zip_greedy(texts, golden["budget"], *sizes, compat=True)
    assert selected.tolist() == golden["selected_ids_ordered"]
    assert zip_greedy(texts, 33, *sizes, compat=True).tolist() == golden["selected_ids_ordered"][:33]


def test_compat_published_stages(published, monkeypatch):
    golden, texts = published
    stage_2, stage_3 = [], []
    inner = zip_module._best_together

    def recording(trials, shortlist, *settings):
        stage_2.append(shortlist.tolist())
        stage_3.append([])
        for position in inner(trials, shortlist, *settings):
            stage_3[-1].append(position)
            yield position

    monkeypatch.setattr(zip_module, "_best_together", recording)
    zip_greedy(texts, golden["budget"], golden["k1"], golden["k2"], golden["k3"], compat=True)
    assert stage_2 == golden["stage2_ids_per_step"]
    assert stage_3 == golden["stage3_ids_per_step"]


def test_default_reuses_rows_of_stage_3(published):
    golden, texts = published
    sizes = golden["k1"], golden["k2"], golden["k3"]
    with pytest.raises(SelectionError, match=r"k1=200 rows and removes k2=40, but of 400 rows 160 remain for step 7"):
        zip_greedy(texts, 121, *sizes, compat=True)
    assert len(zip_greedy(texts, 120, *sizes, compat=True)) == 120
    assert len(set(zip_greedy(texts, 300, *sizes).tolist())) == 300


@pytest.mark.parametrize(
    ("values", "k", "expected"),
    [
        ([i * i % 7 for i in range(30)], 24, "28 21 7 0 14 29 8 1 6 13 20 22 27 15 10 3 25 24 4 11 18 17 2 9"),
        ([i * i % 7 for i in range(300)], 4, "14 7 21 0"),
        ([i * i % 7 for i in range(300)], 1, "0"),
        ([i * i % 7 for i in range(40)], 1, "21"),
        ([3.0], 1, "0"),
        ([int(value) for value in AWKWARD.split()], 104, AWKWARD_ORDER),
    ],
)
def test_topk_ties(values, k, expected):
    assert topk_smallest(np.array(values, dtype=np.float32), k).tolist() == [int(i) for i in expected.split()]


def test_topk_returns_the_smallest():
    rng = np.random.default_rng(0)
    for _ in range(300):
        values = rng.integers(rng.integers(1, 50), size=rng.integers(1, 400)).astype(np.float32)
        k = int(rng.integers(1, len(values) + 1))
        smallest = topk_smallest(values, k)
        assert len(set(smallest.tolist())) == k
        assert values[smallest].tolist() == np.sort(values)[:k].tolist()


# -- the default selection --------------------------------------------------------------------------------------------
def test_equals_reference():
    rng = np.random.default_rng(0)
    for _ in range(40):
        texts = random_texts(rng, int(rng.integers(1, 25)))
        k1, k2, k3 = sorted(rng.integers(1, 12, size=3).tolist(), reverse=True)
        frame = [(b"[", b", ", b"]"), (b"", b"\n\n", b""), (b"", b"", b"\0")][rng.integers(3)]
        level, threads = rng.integers(1, [10, 4]).tolist()
        expected = plain_zip(texts, len(texts), k1, k2, k3, frame, level)
        for budget in {0, 1, len(texts) // 2, len(texts)}:
            selected = zip_greedy(texts, budget, k1, k2, k3, frame, level=level, threads=threads)
            assert selected.dtype == np.int64
            assert selected.tolist() == expected[:budget]


def test_equals_reference_beyond_zlib_window():
    rng = np.random.default_rng(0)
    texts = [noise(rng, size=1_500) for _ in range(20)]
    assert sum(map(len, texts)) > 4 * 32_768
    assert zip_greedy(texts, 20, 6, 4, 2).tolist() == plain_zip(texts, 20, 6, 4, 2)


@pytest.mark.parametrize("rows_at_once", [1, 3, 7])
def test_block_size_does_not_matter(monkeypatch, rows_at_once):
    texts = random_texts(np.random.default_rng(0), 30)
    expected = zip_greedy(texts, 20, 15, 8, 4)
    monkeypatch.setattr(zip_module, "_ROWS_PER_BLOCK", rows_at_once)
    assert zip_greedy(texts, 20, 15, 8, 4).tolist() == expected.tolist()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_matter(threads):
    texts = random_texts(np.random.default_rng(1), 40)
    assert zip_greedy(texts, 30, 20, 10, 5, threads=threads).tolist() == plain_zip(texts, 30, 20, 10, 5)


def test_equal_texts_keep_order():
    assert zip_greedy([b"red apples"] * 7, 7, 5, 3, 2).tolist() == list(range(7))


def test_first_row_has_lowest_ratio():
    texts = [b"pears " * 20, b"Sphinx of black quartz", b"pears pears pears"]
    assert zip_greedy(texts, 3).tolist() == [1, 2, 0]


def test_no_rows():
    assert zip_greedy([], 0).tolist() == []
    assert zip_greedy([], 0, compat=True).tolist() == []


def test_texts_are_read_by_position():
    class Texts:
        def __len__(self):
            return 9

        def __getitem__(self, position):
            assert isinstance(position, int) and 0 <= position < 9
            return b"%d pears and %d apples" % (position, position**3)

        __iter__ = None

    assert zip_greedy(Texts(), 5, 4, 3, 2).tolist() == plain_zip(list(map(Texts().__getitem__, range(9))), 5, 4, 3, 2)


# -- progress and Ctrl-C ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("compat", [False, True])
def test_progress(compat):
    seen = []
    texts = random_texts(np.random.default_rng(0), 30)
    zip_greedy(texts, 7, 10, 5, 3, compat=compat, progress=seen.append)
    assert seen == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(("compat", "stop"), list(product([False, True], [1, 3, 5])))
def test_interrupt_keeps_selected_rows(compat, stop):
    texts = random_texts(np.random.default_rng(0), 30)

    def progress(n_selected):
        if n_selected == stop:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=f"{stop} rows had been selected") as caught:
        zip_greedy(texts, 7, 10, 5, 3, compat=compat, progress=progress)
    assert caught.value.selected.dtype == np.int64
    assert caught.value.selected.tolist() == zip_greedy(texts, 7, 10, 5, 3, compat=compat).tolist()[:stop]


def test_interrupt_before_first_row():
    class Texts(list):
        def __getitem__(self, position):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="0 rows had been selected") as caught:
        zip_greedy(Texts([b"a", b"b"]), 1)
    assert caught.value.selected.shape == (0,)


# -- ratios ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("frame", [(b"[", b", ", b"]"), (b"", b"\n", b"<end>")])
@pytest.mark.parametrize("level", [1, 6, 9])
def test_ratios_with_equals_reference(frame, level):
    rng = np.random.default_rng(0)
    texts = [noise(rng, size=size) for size in rng.integers(0, 4_000, size=30)]
    selected, tried = [5, 3, *range(10, 28)], [0, 29, 1, 0]
    expected = [plain_ratio([texts[row] for row in [*selected, position]], frame, level) for position in tried]
    assert ratios_with(texts, selected, tried, frame, level).tolist() == expected
    assert [compression_ratio([texts[row] for row in [*selected, p]], frame, level) for p in tried] == expected
    assert ratios_with(texts, [], [4], frame, level).tolist() == [plain_ratio([texts[4]], frame, level)]
    assert ratios_with(texts, selected, [], frame, level).shape == (0,)


def test_default_frame_is_python_list():
    rows = [{"id": 0, "text": "Größe"}, {"id": 1, "text": "it's"}]
    content = str(rows).encode()
    assert compression_ratio([str(row).encode() for row in rows]) == len(content) / len(zlib.compress(content, 9))


def test_zlib_build(monkeypatch):
    build = zlib_build()
    assert build == {"version": zlib.ZLIB_RUNTIME_VERSION, "probe": len(zlib.compress(zip_module._PROBE, 9))}
    monkeypatch.setattr(zlib, "compress", lambda data, level: b"stored" + data)
    assert zlib_build()["version"] == build["version"]
    assert zlib_build() != build


# -- what is refused -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": 4}, r"zip_greedy: budget=4 is more than the 3 rows that can be selected\. Lower it"),
        ({"budget": 0.5}, r"budget=0\.5 must be a whole number of rows"),
        ({"k3": 0}, r"needs 1 <= k3 <= k2 <= k1, but has k1=10000, k2=200, k3=0"),
        ({"k2": 50}, r"needs 1 <= k3 <= k2 <= k1, but has k1=10000, k2=50, k3=100"),
        ({"k1": 150}, r"needs 1 <= k3 <= k2 <= k1, but has k1=150"),
        ({"level": 0}, r"level=0 must be from 1 to 9"),
        ({"level": 10}, r"level=10 must be from 1 to 9"),
        ({"frame": (b"[", b"]")}, r"must be three bytes objects: before the texts, between two of them"),
        ({"frame": ("[", ", ", "]")}, r"must be three bytes objects"),
        ({"threads": 0}, r"threads=0 must be 1 or more, or None"),
        ({"texts": [b"red", "green", b"blue"]}, r"bytes, but the text at position 1 is of type str\. Encode it"),
        ({"compat": True}, r"needs k1=10,000 rows and removes k2=200, but of 3 rows 3 remain for step 1"),
    ],
)
def test_invalid_settings(settings, message):
    with pytest.raises(SelectionError, match=message):
        zip_greedy(**{"texts": [b"red", b"green", b"blue"], "budget": 1} | settings)


@pytest.mark.parametrize(("selected", "positions", "wrong"), [([0, 2], [1], 2), ([0], [-1], -1), ([0], [1, 5], 5)])
def test_ratios_with_invalid_positions(selected, positions, wrong):
    with pytest.raises(SelectionError, match=f"ratios_with: position {wrong} is none of the 2 texts"):
        ratios_with([b"red", b"green"], selected, positions)
