"""Train one model on grouped data. `python train_one.py --help` lists every setting."""

import sys

from hlvnn.commands.train_one import main
from hlvnn.errors import run_command

if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
