"""Predict the class of every pixel of an image, of a directory of images, or of a list of them."""

import sys

from paddleseg.commands.predict import main, parse_args
from paddleseg.utils.cli import run_main

if __name__ == "__main__":
    sys.exit(run_main(main, parse_args()))
