"""Fused GPU kernels of the block loop, in Triton; each has a plain counterpart that says the same.

Importing these modules needs Triton: ask `prune.fused.fused` first.
"""
