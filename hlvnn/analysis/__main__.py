"""`python -m hlvnn.analysis PATH`: the report of a sweep."""

import sys

from hlvnn.analysis.report import main
from hlvnn.errors import run_command

if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
