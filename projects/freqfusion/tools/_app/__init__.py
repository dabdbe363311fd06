"""Parts of the viewer in a browser."""
