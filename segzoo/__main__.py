"""`python -m segzoo`: the same as the command `segzoo`."""

from segzoo.cli.main import run_program

if __name__ == "__main__":
    run_program()
