"""Sentences on greedy selections, for `explain`."""

from __future__ import annotations

from hf_datasel.strategies.ngram_explain import PickExplanation

__all__ = ["describe_pick"]


def describe_pick(explanation: PickExplanation | None, num_candidates: int) -> list[str]:
    """Describe what decided on a row in the n-gram greedy algorithm.

    Args:
        explanation: Output of `explain_pick`; None for a row that was no candidate.
        num_candidates: Number of rows that the greedy algorithm selected from.
    """
    if explanation is None:
        return [f"It was not among the {num_candidates:,} candidates that the greedy algorithm selected from."]
    sentence = (
        f"Its score, quality x n-grams not yet covered, was {explanation['best']:.4g} before anything was selected"
    )
    if explanation["step"] is not None:
        sentence += f", and {explanation['score']:.4g} when it was selected, after {explanation['step']:,} others."
    else:
        last = explanation["last_selected"] or 0
        sentence += f", and {explanation['score']:.4g} at the end; the row selected last had {last:.4g}."
    ngrams = [f"{name!r} {weight:.3g}{_covered(times)}" for name, weight, times in explanation["ngrams"]]
    return [sentence, f"Its heaviest n-grams: {', '.join(ngrams)}." if ngrams else "It has no n-gram."]


def _covered(times: int) -> str:
    return f" (covered {times:,} times before)" if times > 1 else " (covered once before)" if times else " (new)"
