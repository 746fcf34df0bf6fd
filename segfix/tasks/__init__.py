"""What a command does with one file: read, work, write, report."""
