"""Networks, data, the training loop and export; all but `settings` needs torch."""
