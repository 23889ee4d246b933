"""Secrets in rows and files that are about to be published."""

from __future__ import annotations

import base64
import json
import random
import re
import string

import pyarrow as pa
import pytest
from datasets import Dataset

from hf_datasel.errors import PublishError
from hf_datasel.hub.secrets import SecretScan, without_credentials

RANDOM = random.Random(0)
LETTERS = string.ascii_letters
LETTERS_AND_DIGITS = LETTERS + string.digits
BASE32 = string.ascii_uppercase + "234567"


def key(size, alphabet=LETTERS_AND_DIGITS):
    return "".join(RANDOM.choice(alphabet) for _ in range(size))


SECRETS = {
    "Hugging Face token": ["hf_" + key(34, LETTERS), "api_org_" + key(34, LETTERS)],
    "OpenAI key": ["sk-" + key(48), "sk-proj-" + key(48), "sk-" + key(32, "0123456789abcdef")],
    "Anthropic key": ["sk-ant-api03-" + key(60)],
    "AWS access key": ["AKIA" + key(16, BASE32), "ASIA" + key(16, BASE32)],
    "AWS secret key": [f'aws_secret_access_key = "{key(40)}"', f'{{"SecretAccessKey": "{key(40)}"}}'],
    "GitHub token": ["ghp_" + key(36), "ghs_" + key(36), f"github_pat_{key(22)}_{key(59)}"],
    "GitLab token": ["glpat-" + key(20)],
    "Google key": ["AIza" + key(35)],
    "Slack token": [f"xoxb-{key(12, string.digits)}-{key(24)}"],
    "Slack webhook": [f"https://hooks.slack.com/services/T0{key(8, BASE32)}/B0{key(8, BASE32)}/{key(24)}"],
    "Stripe key": ["sk_live_" + key(24)],
    "npm token": ["npm_" + key(36)],
    "PyPI token": ["pypi-" + key(120)],
    "SendGrid key": [f"SG.{key(22)}.{key(43)}"],
    "private key": [
        f"-----BEGIN RSA PRIVATE KEY-----\n{key(64)}\n{key(64)}\n",
        f'"-----BEGIN PRIVATE KEY-----\\n{key(64)}\\n"',
        f"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,{key(32)}\n\n{key(64)}",
        f"-----BEGIN OPENSSH PRIVATE KEY-----\n{key(70)}",
    ],
}
NO_SECRETS = [
    "sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    'openai.api_key = "sk-..."',
    "sk-YOUR-KEY-GOES-HERE-PLEASE-REPLACE-01234567",
    "AKIAIOSFODNN7EXAMPLE",
    "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "hf_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "<div class=sk-toggleable__content-estimator-id-1-sklearn-html-repr>",
    "sk-learn-2023-intro-to-machine-learning-with-python-and-pandas",
    "hf_hub_download_and_some_more_long_python_name_indeed",
    "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----",
    "risk-" + key(40),
    "task-proj-" + key(40),
    "https://user:password@localhost/database",
    "".join(key(64, "0123456789abcdef") for _ in range(1_000)),
    base64.b64encode(RANDOM.randbytes(300_000)).decode(),
    base64.urlsafe_b64encode(RANDOM.randbytes(300_000)).decode(),
]


@pytest.fixture(autouse=True)
def no_secret_variables(monkeypatch):
    for name in ("HF_TOKEN", "OPENAI_API_KEY", "MY_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("kind", "secret"), [(kind, secret) for kind, group in SECRETS.items() for secret in group])
def test_shapes(kind, secret):
    for text in (secret, f"import os\nclient = f('{secret}')  # mine"):
        with pytest.raises(PublishError, match="contains secrets") as error:
            SecretScan().check_rows(Dataset.from_dict({"output": ["Yes.", text, "No."]}))
        message = str(error.value)
        assert f"row 1 ({kind}" in message
        assert "allow_secrets=True" in message
        assert "--allow_secrets" in error.value.cli_message
        for part in re.findall(r"[A-Za-z0-9/+]{16,}", secret):
            assert part[4:12] not in message, "more than four characters are printed"
        SecretScan(allow=True).check_rows(Dataset.from_dict({"output": [text]}))


@pytest.mark.parametrize("text", NO_SECRETS, ids=lambda text: text[:30])
def test_placeholders_hashes_and_images_are_no_secrets(text):
    SecretScan().check_rows(Dataset.from_dict({"output": ["Yes.", text]}))


TOKEN = "ghp_" + key(36)


@pytest.mark.parametrize("before", [*(json.dumps(text)[1:-1] for text in ("\n", "\t", "é")), "%3D", "%20"])
@pytest.mark.parametrize("secret", [TOKEN, "hf_" + key(34, LETTERS), "AKIA" + key(16, BASE32)])
def test_secrets_behind_an_escape(before, secret):
    with pytest.raises(PublishError, match="row 0"):
        SecretScan().check_rows(Dataset.from_dict({"messages": [f'[{{"content": "Look:{before}{secret}"}}]']}))
    with pytest.raises(PublishError, match=re.escape("selection.json")):
        SecretScan().check_texts({"selection.json": f'{{"prompt": "Look:{before}{secret}"}}'})


@pytest.mark.parametrize(
    "column",
    [
        pa.array([None, [[["a"], ["b", TOKEN]]]]),
        pa.array([[], [{"role": "user", "content": TOKEN}]]),
        pa.array([None, {"x": {"y": f"token={TOKEN}"}}]),
        pa.array([None, [{"role": "assistant", "content": [{"type": "text", "text": TOKEN}]}]]),
        pa.array(["", TOKEN], pa.large_string()),
        pa.array([b"", b"\xff\xfe" + TOKEN.encode()]),
        pa.array(["", TOKEN]).dictionary_encode(),
    ],
    ids=["lists", "messages", "structs", "parts", "large_string", "binary", "dictionary"],
)
def test_places(column):
    rows = Dataset(pa.table({"number": [0, 1], "mine": column}))
    with pytest.raises(PublishError, match=r"row 1 \(GitHub token ghp_… in mine\)"):
        SecretScan().check_rows(rows)
    SecretScan().check_rows(rows.select([0]))


def test_names_of_columns():
    for rows in ({TOKEN: ["a"]}, {"mine": [{TOKEN: "a"}]}):
        with pytest.raises(PublishError, match="the columns: GitHub token ghp_…"):
            SecretScan().check_rows(Dataset.from_dict(rows))


def test_row_numbers():
    rows = Dataset.from_dict({"output": [TOKEN if row % 1_000 == 3 else "Yes." for row in range(25_000)]})
    with pytest.raises(
        PublishError, match=r"row 3 \(.*\), row 1,003 \(.*row 7,003 \(GitHub token ghp_… in output\) and 17 more"
    ):
        SecretScan().check_rows(rows)
    with pytest.raises(PublishError, match=r"row 77 \(GitHub"):
        SecretScan().check_rows(rows.select([0, 3]), [5, 77])


def test_values_of_the_environment_are_never_allowed(monkeypatch, tmp_path):
    monkeypatch.setenv("MY_API_KEY", 'violet "horse" 4711')
    (tmp_path / "selection.json").write_text('{"prompt": "violet \\"horse\\" 4711"}')
    for allow in (False, True):
        with pytest.raises(PublishError, match="contains secrets") as error:
            SecretScan(allow=allow).check_rows(Dataset.from_dict({"output": ['It is violet "horse" 4711.']}))
        assert "row 0 (the value of MY_API_KEY in output)" in str(error.value)
        assert "viol" not in str(error.value)
        assert "allow_secrets" not in str(error.value)
        with pytest.raises(PublishError, match=r"selection.json \(the value of MY_API_KEY\)"):
            SecretScan(allow=allow).check_files({"selection.json": tmp_path / "selection.json"})
    with pytest.raises(PublishError, match="the access token in output"):
        SecretScan(token="of-an-account-0815").check_rows(Dataset.from_dict({"output": ["of-an-account-0815"]}))


def test_short_values_and_other_variables_are_no_secrets(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "a-long-value-of-it")
    SecretScan().check_rows(Dataset.from_dict({"output": ["EMPTY a-long-value-of-it"]}))


def test_files(tmp_path):
    for name in ("README.md", "recipe.yaml", "selection.json"):
        (tmp_path / name).write_text(f"key: {TOKEN}")
        with pytest.raises(PublishError, match=rf"{name} \(GitHub token ghp_…\)"):
            SecretScan().check_files({name: tmp_path / name})
    (tmp_path / "recipe.yaml").write_text("base_url: https://me:secret@host.org/v1")
    with pytest.raises(PublishError, match=r"recipe.yaml \(an address with a password\)"):
        SecretScan().check_files({"recipe.yaml": tmp_path / "recipe.yaml"})


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://localhost:8000/v1", "http://localhost:8000/v1"),
        ("http://me:secret@localhost:8000/v1", "http://localhost:8000/v1"),
        ("https://secret@host.org/v1", "https://host.org/v1"),
        ("https://host.org/v1?api-version=2&sig=secret", "https://host.org/v1?api-version=2&sig=…"),
        ("https://host.org/v1?x=" + TOKEN, "https://host.org/v1?x=…"),
        ("https://host.org/v1#secret", "https://host.org/v1"),
        (f"https://host.org/{TOKEN}/v1", "https://host.org/…/v1"),
        ("Answer as http://me:secret@host would", "Answer as http://me:secret@host would"),
        ("tester/model", "tester/model"),
    ],
)
def test_addresses_without_credentials(address, shown):
    from hf_datasel.selection.provenance import without_paths

    assert without_credentials(address) == shown
    assert without_paths({"scores": [{"base_url": address}]}) == {"scores": [{"base_url": shown}]}
