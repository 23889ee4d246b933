"""Random projection of gradients, without storing its matrix, and a folder of projected gradients."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from hf_datasel._lazy import torch
from hf_datasel.atomic import write_file
from hf_datasel.errors import ScoreError
from hf_datasel.scoring.distributed import Processes

__all__ = ["FeatureStore", "RandomProjection"]

logger = logging.getLogger(__name__)

_BLOCK_BYTES = {"cpu": 1 << 20, "cuda": 256 << 20}
"""Size of the block of the matrix in memory at once, in float32. On a CPU a block that fits into its cache was about
twice as fast as one of 16 MiB."""


class RandomProjection:
    """Multiplies rows by a matrix of random signs divided by the square root of `dim`, which preserves inner products.

    The signs are a function of the seed and of their position in the matrix (splitmix64, 64 signs per call), so they
    are the same on every device, in every process and for every block size. The expected inner product of two
    projected rows is that of the rows; its standard deviation is at most the product of their norms times
    `sqrt(2 / dim)`.

    Args:
        size: Numbers per row.
        dim: Numbers per projected row. If it is at least `size`, rows are not projected.
        seed: Random seed of the signs.
        block: Number of rows of the matrix in memory at once.
    """

    def __init__(self, size: int, dim: int, seed: int, block: int | None = None):
        self.size = size
        self.exact = dim >= size
        self.dim = size if self.exact else dim
        self.block = block
        self._words = -(-self.dim // 64)
        self._start = int(_mix(torch.tensor([seed])).item())
        self.seed = seed

    def spec(self) -> dict[str, Any]:
        """Return what determines the signs, as JSON."""
        return {"size": self.size} if self.exact else {"size": self.size, "dim": self.dim, "seed": self.seed}

    def __call__(self, parts: Iterable[torch.Tensor]) -> torch.Tensor:
        """Project rows whose columns come in several parts.

        Args:
            parts: Consecutive columns of the rows, each float32 of shape (rows, columns of the part).

        Returns:
            Tensor of shape (rows, dim).
        """
        if self.exact:
            return torch.cat(list(parts), dim=1)
        total: torch.Tensor | None = None
        start = 0
        for part in parts:
            block = self.block or max(_BLOCK_BYTES.get(part.device.type, 64 << 20) // (4 * self.dim), 1)
            if total is None:
                total = torch.zeros(len(part), self.dim, device=part.device)
            for offset in range(0, part.shape[1], block):
                piece = part[:, offset : offset + block]
                with torch.autocast(part.device.type, enabled=False):
                    total.addmm_(piece, self.signs(start + offset, start + offset + piece.shape[1], part.device))
            start += part.shape[1]
        assert total is not None
        return total.div_(self.dim**0.5)

    def signs(self, start: int, stop: int, device: torch.device | None = None) -> torch.Tensor:
        """Return rows of the matrix before scaling.

        Args:
            start: First row.
            stop: Row after the last one.
            device: Device of the result.

        Returns:
            1 and -1, float32 of shape (stop - start, dim).
        """
        words = torch.arange(start * self._words, stop * self._words, device=device)
        octets = _mix(words * _GAMMA + self._start).view(torch.uint8).to(torch.int32)
        signs = torch.nn.functional.embedding(octets, _sign_table(octets.device))
        return signs.reshape(stop - start, -1)[:, : self.dim]


_GAMMA, _FIRST, _SECOND = (
    constant - (1 << 64) for constant in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)  # constants of splitmix64 as signed numbers


def _mix(state: torch.Tensor) -> torch.Tensor:
    """Apply the output function of splitmix64. Torch shifts signed numbers, so the sign bits are masked off."""
    state = (state ^ ((state >> 30) & ((1 << 34) - 1))) * _FIRST
    state = (state ^ ((state >> 27) & ((1 << 37) - 1))) * _SECOND
    return state ^ ((state >> 31) & ((1 << 33) - 1))


def _sign_table(device: torch.device) -> torch.Tensor:
    """Return the eight signs of each byte: float32 of shape (256, 8)."""
    bits = torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device) & 1
    return bits.float() * 2 - 1


class FeatureStore:
    """Projected features of rows in memory-mapped `.npy` files, indexed by the content of the rows.

    There is one folder per spec, with parts of three files each: keys, features (float16) and a checksum per feature,
    which is written last. A row whose checksum does not match, because a run was killed or a disk failed, counts as
    absent and is written again. Every process of a run opens the store for the same rows at the same time, and writes
    different rows.

    Args:
        folder: Folder of the store, created if it does not exist. All processes have to see it.
        spec: Everything but the rows that determines the features, as JSON.
        dim: Numbers per feature.
        keys: 16 bytes per row that identify it, uint8 of shape (rows, 16).

    Raises:
        ScoreError: The folder cannot be created, or belongs to something else.
    """

    def __init__(self, folder: str | os.PathLike[str], spec: Mapping[str, Any], dim: int, keys: np.ndarray):
        full_spec = json.loads(json.dumps({**spec, "dim": dim, "dtype": "float16"}))
        digest = hashlib.sha256(json.dumps(full_spec, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = Path(folder).expanduser() / f"features-{digest}"
        self.dim = dim
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []
        distinct, inverse = np.unique(np.ascontiguousarray(keys).view("S16").reshape(-1), return_inverse=True)
        processes = Processes.current()
        if processes.is_main_process:
            from filelock import FileLock

            self._create(full_spec)
            with FileLock(str(self.folder / "parts.lock")):
                locations = self._open(distinct)
                if (missing := distinct[locations[:, 0] < 0]).size:
                    self._add_part(missing)
        processes.wait_for_everyone()
        self._locations = self._open(distinct)[inverse]

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read features.

        Args:
            rows: Indices of rows.

        Returns:
            The features, float16 of shape (len(rows), dim), 0 where absent; and whether each is present, bool.
        """
        features = np.zeros((len(rows), self.dim), dtype=np.float16)
        is_present = np.zeros(len(rows), dtype=bool)
        for index, (part, position) in enumerate(self._locations[rows]):
            stored, checksums = self._parts[part]
            if checksums[position]:
                feature = np.array(stored[position])
                if _checksum(feature) == checksums[position]:
                    features[index], is_present[index] = feature, True
                else:
                    logger.warning("A feature in %s is damaged, and is computed again.", self.folder)
        return features, is_present

    def write(self, rows: np.ndarray, features: np.ndarray) -> None:
        """Write features; those that are not finite are not stored.

        Args:
            rows: Indices of rows.
            features: Float16 of shape (len(rows), dim).
        """
        for (part, position), feature in zip(self._locations[rows], features, strict=True):
            if np.isfinite(feature).all():
                stored, checksums = self._parts[part]
                checksums[position] = 0
                stored[position] = feature
                checksums[position] = _checksum(feature)

    def read_or_compute(self, rows: np.ndarray, compute: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Read features, and compute and write those that are absent.

        Args:
            rows: Indices of rows.
            compute: Function of indices of rows that returns their features, float16.

        Returns:
            Float16 of shape (len(rows), dim).
        """
        features, is_present = self.read(rows)
        missing = np.flatnonzero(~is_present)
        if missing.size:
            features[missing] = compute(rows[missing])
            self.write(rows[missing], features[missing])
        return features

    def close(self) -> None:
        """Flush the files to disk."""
        for part in self._parts:
            for array in part:
                if isinstance(array, np.memmap):
                    array.flush()
        self._parts = []

    def _create(self, spec: Mapping[str, Any]) -> None:
        file = self.folder / "spec.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not file.is_file():
                write_file(file, json.dumps(spec, indent=1, sort_keys=True), ScoreError)
            stored = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            parent = str(self.folder.parent)
            raise ScoreError(f"gradients={parent!r} cannot be written to: {error.strerror}.") from error
        except ValueError:
            stored = None
        if stored != spec:
            raise ScoreError(
                f"{str(file)!r} does not describe the features that the folder name identifies, so the files in "
                "the folder cannot be trusted. Delete the folder, or pass another one as gradients."
            )

    def _open(self, distinct: np.ndarray) -> np.ndarray:
        """Map all parts, and return the part and the position of each key: int64 of shape (keys, 2), -1 for none."""
        locations = np.full((len(distinct), 2), -1, dtype=np.int64)
        self._parts = []
        for file in sorted(self.folder.glob("*.keys.npy")):
            try:
                keys, part = self._open_part(file)
            except (OSError, ValueError, EOFError) as error:
                self._set_aside(file, str(error))
                continue
            if len(distinct):
                index = np.searchsorted(distinct, keys).clip(max=len(distinct) - 1)
                hits = np.flatnonzero(distinct[index] == keys)
                locations[index[hits]] = np.stack([np.full(len(hits), len(self._parts)), hits], axis=1)
            self._parts.append(part)
        return locations

    def _open_part(self, file: Path) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        keys = np.load(file)
        features = np.load(_sibling(file, "features"), mmap_mode="r+")
        checksums = np.load(_sibling(file, "checks"), mmap_mode="r+")
        shapes = (keys.dtype, features.dtype, features.shape, checksums.dtype, checksums.shape)
        if shapes != (np.dtype("S16"), np.float16, (len(keys), self.dim), np.uint64, (len(keys),)):
            raise ValueError("the shapes of its files do not match")
        return keys, (features, checksums)

    def _add_part(self, keys: np.ndarray) -> None:
        """Create a part for these keys. The file of keys is written last: a part without it does not exist."""
        number = 0
        while (file := self.folder / f"part-{number:04d}.keys.npy").exists():
            number += 1
        for kind, shape, dtype in (("features", (len(keys), self.dim), "<f2"), ("checks", (len(keys),), "<u8")):
            np.lib.format.open_memmap(_sibling(file, kind), mode="w+", dtype=np.dtype(dtype), shape=shape).flush()
        content = io.BytesIO()
        np.save(content, keys)
        write_file(file, content.getvalue(), ScoreError)

    def _set_aside(self, file: Path, reason: str) -> None:
        logger.warning("%s is damaged (%s): it is renamed, and its features are computed again.", file, reason)
        for path in (file, _sibling(file, "features"), _sibling(file, "checks")):
            if path.exists():
                path.replace(path.with_name(f"{path.name}.damaged"))


def _sibling(file: Path, kind: str) -> Path:
    return file.with_name(file.name.replace(".keys.", f".{kind}."))


def _checksum(feature: np.ndarray) -> int:
    """Return the checksum of a feature; never 0, which marks an absent feature."""
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(feature, dtype="<f2").tobytes()) or 1
