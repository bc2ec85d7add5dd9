"""Link the CUDA libraries that pip installed to where Paddle looks for them.

paddlepaddle-gpu 2.6.2 opens `libcudnn.so`, `libcublas.so` and so on by names without a version, and
searches its own `paddle/libs`. The nvidia-*-cu11 packages keep them under `nvidia/*/lib` with a version
(`libcudnn.so.8`). Links under both names join the two; no environment variable is needed.

    .venv/bin/python tools/link_cuda.py
"""

import argparse
import importlib.util
import os
import pathlib
import re
import sys


class LinkError(Exception):
    """The packages to be joined aren't both there."""


def link_libraries(site_packages):
    """Link every `nvidia/*/lib/*.so.*` of `site_packages` into its `paddle/libs`.

    Links are relative, so the environment can be moved. A file of Paddle's own is never replaced.

    Returns:
        the names of the links, sorted.

    Raises:
        LinkError: `site_packages` lacks Paddle or the libraries.
    """
    site_packages = pathlib.Path(site_packages)
    libs = site_packages / "paddle/libs"
    if not libs.is_dir():
        raise LinkError(f"{site_packages} has no paddle/libs; install requirements.txt first")
    libraries = sorted(site_packages.glob("nvidia/*/lib/*.so.*"))
    if not libraries:
        raise LinkError(f"{site_packages} has no nvidia/*/lib/*.so.*; install the nvidia-*-cu11 packages of "
                        "requirements.txt first")
    names = set()
    for library in libraries:
        for name in (library.name, re.sub(r"\.so\..*", ".so", library.name)):
            link = libs / name
            if link.exists() and not link.is_symlink():
                continue
            if link.is_symlink():
                link.unlink()
            link.symlink_to(os.path.relpath(str(library), str(libs)))
            names.add(name)
    return sorted(names)


def main():
    paddle = importlib.util.find_spec("paddle")
    try:
        if paddle is None:
            raise LinkError(f"{sys.executable} has no Paddle; run the Python of its environment")
        names = link_libraries(pathlib.Path(paddle.origin).parent.parent)
    except LinkError as error:
        print(f"link_cuda: {error}", file=sys.stderr)
        return 1
    print(f"link_cuda: {len(names)} links in paddle/libs")
    return 0


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    sys.exit(main())
