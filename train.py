"""Train a model from a YAML config, on one process or many."""

import sys

from paddleseg.commands.train import main, parse_args
from paddleseg.utils.cli import run_main

if __name__ == "__main__":
    sys.exit(run_main(main, parse_args()))
