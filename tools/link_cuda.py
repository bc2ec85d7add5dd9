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


def link_libraries(site_packages):
    """Link every `nvidia/*/lib/*.so.*` of `site_packages` into its `paddle/libs`; returns the names of the links.

    Links are relative, so the environment can be moved. A file of Paddle's own is never replaced.
    """
    libs, names = pathlib.Path(site_packages, "paddle/libs"), set()
    for library in pathlib.Path(site_packages).glob("nvidia/*/lib/*.so.*"):
        for name in (library.name, re.sub(r"\.so\..*", ".so", library.name)):
            link = libs / name
            if link.is_symlink():
                link.unlink()
            elif link.exists():
                continue
            link.symlink_to(os.path.relpath(str(library), str(libs)))
            names.add(name)
    return sorted(names)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    paddle = importlib.util.find_spec("paddle")
    if paddle is None:
        sys.exit(f"link_cuda: {sys.executable} has no Paddle; run the Python of its environment")
    linked = link_libraries(pathlib.Path(paddle.origin).parent.parent)
    if not linked:
        sys.exit("link_cuda: no nvidia/*/lib/*.so.* lies beside Paddle; install requirements.txt first")
    print(f"link_cuda: {len(linked)} links in paddle/libs")
