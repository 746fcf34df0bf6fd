"""`python -m segfix`: the command line."""

from segfix.cli import main

if __name__ == "__main__":
    main()
