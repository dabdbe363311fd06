"""Parts of the aliasing tool."""
