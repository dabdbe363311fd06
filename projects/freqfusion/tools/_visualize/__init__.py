"""Parts of the tool that draws what a model predicts."""
