"""What ``freqfusion.tools.doctor`` is made of; it runs even where PyTorch does not."""
