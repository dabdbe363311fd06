"""Data sets: registration, mappers, checks, and synthetic scenes (numpy and Pillow only)."""
