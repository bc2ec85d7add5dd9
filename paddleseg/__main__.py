"""Every command of the project under one name.

    python -m paddleseg train --config configs/quick_start/encnet_resnet18_scenes.yml --do_eval
    python -m paddleseg check_data --help
"""

import ast
import difflib
import os
import sys
from typing import Optional, Sequence

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# Each command is a script, named by its file; what it does is the first line of that file's docstring.
COMMANDS = {
    "Train and test": ("train.py", "val.py", "predict.py", "tools/compare_runs.py", "tools/make_submission.py",
                       "tools/model_info.py"),
    "Data": ("tools/check_data.py", "tools/browse_data.py", "tools/index_masks.py", "tools/create_dataset_list.py",
             "tools/convert_cityscapes.py", "tools/cache_dataset.py", "tools/make_scenes.py"),
    "Deploy": ("tools/export.py", "deploy/infer.py", "tools/demo_server.py", "tools/convert_weights.py"),
    "Try and compare": ("tools/demo.py", "tools/ablation.py"),
    "This machine": ("tools/check_env.py", "tools/setup_env.py", "tools/link_cuda.py"),
}


def name_of(script: str) -> str:
    return os.path.splitext(os.path.basename(script))[0]


def summary(script: str) -> str:
    """The first line of a script's docstring."""
    with open(os.path.join(ROOT, script), encoding="utf-8") as file:
        return ast.get_docstring(ast.parse(file.read())).splitlines()[0]


def usage() -> str:
    width = max(len(name_of(script)) for scripts in COMMANDS.values() for script in scripts)
    lines = ["usage: python -m paddleseg COMMAND …", "",
             "`python -m paddleseg COMMAND --help` has a command's flags and examples; `python FILE …` runs it too."]
    for group, scripts in COMMANDS.items():
        lines += ["", f"{group}:", *(f"  {name_of(script):<{width}}  {summary(script)}" for script in scripts)]
    return "\n".join([*lines, "", "On several GPUs: python -m paddle.distributed.launch train.py …",
                      "`make` lists what builds the environment, tests, compares with the references and measures."])


def main(argv: Sequence[str]) -> Optional[str]:
    """Become the command that the first argument names; returns what is wrong with it."""
    scripts = {name_of(script): script for group in COMMANDS.values() for script in group}
    if not os.path.isfile(os.path.join(ROOT, "train.py")):
        return f"the commands are files of the repository, and {ROOT} has only the package; run this in a clone"
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return None
    if argv[0] not in scripts:
        near = difflib.get_close_matches(argv[0], scripts, 1)
        hint = f"did you mean {near[0]}?" if near else "--help lists them"
        return f"{argv[0]} is not a command; {hint}"
    sys.stdout.flush()
    # In place of this process, so that signals, exit code and the processes that it starts are the script's own.
    os.execv(sys.executable, [sys.executable, os.path.join(ROOT, scripts[argv[0]]), *argv[1:]])


if __name__ == "__main__":
    try:
        error = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # of `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    if error:
        print(f"paddleseg: {error}", file=sys.stderr)
        sys.exit(2)
