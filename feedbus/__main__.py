"""`python -m feedbus` is the feedbus command."""

from feedbus.cli import main

if __name__ == "__main__":
    main(prog_name="feedbus")
