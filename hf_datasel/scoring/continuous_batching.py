"""Greedy answers with the continuous batching of transformers."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from hf_datasel.errors import ModelError
from hf_datasel.scoring.batching import static_rope_length

__all__ = ["ContinuousBatcher"]

_VERSION = (5, 23)
"""First version of transformers that this is tested with; the classes of earlier ones have other settings."""
_PAGE_TOKENS = 256
_MAX_BATCH_TOKENS = 4096
"""Maximum number of tokens in a forward pass: the attention mask has a row for each, and a column for each cached."""
_MAX_REQUESTS = 256
"""Maximum number of prompts that are answered at once: the logits of each take memory."""


class ContinuousBatcher:
    """Generates answers greedily; as soon as an answer ends, the next prompt takes its place in the batch.

    Nothing is padded. The attention implementation stays that of the model, except that "eager" becomes its paged
    version meanwhile.

    Args:
        model: Causal LM in eval mode.
        max_new_tokens: Maximum number of tokens of an answer, including its end.
        end_ids: Token ids that end an answer.
        cache_tokens: Number of tokens whose keys and values are in memory at once; more if the longest prompt and its
            answer need them.

    Raises:
        ModelError: This version of transformers, or this model, has no continuous batching.
    """

    def __init__(self, model: Any, max_new_tokens: int, end_ids: Sequence[int], cache_tokens: int):
        import transformers

        version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
        if version < _VERSION:
            raise ModelError(
                f"Continuous batching needs transformers {'.'.join(map(str, _VERSION))}, and this is "
                f"{transformers.__version__}. Update it, or omit use_transformers_continuous_batching."
            )
        if not hasattr(model, "init_continuous_batching"):
            raise ModelError(
                f"{type(model).__name__} has no continuous batching. Omit use_transformers_continuous_batching."
            )
        self.model, self.max_new_tokens, self.end_ids = model, max_new_tokens, list(end_ids)
        self.cache_tokens = cache_tokens

    def answers(self, prompts: Sequence[np.ndarray]) -> Generator[tuple[int, np.ndarray], None, None]:
        """Generate an answer to each prompt.

        Args:
            prompts: Token ids of the prompts, none of them empty.

        Yields:
            The index of a prompt and the token ids of its answer, with its end token, as they end.

        Raises:
            ModelError: The model cannot be run so, or the device runs out of memory.
        """
        longest, limit = max(len(ids) for ids in prompts) + self.max_new_tokens, static_rope_length(self.model.config)
        if limit is not None and longest > limit:
            raise self._error(f"beyond {limit:,} tokens its positions depend on the other prompts")
        manager = self._manager(longest)
        manager.start()
        try:
            for index, ids in enumerate(prompts):
                manager.add_request(ids.tolist(), str(index), self.max_new_tokens, eos_token_id=self.end_ids)
            remaining = len(prompts)
            while remaining:
                result = manager.get_result(timeout=1)
                if result is None and manager.is_running():
                    continue
                if result is None or result.error is not None:
                    raise self._error("it stopped" if result is None else result.error)
                remaining -= 1
                yield int(result.request_id), np.array(result.generated_tokens, dtype=np.int64)
        finally:
            manager.stop(block=True, hard_stop=True)
            manager.destroy()

    def _manager(self, longest: int) -> Any:
        from transformers import ContinuousBatchingConfig, GenerationConfig

        tokens = max(self.cache_tokens, longest)
        config = ContinuousBatchingConfig(
            page_size=_PAGE_TOKENS,
            num_blocks=-(-tokens // _PAGE_TOKENS) + 1,
            max_batch_tokens=min(tokens, _MAX_BATCH_TOKENS),
            max_requests_per_batch=_MAX_REQUESTS,
            allow_block_sharing=False,
            auto_switch_to_flash=False,
            seed=0,
        )
        generation = GenerationConfig(
            max_new_tokens=self.max_new_tokens, do_sample=False, num_beams=1, eos_token_id=self.end_ids or -1
        )
        try:
            return self.model.init_continuous_batching(generation, config)
        except ValueError as error:
            raise self._error(str(error)) from error

    def _error(self, message: str) -> ModelError:
        return ModelError(
            f"Continuous batching of {type(self.model).__name__} failed: {message}. If the device is out of memory, "
            "lower scoring_tokens_per_batch; otherwise omit use_transformers_continuous_batching."
        )
