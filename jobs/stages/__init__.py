"""The stages of a cell: its text, its pruning and its evaluation, each from files to files."""
