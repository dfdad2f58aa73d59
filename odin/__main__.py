"""`python -m odin` is the `odin` command."""

from odin.cli import main

if __name__ == "__main__":
    main()
