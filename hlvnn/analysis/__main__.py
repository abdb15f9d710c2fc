"""`python -m hlvnn.analysis`: the door to `hlvnn.commands.analysis`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("hlvnn.commands.analysis", run_name="__main__")
