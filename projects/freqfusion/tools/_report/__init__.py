"""Parts of the tool that writes one page about a trained model."""
