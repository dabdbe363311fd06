"""Parts of the tool ``export``."""
