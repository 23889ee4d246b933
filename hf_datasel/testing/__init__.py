"""Contract tests for scores and selectors: of this package, and for authors of other ones.

    from hf_datasel.testing import contract

    @contract(Top(by="ifd"), Top(by="loss"))
    def test_contract(check, selector, rows):
        check(selector, rows)

For scores the parameter is called `score`. `rows` is a small dataset of at least four rows with the columns that the
score or selector needs; the checks add a row that cannot be used. For objects whose own `model` is None, pass the path
of a local model as the third argument: `check(score, rows, model)`.

If a selector plans several rounds, all of them are run, without training between them, so `rows` need as many rows as
the plan. Rounds after one that is planned with `checkpoints=True` are not run.

If a class cannot pass a check, it names the check and the reason. That check is then skipped:

    contract_exceptions: ClassVar[dict[str, str]] = {"no_network": "Asks a judge behind an API."}
"""

from hf_datasel.testing.decorator import contract

__all__ = ["contract"]
