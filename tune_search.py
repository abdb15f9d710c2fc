"""Search a space over many trials. `python tune_search.py --help` lists every option."""

import sys

from hlvnn.commands.tune_search import main
from hlvnn.errors import run_command

if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
