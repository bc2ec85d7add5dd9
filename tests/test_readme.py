"""The documents, compared with the files: links, commands and flags, messages, scores; and both languages."""

import ast
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAIRS = [("README.md", "README_CN.md"), ("docs/coming_from.md", "docs/coming_from_CN.md"),
         ("docs/survival.md", "docs/survival_CN.md")]
DOCUMENTS = sorted({path.relative_to(ROOT).as_posix() for pattern in ("*.md", "docs/*.md", "deploy/*.md", "diff/*.md")
                    for path in ROOT.glob(pattern)})


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# ---- links ------------------------------------------------------------------------------------------

def anchors(text: str) -> set:
    """The fragments by which a page's headings are linked, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.strip().lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    for link in re.findall(r"\]\(([^)\s]+)\)", read(name)):
        if "://" in link:
            continue
        path, _, fragment = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), f"{name}: {link}"
        if fragment:
            assert fragment in anchors(target.read_text(encoding="utf-8")), f"{name}: {link}"


# ---- both languages ---------------------------------------------------------------------------------

def blocks(text: str) -> list:
    """The code blocks, without the comments, which are translated."""
    found = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [re.sub(r"\s+(#|（|\().*$", "", block, flags=re.MULTILINE) for block in found]


def words_in_code(text: str) -> list:
    """Return the code spans of each table row, sorted, as English and Chinese order them differently."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [sorted(re.findall(r"`([^`]+)`", row)) for row in rows]


@pytest.mark.parametrize("english, chinese", PAIRS)
def test_both_languages_have_the_same_code(english, chinese):
    english, chinese = read(english), read(chinese)
    assert blocks(english) == blocks(chinese)
    assert words_in_code(english) == words_in_code(chinese)
    assert len(re.findall("^#+ ", english, re.MULTILINE)) == len(re.findall("^#+ ", chinese, re.MULTILINE))


# ---- commands ---------------------------------------------------------------------------------------

@cache
def flags_of(script: str) -> set:
    done = subprocess.run([sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(re.findall(r"(?<![\w-])(--\w+)", done.stdout))


def commands(name: str) -> list:
    """Each command line that calls a script of this repository, in a block or within a sentence, as its words."""
    text = read(name)
    lines = [line for block in re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
             for line in block.replace("\\\n", " ").splitlines()]
    prose = re.sub(r"^```\w*\n.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    # Where a row begins with a command of PaddleSeg or mmsegmentation, ours is in its last cell.
    own = [line.rstrip(" |").rpartition("|")[2] if line.startswith(("| `python ", "| |")) else line
           for line in prose.splitlines()]
    lines += [" ".join(code.split()) for code in re.findall(r"`(python [^`]+|\w+\.py --[^`]+)`", "\n".join(own))]
    return [line.replace("…", "") for line in lines if ".py" in line]


def script_and_flags(line: str) -> tuple:
    """(script, flags) of a command line; the launcher's own flags and Python's are left out."""
    words = shlex.split(line, comments=True)
    place = next(index for index, word in enumerate(words) if word.endswith(".py"))
    return words[place], {word.partition("=")[0] for word in words[place:] if word.startswith("--")}


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if not name.startswith("diff/")])
def test_commands_have_their_scripts_and_flags(name):
    for line in commands(name):
        script, flags = script_and_flags(line)
        found = [path for path in (ROOT / script, ROOT / "tools" / script) if path.is_file()]
        assert found, f"{name}: {line}"
        assert flags <= flags_of(str(found[0])), f"{name}: {line}: {flags - flags_of(str(found[0]))}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_that_are_named_exist(name):
    pattern = r"(?<![\w/.])(?:configs|tools|docs|tests|benchmarks|deploy)/[\w/.-]+\.(?:yml|py|md|png)"
    named = re.findall(pattern, read(name))
    missing = {path for path in named if not (ROOT / path).exists() and not ((ROOT / name).parent / path).exists()}
    assert not missing


@pytest.mark.parametrize("name", ["README.md", "README_CN.md"])
def test_make_targets_exist(name):
    targets = set(re.search(r"^\.PHONY: (.*)", read("Makefile"), re.MULTILINE).group(1).split())
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", read(name), re.MULTILINE)) <= targets


def test_data_are_checked_where_configs_look_for_them():
    roots = {re.search(r"dataset_root: (\S+)", path.read_text()).group(1)
             for path in ROOT.glob("configs/*/*.yml") if "dataset_root: " in path.read_text()}
    checked = set(re.findall(r"check_data\.py (data/\S+?)[` ]", read("README.md"))) | {"data/scenes"}
    assert checked == roots


# ---- messages ---------------------------------------------------------------------------------------

@cache
def texts() -> tuple:
    """Every string of the sources, with … for each value that is put in."""
    found = []
    folders = [ROOT / name for name in ("paddleseg", "tools", "deploy")]
    for path in [*ROOT.glob("*.py"), *(path for folder in folders for path in folder.rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return tuple(re.sub(r"%(\.0f|[sd])", "…", text) for text in found)


def messages() -> list:
    section = read("README.md").partition("## Troubleshooting")[2].partition("\n## ")[0]
    return re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)  # a note beside it means: not ours


@pytest.mark.parametrize("message", messages())
def test_messages_are_those_of_the_source(message):
    assert any(message in text for text in texts())


def test_there_are_messages():
    assert len(messages()) >= 20


# ---- configs ----------------------------------------------------------------------------------------

def scores() -> list:
    """(config, score) of README's tables; one score or two of each config."""
    found = []
    section = read("README.md").partition("## Configs and published results")[2].partition("\n## ")[0]
    for row in re.findall(r"^\|.*\.yml.*$", section, re.MULTILINE):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        for config in re.findall(r"`([\w/]+\.yml)`", row):
            for cell, depth in ((cells[2], "r50"), (cells[3], "r101")) if len(cells) == 5 else ((cells[1], "r101"),):
                path = config if "/" in config else f"configs/encnet/{config}".replace("r101", depth)
                found += [(path, score) for score in re.findall(r"\d\d\.\d+", cell) or ["publishes no score"]]
    return found


@pytest.mark.parametrize("path, score", scores())
def test_scores_are_those_of_the_configs(path, score):
    assert score in read(path).partition("train.py")[0]


def test_every_config_is_named():
    named = {path for path, _ in scores()} | set(re.findall(r"configs/\w+/\w+\.yml", read("README.md")))
    named |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs" / "ablation").glob("*.yml")}
    shipped = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("configs/[!_]*/*.yml")}
    assert named == shipped
