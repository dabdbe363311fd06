"""Parts of the model zoo tool."""
