"""Slow and obvious implementations that the package's own are compared with."""
