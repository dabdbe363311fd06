"""Check data sets: what is missing, broken or contradictory in the files and the metadata.

``classes`` is quick, for the moment before training; ``datasets`` reads every file once. The mapper
and the loader of an evaluation check each image by the same functions (``annotations``,
``ground_truth``).
"""
