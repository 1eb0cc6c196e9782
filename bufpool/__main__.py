"""`python -m bufpool` is the command line."""

from bufpool.cli import main

if __name__ == "__main__":
    main(prog_name="bufpool")
