"""Networks, data, the training loop and export: everything that needs torch."""
