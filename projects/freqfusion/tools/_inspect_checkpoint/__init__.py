"""Parts of the tool that says what is in a checkpoint."""
