"""Do what a command does, with one file and with a folder of them."""
