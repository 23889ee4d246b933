"""Gradients made small: a random projection whose matrix is never held, and a folder that keeps what it gives."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from filelock import FileLock

from hf_datasel.errors import ScoreError
from hf_datasel.scoring.distributed import Ranks

__all__ = ["FeatureStore", "Projection"]

logger = logging.getLogger(__name__)

_BLOCK_BYTES = {"cpu": 1 << 20, "cuda": 256 << 20}
"""Of the part of the matrix that is held at once, in float32. On a CPU one that stays in its cache was about twice as
fast as 16 MiB."""


class Projection:
    """Multiplies rows by a matrix of random signs over the square root of `dim`, so that inner products are kept.

    The signs are a function of the seed and of their place in the matrix (splitmix64, 64 of them a call), so they are
    the same on every device, in every process, and however the matrix is cut into blocks. The expected inner product
    of two projected rows is that of the rows, its standard deviation at most their lengths times `sqrt(2 / dim)`.

    Args:
        size: numbers in a row.
        dim: numbers in a projected row. From `size` on rows stay as they are.
        seed: of the signs.
        block: rows of the matrix that are held at once.
    """

    def __init__(self, size: int, dim: int, seed: int, block: int | None = None):
        self.size = size
        self.exact = dim >= size
        self.dim = size if self.exact else dim
        self.block = block
        self._words = -(-self.dim // 64)
        self._start = int(_mixed(torch.tensor([seed])).item())
        self.seed = seed

    def spec(self) -> dict[str, Any]:
        """What decides the signs, as JSON has it."""
        return {"size": self.size} if self.exact else {"size": self.size, "dim": self.dim, "seed": self.seed}

    def __call__(self, parts: Iterable[torch.Tensor]) -> torch.Tensor:
        """Project rows that come in pieces.

        Args:
            parts: the columns of the rows one after the other, each float32 of shape (rows, some columns).

        Returns:
            Shape (rows, dim).
        """
        if self.exact:
            return torch.cat(list(parts), dim=1)
        total: torch.Tensor | None = None
        start = 0
        for part in parts:
            block = self.block or max(_BLOCK_BYTES.get(part.device.type, 64 << 20) // (4 * self.dim), 1)
            if total is None:
                total = torch.zeros(len(part), self.dim, device=part.device)
            for at in range(0, part.shape[1], block):
                piece = part[:, at : at + block]
                with torch.autocast(part.device.type, enabled=False):
                    total.addmm_(piece, self.signs(start + at, start + at + piece.shape[1], part.device))
            start += part.shape[1]
        assert total is not None
        return total.div_(self.dim**0.5)

    def signs(self, start: int, stop: int, device: torch.device | None = None) -> torch.Tensor:
        """Rows `start` to `stop` of the matrix before scaling: 1 and -1, float32."""
        at = torch.arange(start * self._words, stop * self._words, device=device)
        eights = _mixed(at * _GAMMA + self._start).view(torch.uint8).to(torch.int32)
        found = torch.nn.functional.embedding(eights, _table(eights.device))
        return found.reshape(stop - start, -1)[:, : self.dim]


_GAMMA, _FIRST, _SECOND = (
    each - (1 << 64) for each in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)  # of splitmix64, as signed numbers


def _mixed(state: torch.Tensor) -> torch.Tensor:
    """The output function of splitmix64. Torch shifts signed numbers, so the bits that come in are masked off."""
    state = (state ^ ((state >> 30) & ((1 << 34) - 1))) * _FIRST
    state = (state ^ ((state >> 27) & ((1 << 37) - 1))) * _SECOND
    return state ^ ((state >> 31) & ((1 << 33) - 1))


def _table(device: torch.device) -> torch.Tensor:
    """The eight signs of each byte: float32 of shape (256, 8)."""
    bits = torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device) & 1
    return bits.float() * 2 - 1


class FeatureStore:
    """Projected features of rows in memory-mapped `.npy` files, found again by the rows' content.

    A folder a spec, in it parts of three files: keys, features (float16) and a checksum for each feature, which is
    written last. A row whose checksum does not fit, because a run was killed or a disk failed, counts as absent and
    is written anew in its place. Every process of a run makes one for the same rows at the same time, and writes rows
    of its own.

    Args:
        folder: made where it is not there yet; it has to be one that all processes see.
        spec: everything but the rows that decides the features, as JSON has it.
        dim: numbers in a feature.
        keys: 16 bytes for each row, uint8 of shape (rows, 16).

    Raises:
        ScoreError: the folder cannot be made, or belongs to something else.
    """

    def __init__(self, folder: str | os.PathLike[str], spec: Mapping[str, Any], dim: int, keys: np.ndarray):
        whole = json.loads(json.dumps({**spec, "dim": dim, "dtype": "float16"}))
        digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = Path(folder).expanduser() / f"features-{digest}"
        self.dim = dim
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []
        distinct, inverse = np.unique(np.ascontiguousarray(keys).view("S16").reshape(-1), return_inverse=True)
        ranks = Ranks.current()
        if ranks.is_first:
            self._make(whole)
            with FileLock(str(self.folder / "parts.lock")):
                places = self._open(distinct)
                if (missing := distinct[places[:, 0] < 0]).size:
                    self._add(missing)
        ranks.wait()
        self._places = self._open(distinct)[inverse]

    def read(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The features of the rows at these positions, float16, and whether each is there; zeros where it is not."""
        found = np.zeros((len(at), self.dim), dtype=np.float16)
        known = np.zeros(len(at), dtype=bool)
        for row, (part, place) in enumerate(self._places[at]):
            features, checks = self._parts[part]
            if checks[place]:
                feature = np.array(features[place])
                if _checksum(feature) == checks[place]:
                    found[row], known[row] = feature, True
                else:
                    logger.warning("A feature in %s is damaged, and is computed again.", self.folder)
        return found, known

    def write(self, at: np.ndarray, found: np.ndarray) -> None:
        """Keep the features (float16) of the rows at these positions; those that are not finite are not kept."""
        for (part, place), feature in zip(self._places[at], found, strict=True):
            if np.isfinite(feature).all():
                features, checks = self._parts[part]
                checks[place] = 0
                features[place] = feature
                checks[place] = _checksum(feature)

    def completed(self, at: np.ndarray, make: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """The features of the rows at these positions; those that are not there are made, and kept."""
        found, known = self.read(at)
        missing = np.flatnonzero(~known)
        if missing.size:
            found[missing] = make(at[missing])
            self.write(at[missing], found[missing])
        return found

    def close(self) -> None:
        """Put what was written on disk."""
        for part in self._parts:
            for each in part:
                if isinstance(each, np.memmap):
                    each.flush()
        self._parts = []

    def _make(self, spec: Mapping[str, Any]) -> None:
        file = self.folder / "spec.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not file.is_file():
                draft = file.with_suffix(f".{os.getpid()}.tmp")
                draft.write_text(json.dumps(spec, indent=1, sort_keys=True), encoding="utf-8")
                draft.replace(file)
            stored = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            where = str(self.folder.parent)
            raise ScoreError(f"gradients={where!r} cannot be written to: {error.strerror}.") from error
        except ValueError:
            stored = None
        if stored != spec:
            raise ScoreError(
                f"{str(file)!r} does not describe the features that are asked for, as it should by its folder's name: "
                "what is kept there cannot be trusted. Delete the folder, or pass another one as gradients."
            )

    def _open(self, distinct: np.ndarray) -> np.ndarray:
        """Map all parts, and say in which part and place each key is: int64 of shape (keys, 2), -1 for none."""
        places = np.full((len(distinct), 2), -1, dtype=np.int64)
        self._parts = []
        for file in sorted(self.folder.glob("*.keys.npy")):
            try:
                keys, part = self._part(file)
            except (OSError, ValueError, EOFError) as error:
                self._set_aside(file, str(error))
                continue
            at = np.searchsorted(distinct, keys).clip(max=len(distinct) - 1) if len(distinct) else np.empty(0, int)
            hits = np.flatnonzero(distinct[at] == keys) if len(distinct) else at
            places[at[hits]] = np.stack([np.full(len(hits), len(self._parts)), hits], axis=1)
            self._parts.append(part)
        return places

    def _part(self, file: Path) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        keys = np.load(file)
        features = np.load(_beside(file, "features"), mmap_mode="r+")
        checks = np.load(_beside(file, "checks"), mmap_mode="r+")
        shapes = (keys.dtype, features.dtype, features.shape, checks.dtype, checks.shape)
        if shapes != (np.dtype("S16"), np.float16, (len(keys), self.dim), np.uint64, (len(keys),)):
            raise ValueError("its files do not fit together")
        return keys, (features, checks)

    def _add(self, keys: np.ndarray) -> None:
        """Make a part with room for these keys. Its keys are written last: without them it is not there."""
        number = 0
        while (file := self.folder / f"part-{number:04d}.keys.npy").exists():
            number += 1
        for kind, shape, dtype in (("features", (len(keys), self.dim), "<f2"), ("checks", (len(keys),), "<u8")):
            np.lib.format.open_memmap(_beside(file, kind), mode="w+", dtype=np.dtype(dtype), shape=shape).flush()
        draft = file.with_name(f"{file.name}.{os.getpid()}.tmp")
        with open(draft, "wb") as out:
            np.save(out, keys)
        draft.replace(file)

    def _set_aside(self, file: Path, why: str) -> None:
        logger.warning("%s is damaged (%s): it is set aside, and what it held is computed again.", file, why)
        for each in (file, _beside(file, "features"), _beside(file, "checks")):
            if each.exists():
                each.replace(each.with_name(f"{each.name}.damaged"))


def _beside(file: Path, kind: str) -> Path:
    return file.with_name(file.name.replace(".keys.", f".{kind}."))


def _checksum(feature: np.ndarray) -> int:
    """Of the bytes of a feature; never 0, which says that there is none."""
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(feature, dtype="<f2").tobytes()) or 1
