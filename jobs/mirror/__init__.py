"""Mirrors: what a grid needs of the hub, fetched once where there is a network."""
