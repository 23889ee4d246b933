import pytest

from hf_datasel.scores import IFD, Length, Loss
from hf_datasel.testing import contract


@pytest.fixture(scope="module")
def rows(pool_rows):
    return pool_rows.select(range(8))


@contract(
    Length(),
    Length("tokens", column_prefix="old_"),
    Loss(),
    IFD(),
    IFD(ratio="loss", prior_context="bos", end_token=False, max_length=96),
    IFD(convention="superfiltering"),
    IFD(convention="cherry", column_prefix="cherry_"),
)
def test_contract(check, score, rows, tiny_model_dir):
    check(score, rows, tiny_model_dir)


@contract(IFD(prior_context="none"))
def test_contract_without_a_chat_template(check, score, rows, tiny_text_model_dir):
    check(score, rows, tiny_text_model_dir)
