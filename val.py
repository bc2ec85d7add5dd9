"""Evaluate a trained model on val_dataset of its config."""

import sys

from paddleseg.commands.val import main, parse_args
from paddleseg.utils.cli import run_main

if __name__ == "__main__":
    sys.exit(run_main(main, parse_args()))
