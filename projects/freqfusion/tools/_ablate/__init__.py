"""Parts of the tool ``ablate``: the matrix, its runs, their rows, what they say together."""
