"""Setup of all tests: no network, separate caches, and small models and data built in code."""

from __future__ import annotations

import atexit
import functools
import gc
import importlib.metadata
import ipaddress
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

# The Hugging Face libraries read these when they are first imported, so they are set before.
_CACHE = tempfile.mkdtemp(prefix="hf_datasel_tests_")
atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)
for name in ("HF_HUB_CACHE", "HF_XET_CACHE", "HF_ASSETS_CACHE", "HF_MODULES_CACHE", "HF_ENDPOINT", "HF_TOKEN"):
    os.environ.pop(name, None)
os.environ |= {
    "HF_HOME": _CACHE,
    "HF_DATASETS_CACHE": os.path.join(_CACHE, "datasets"),
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "TRACKIO_DISABLED": "1",
    "WANDB_MODE": "disabled",
    "MPLBACKEND": "Agg",
}
os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads are slower with models this small
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # use the CPU; set it to test on a GPU

SHARED = Path(__file__).resolve().parents[2] / "shared"


# -- no network ------------------------------------------------------------------------------------------------------
def _is_local(host: object) -> bool:
    if isinstance(host, bytes):
        host = host.decode()
    if host in (None, "", "localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(str(host).split("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _refuse(host: object) -> None:
    if not _is_local(host):
        raise RuntimeError(f"A test tried to reach {host!r}, but tests run offline: only loopback is allowed.")


def _block_network(patch: pytest.MonkeyPatch) -> None:
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def guarded(original: Any) -> Any:
        def call(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6):
                _refuse(address[0])
            return original(self, address)

        return call

    def guarded_lookup(host: Any, *args: Any, **kwargs: Any) -> Any:
        _refuse(host)
        return getaddrinfo(host, *args, **kwargs)

    patch.setattr(socket.socket, "connect", guarded(connect))
    patch.setattr(socket.socket, "connect_ex", guarded(connect_ex))
    patch.setattr(socket, "getaddrinfo", guarded_lookup)
    # HTTP clients read all root certificates when they are created, and there is nobody to check with them.
    patch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_, **__: None)


def pytest_configure(config: pytest.Config) -> None:
    # For the full run and not in a fixture, so that doctests, collection and background threads are covered too.
    patch = pytest.MonkeyPatch()
    _block_network(patch)
    for name in ("metadata", "version"):  # accelerate and selections read them from files again and again
        patch.setattr(importlib.metadata, name, functools.cache(getattr(importlib.metadata, name)))
    config.add_cleanup(patch.undo)


# -- the reference data ----------------------------------------------------------------------------------------------
def _has_shared() -> bool:
    return (SHARED / "golden").is_dir()


def pytest_report_header() -> str | None:
    if _has_shared():
        return None
    return "reference data: no folder `shared` beside the repository, so the tests marked `shared` are excluded"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if _has_shared():
        return
    exclusions = [i for i in items if i.get_closest_marker("shared") or "shared" in getattr(i, "fixturenames", ())]
    if exclusions:
        config.hook.pytest_deselected(items=exclusions)
        items[:] = [item for item in items if item not in exclusions]


def _freeze() -> None:
    """Exclude all objects so far from garbage collection, which transformers runs before each training."""
    gc.collect()
    gc.freeze()


def pytest_collection_finish() -> None:
    _freeze()


@pytest.hookimpl(trylast=True)  # without what the test has created
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is not None and nextitem.path != item.path:
        _freeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of the reference data; tests that use it are deselected if the folder does not exist."""
    return SHARED


# -- small data and models -------------------------------------------------------------------------------------------
_ROWS = [
    ("Name a fruit that is red.", "", "A cherry is red."),
    ("Say hello in a friendly way.", "", "Hello there, it is lovely to see you!"),
    ("Add the two numbers.", "4 and 9", "4 and 9 make 13."),
    ("Is the kettle hot?", "The kettle has just boiled.", "Yes, it has just boiled."),
    ("Write one sentence about rain.", "", "Rain drums on the tin roof all night long."),
    ("Turn the word around.", "lamp", "pmal"),
    ("List three tools of a gardener.", "", "1. A spade\n2. A rake\n3. A watering can"),
    ("Put the words in alphabetical order.", "pear, apple, fig", "apple, fig, pear"),
    ("What does a baker make?", "", "Bread."),
    (
        "Shorten the sentence.",
        "The cat, which was old, slept on the mat by the door.",
        "The old cat slept by the door.",
    ),
    ("Give a rhyme for 'tree'.", "", "Bee."),
    ("Explain why boats float.", "", "A boat pushes aside as much water as it weighs, and the water pushes back."),
    ("Correct the spelling.", "The wether is fine.", "The weather is fine."),
    ("How many legs has a spider?", "", "Eight."),
    (
        "Describe the room.",
        "A desk, two chairs, one window.",
        "It is a small room with a desk, two chairs and a window.",
    ),
    ("Write a function that doubles a number.", "", "def double(x):\n    return 2 * x"),
    ("Say hello in a friendly way.", "The guest is called Mira.", "Hello Mira, come in and warm yourself!"),
    ("Which is heavier?", "a feather or a brick", "The brick is heavier."),
    ("Translate into French: good evening", "", "Bonsoir ! C'est à vous."),
    ("Name a fruit that is yellow.", "", "A banana, a lemon or a quince."),
    (
        "Tell a very short story.",
        "",
        "A fox found a lantern. It lit the way home, and was kept for others.",
    ),
    ("Is seven a prime number?", "", "Yes: only 1 and 7 divide it."),
    ("Make the sentence a question.", "The train is late.", "Is the train late?"),
    ("Count to five.", "", "One, two, three, four, five."),
]

_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _tiny_tokenizer(*, bos: bool, chat_template: str | None) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text for row in _ROWS for text in row], trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=chat_template,
        model_max_length=1024,
    )


def _save_tiny_model(folder: Path, tokenizer: Any) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.2,  # ten times the usual, so that the scores of an untrained model are not flat
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a two-layer chat model in float32, whose tokenizer adds <s> and has a chat template."""
    return _save_tiny_model(
        tmp_path_factory.mktemp("tiny_model"), _tiny_tokenizer(bos=True, chat_template=_CHAT_TEMPLATE)
    )


@pytest.fixture(scope="session")
def tiny_text_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the same model for plain text, without a chat template and without BOS."""
    return _save_tiny_model(tmp_path_factory.mktemp("tiny_text_model"), _tiny_tokenizer(bos=False, chat_template=None))


@pytest.fixture(scope="session")
def reward_dir(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> str:
    """Return the folder of a small reward model that reads another template than the model that answers."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    folder = tmp_path_factory.mktemp("gap_reward")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}</s>{% endfor %}"
    )
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=len(tokenizer), initializer_range=0.2, pad_token_id=None, num_labels=1, dtype="float32", **sizes
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def pool_rows() -> Any:
    """Return 24 synthetic rows with the columns of Alpaca."""
    from datasets import Dataset

    columns = (list(column) for column in zip(*_ROWS, strict=True))
    return Dataset.from_dict(dict(zip(("instruction", "input", "output"), columns, strict=True)))


# -- processes -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def _python_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    from tests import warm_python

    with warm_python.server(tmp_path_factory.mktemp("python")):
        yield


@pytest.fixture(scope="module")
def warm_python(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let processes of Python start at once, with the libraries imported, where such a process can be forked."""
    if sys.platform != "linux" or os.environ["CUDA_VISIBLE_DEVICES"]:
        yield
        return
    from tests.warm_python import Popen

    request.getfixturevalue("_python_server")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", Popen)
        yield


# -- the Hub ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def local_hub(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Yield a local Hub that this process is logged in to, with LFS or, with the parameter "xet", with Xet."""
    from tests.local_hub import LocalHub, connected

    with LocalHub() as hub, connected(hub, tmp_path / "hf_home", xet=getattr(request, "param", "lfs") == "xet"):
        yield hub


@pytest.fixture(autouse=True)
def _offline_afterwards() -> Iterator[None]:
    """Check that the libraries are as offline after a test as before it, or the next ones would reach for the Hub."""
    before = _is_offline()
    yield
    assert _is_offline() == before, "HF_HUB_OFFLINE differs after the test: undo patches of it before the Hub closes"


def _is_offline() -> bool:
    constants = sys.modules.get("huggingface_hub.constants")
    return constants is None or constants.HF_HUB_OFFLINE


@pytest.fixture
def model(tiny_model_dir: Path) -> Any:
    """Give the small chat model, freshly loaded and in evaluation mode."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()


@pytest.fixture
def tokenizer(tiny_model_dir: Path) -> Any:
    """Give the tokenizer of the small chat model."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model_dir)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list of the sequences per forward pass of scores since it was cleared."""
    from hf_datasel.scoring.logprobs import LogprobRunner

    seen, original = list[int](), LogprobRunner.hidden

    def counted(self: Any, batch: Any) -> Any:
        seen.append(len(batch))
        return original(self, batch)

    monkeypatch.setattr(LogprobRunner, "hidden", counted)
    return seen


@pytest.fixture
def without_histograms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `hf-datasel score` write empty images: drawing takes longer than scoring a few rows."""
    figure = SimpleNamespace(savefig=lambda file, format: file.touch())
    monkeypatch.setattr("hf_datasel.analysis.draw_scores", lambda *_: figure)


@pytest.fixture
def plain_losses() -> Any:
    """Give a function that computes the loss of each token at `positions`, from the full logits of one row."""
    import torch

    def losses(model: Any, ids: Any, positions: Any) -> Any:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([list(map(int, ids))])).logits[0].float()
        log_probs = torch.log_softmax(logits, dim=-1)
        return torch.stack([-log_probs[position - 1, int(ids[position])] for position in positions]).numpy()

    return losses
