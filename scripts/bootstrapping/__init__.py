"""What ``scripts/bootstrap.py`` is made of; standard library only."""
