"""The scorer as a model class of lm-eval, under the name `calgrid`."""

from __future__ import annotations

from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM

from jobs.evaluate.loglikelihood import LogLikelihoods, Result
from jobs.evaluate.rows import cut_request

Request = tuple[tuple[str, str], list[int], list[int]]
"""As lm-eval passes them: (context, continuation), their token ids."""


@register_model("calgrid")
class Scorer(HFLM):
    """lm-eval's own HF model, except that requests that begin alike share computation.

    See `jobs.evaluate.loglikelihood`. Text generation is lm-eval's own.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.likelihoods = LogLikelihoods(self.model)

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        """Refuse lm-eval's response cache, which tells requests apart but no models (its #4063).

        Raises:
            ValueError: always, where such a cache was asked for.
        """
        if cache_hook.dbdict is not None:
            raise ValueError(
                "lm-eval's response cache gives one model the numbers of another; leave out "
                "use_cache (--use_cache)"
            )
        super().set_cache_hook(cache_hook)

    def _loglikelihood_tokens(
        self,
        requests: list[Request],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[Result]:
        """(log-likelihood, is it what greedy decoding gives) of each request, in order."""
        cut = [cut_request(context, wanted, self.max_length) for _, context, wanted in requests]
        return self.likelihoods(cut)

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """As lm-eval has it, without its progress bar in the log."""
        return super().loglikelihood(requests, disable_tqdm=True)
