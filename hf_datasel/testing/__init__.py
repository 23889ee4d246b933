"""The contract that every score and selector keeps, as a test for ours and for yours.

    from hf_datasel.testing import contract

    @contract(Top(by="ifd"), Top(by="loss"))
    def test_contract(check, selector, rows):
        check(selector, rows)

For scores the parameter is called `score`. `rows` is a small dataset that the object can work on, of four rows or
more; the checks add a row that cannot be used. `model`, a third argument, is a local path for objects whose own
`model` is None: `check(score, rows, model)`.

A selector that plans several rounds plays them all, without training between them: `rows` have to be enough for a
plan. Rounds after one that is planned with checkpoints are not played.

A class that cannot keep a part of the contract says which and why, and that check is then not run:

    contract_exceptions: ClassVar[dict[str, str]] = {"no_network": "Asks a judge behind an API."}
"""

from hf_datasel.testing.decorator import contract

__all__ = ["contract"]
