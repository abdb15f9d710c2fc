"""Train one model on grouped data. `python train_one.py --help` lists every setting."""

import sys

from hlvnn.errors import run_command
from hlvnn.trial import main

if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
