"""Parts of the tool that draws the metrics of training runs."""
