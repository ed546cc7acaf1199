"""Evaluation of a model: the tasks of lm-eval and perplexities of texts."""
