"""Secrets in what is published: well-known shapes of keys and tokens, and values of secret environment variables.

The table of patterns is our own: `detect-secrets` takes 64 seconds for 100,000 rows, where this takes 0.4, and does
not know the tokens of the Hub; its entropy detectors report hashes and hexadecimal words.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_datasel.errors import PublishError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["SecretScan", "may_hold_key", "without_credentials"]

_ESCAPE = r"(?<=\\[bfnrt])|(?<=\\u[0-9A-Fa-f]{4})|(?<=%[0-9A-Fa-f]{2})"
_ALONE, _BASE64 = rf"(?:(?<![A-Za-z0-9_-])|{_ESCAPE})", rf"(?:(?<![A-Za-z0-9_/+=-])|{_ESCAPE})"
"""What a key must not follow: it would be a part of a word, of a longer key, or of data in base64. The end of an
escape, such as that of a line break in JSON text, is no part of a word."""
_SHAPES: dict[str, tuple[str, str, str]] = {
    "Hugging Face token": (_ALONE, "(?:hf|api_org)_", r"[A-Za-z0-9]{30,}"),
    "Anthropic key": (_ALONE, "sk-ant-", r"[A-Za-z0-9_-]{32,}"),
    "OpenAI key": (_ALONE, "sk-", r"(?!ant-)(?:proj-|svcacct-|admin-)?[A-Za-z0-9_-]{32,}"),
    "AWS access key": (_BASE64, "(?-i:AKIA|ASIA)", r"[A-Z2-7]{16}(?![A-Za-z0-9/+=])"),
    "AWS secret key": (
        "",
        "",
        r"(?i:aws.{0,20}secret.{0,20}|secret_?access_?key)[\"'\\]*\s*[:=]\s*[\"'\\]*[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])",
    ),
    "GitHub token": (_ALONE, "(?:gh[pousr]|github_pat)_", r"[A-Za-z0-9_]{36,}"),
    "GitLab token": (_ALONE, "glpat-", r"[A-Za-z0-9_-]{20,}"),
    "Google key": (_ALONE, "AIza", r"[A-Za-z0-9_-]{35}"),
    "Google client secret": (_ALONE, "GOCSPX-", r"[A-Za-z0-9_-]{28}"),
    "Slack token": (_ALONE, "xox[abeoprs]-", r"[A-Za-z0-9-]{20,}"),
    "Slack webhook": ("", "", r"hooks\.slack\.com/services/T[A-Z0-9]{8,}/B[A-Z0-9]{8,}/[A-Za-z0-9]{20,}"),
    "Stripe key": (_ALONE, "[rs]k_live_", r"[A-Za-z0-9]{24,}"),
    "npm token": (_ALONE, "npm_", r"[A-Za-z0-9]{36}"),
    "PyPI token": (_ALONE, "pypi-", r"[A-Za-z0-9_-]{80,}"),
    "SendGrid key": (_ALONE, r"(?-i:SG\.)", r"[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}"),
    "private key": (
        "",
        "",
        r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----(?:\\[nr]|[\s\"'+,]|[A-Za-z-]+: .{0,80}\n)*"
        r"[A-Za-z0-9+/]{40}",
    ),
}
"""What is before a key, its beginning, which tells what it is, and the rest; by kind."""
_PATTERNS = {kind: re.compile("".join(shape)) for kind, shape in _SHAPES.items()}
_BEGINNING = re.compile(
    rf"(?<![a-z0-9])(?:{'|'.join(beginning for _, beginning, _ in _SHAPES.values() if beginning)}|eyJ)[\w-]{{8}}",
    re.IGNORECASE,
)
"""The beginning of a key or of a JSON web token, for texts that hold neither prose nor code."""
_CANDIDATE = "|".join(
    f"(?:{beginning}{re.sub(r'[(][?]![^)]*[)]', '', rest)})" for _, beginning, rest in _SHAPES.values()
)
"""Pattern for RE2, which has no look-around, that holds for every text with a secret."""
_ADDRESS_WITH_PASSWORD = re.compile(r"\w://[^\s/@:\"'<>]*:[^\s/@\"'<>]+@")
"""In rows such addresses are examples of manuals; in files of a selection they are settings."""
_SECRET_PARAMETER = re.compile(r"key|token|secret|sig|pass|auth|credential", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"example|xxxx|\*\*\*|your|dummy|placeholder|abcdef|12345|fake|redacted", re.IGNORECASE)
_MIN_DISTINCT = 8
"""Number of distinct characters in the random part of a key."""
_SECRET_NAME = re.compile(
    r"(TOKEN|API_?KEY|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|(ACCESS|PRIVATE|SECRET|ACCOUNT|AUTH)_?KEY)"
    r"(_ID|_KEY|_VALUE|_?\d+)?",
    re.IGNORECASE,
)
_MIN_LENGTH = 12
"""Length from which the value of a secret variable is looked for."""
_BATCH = 10_000
_MAX_SHOWN = 8
_TEXT_FILES = (".json", ".yaml", ".yml", ".md", ".txt")


@dataclass
class SecretScan:
    """Search for secrets in rows and files before they are published.

    Args:
        token: Access token in use, which is a secret besides those in the environment.
        allow: Whether to accept what has the shape of a secret. Values of the environment are never accepted.

    Attributes:
        values: Name -> value of the secrets of this process.
    """

    token: str | None = None
    allow: bool = False
    values: dict[str, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.values = {"the access token": self.token} if self.token else {}
        for name, value in os.environ.items():
            ends_in_secret = re.search(rf"{_SECRET_NAME.pattern}$", name, re.IGNORECASE)
            is_long = len(value) >= _MIN_LENGTH and len(set(value)) >= _MIN_DISTINCT // 2
            if ends_in_secret and is_long and value not in self.values.values() and not os.path.exists(value):
                self.values[f"the value of {name}"] = value

    def check_rows(self, dataset: Dataset, numbers: Sequence[int] | np.ndarray | None = None) -> None:
        """Raise if rows or names of columns contain a secret.

        All text is searched, also in lists, structs and binary columns.

        Args:
            dataset: The rows.
            numbers: Their row numbers for the message; by default those of the dataset.

        Raises:
            PublishError: Names rows, columns and kinds, and shows the first four characters of a secret at most.
        """
        tables = dataset.with_format("arrow").iter(batch_size=_BATCH)
        self._check_tables(tables, str(dataset.features), numbers)

    def check_table(self, table: pa.Table, name: str) -> None:
        """Raise if a table that is published as a file contains a secret.

        Args:
            table: The table.
            name: Path of the file in the repository, for the message.

        Raises:
            PublishError: Names the file, rows, columns and kinds.
        """
        slices = (table.slice(start, _BATCH) for start in range(0, len(table), _BATCH))
        self._check_tables(slices, str(table.schema.names), None, f"{name}: ")

    def _check_tables(
        self,
        tables: Iterable[pa.Table],
        columns: str,
        numbers: Sequence[int] | np.ndarray | None,
        prefix: str = "",
    ) -> None:
        """Raise if the rows of tables or the description of their columns contain a secret."""
        places = [f"{prefix}the columns: {kind}" for kind in self._kinds(columns)]
        rows: dict[int, list[str]] = {}
        first = 0
        for table in tables:
            for name in table.column_names:
                for row, text in self._candidates(table.column(name).combine_chunks()):
                    number = first + row if numbers is None else int(numbers[first + row])
                    rows.setdefault(number, []).extend(f"{kind} in {name}" for kind in self._kinds(text))
            first += len(table)
        places += [
            f"{prefix}row {row:,} ({', '.join(dict.fromkeys(kinds))})" for row, kinds in sorted(rows.items()) if kinds
        ]
        self._refuse(places, "Remove the rows or what they contain")

    def check_files(self, files: Mapping[str, Path]) -> None:
        """Raise if a text file contains a secret.

        Args:
            files: Path in the repository -> local file.

        Raises:
            PublishError: A file contains one; the message names it.
        """
        self.check_texts(
            {path: file.read_text("utf-8", "replace") for path, file in files.items() if file.suffix in _TEXT_FILES}
        )

    def check_texts(self, texts: Mapping[str, str]) -> None:
        """Raise if a text other than rows contains a secret, or an address with a password.

        Args:
            texts: Name of the text for the message -> text.

        Raises:
            PublishError: A text contains one; the message names it.
        """
        places = [f"{path} ({kind})" for path, text in texts.items() for kind in dict.fromkeys(self._kinds(text))]
        addresses = [path for path, text in texts.items() if _ADDRESS_WITH_PASSWORD.search(text)]
        places += [f"{path} (an address with a password)" for path in addresses if not self.allow]
        self._refuse(places, "It may come from a setting or a column of the run")

    def _refuse(self, places: Sequence[str], remedy: str) -> None:
        if not places:
            return
        more = f" and {len(places) - _MAX_SHOWN:,} more" if len(places) > _MAX_SHOWN else ""
        message = f"What would be published contains secrets: {', '.join(places[:_MAX_SHOWN])}{more}."
        if any(name in place for place in places for name in self.values):
            raise PublishError(f"{message} {remedy}.")
        raise PublishError(
            message,
            hint=f"{remedy}, or pass allow_secrets=True if they may be public.",
            cli_hint=f"{remedy}, or pass --allow_secrets if they may be public.",
        )

    def _kinds(self, text: str) -> Iterator[str]:
        """Yield a description of each kind of secret in a text."""
        for name, value in self.values.items():
            if value in text or json.dumps(value)[1:-1] in text:
                yield name
        if self.allow:
            return
        for kind, pattern in _PATTERNS.items():
            for match in pattern.finditer(text):
                if not _is_placeholder(match[0]) and not any(match[0] in value for value in self.values.values()):
                    yield f"{kind} {match[0][:4]}…" if kind != "private key" else kind
                    break

    def _candidates(self, column: pa.Array) -> Iterator[tuple[int, str]]:
        """Yield position and text of the values that may contain a secret."""
        for rows, texts in _texts(column, np.arange(len(column))):
            masks = [pc.match_substring(texts, value) for value in self.values.values()]
            masks += [] if self.allow else [pc.match_substring_regex(texts, _CANDIDATE)]
            for mask in masks:
                positions = np.flatnonzero(pc.fill_null(mask, False).to_numpy(zero_copy_only=False))
                for position in positions:
                    value = texts[int(position)].as_py()
                    yield int(rows[position]), value if isinstance(value, str) else value.decode("latin-1")


def may_hold_key(address: str) -> bool:
    """Return whether an address has what begins like a well-known key, whatever follows.

    Args:
        address: The address.

    >>> may_hold_key("https://host.org/glpat-4711aBcDe/v1"), may_hold_key("https://asia-northeast1.host.org/v1")
    (True, False)
    """
    return _BEGINNING.search(address) is not None


def without_credentials(address: str) -> str:
    """Return an address without user and password, fragment, and the values in its query and path that are secrets.

    Args:
        address: The address; text that is none is returned as it is.

    >>> without_credentials("https://me:secret@host.org/v1?api-version=2&api_key=4711#token")
    'https://host.org/v1?api-version=2&api_key=…'
    """
    match = re.fullmatch(r"(\w[\w+.-]*://)(?:[^\s/?#]*@)?([^\s?#]*)(?:\?([^\s#]*))?(?:#\S*)?", address)
    if match is None:
        return address
    query = [
        re.sub(r"=.*", "=…", part) if _is_secret_parameter(part) else part for part in (match[3] or "").split("&")
    ]
    path = "/".join("…" if _has_shape(part) else part for part in match[2].split("/"))
    return f"{match[1]}{path}{'?' if match[3] else ''}{'&'.join(query)}"


def _is_secret_parameter(part: str) -> bool:
    name, _, value = part.partition("=")
    return bool(_SECRET_PARAMETER.search(name)) or _has_shape(value)


def _has_shape(text: str) -> bool:
    return any(pattern.search(text) for pattern in _PATTERNS.values())


def _is_placeholder(secret: str) -> bool:
    """Return whether a key is one of a manual, such as `sk-xxxxxxxx`, or a word with hyphens."""
    if _PLACEHOLDER.search(secret):
        return True
    parts = re.split(r"[-_.]", secret)
    longest = max(parts, key=len)
    if secret.startswith("sk-") and not (
        len(longest) >= 16 and re.search(r"\d", longest) and re.search("[A-Za-z]", longest)
    ):
        return True
    return len(set(longest)) < _MIN_DISTINCT


def _texts(values: pa.Array, rows: np.ndarray) -> Iterator[tuple[np.ndarray, pa.Array]]:
    """Yield all text of a column, also inside other values, with the row numbers."""
    kind = values.type
    if isinstance(values, pa.ExtensionArray):
        yield from _texts(values.storage, rows)
    elif pa.types.is_dictionary(kind):
        yield from _texts(values.dictionary_decode(), rows)
    elif pa.types.is_string_view(kind):
        yield rows, values.cast(pa.large_string())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        yield rows, values
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        yield rows, values.cast(pa.large_binary())
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        parents = np.asarray(pc.list_parent_indices(values))
        yield from _texts(pc.list_flatten(values), rows[parents])
    elif pa.types.is_struct(kind):
        for inner in values.flatten():
            yield from _texts(inner, rows)
    elif pa.types.is_nested(kind):  # maps, unions and views: rare
        yield rows, pa.array([repr(value) for value in values.to_pylist()], pa.large_string())
