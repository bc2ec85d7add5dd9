"""Queries of processes that aren't the test's own."""

from pathlib import Path


def is_running(pid: int) -> bool:
    """False for a zombie too: where nobody waits for orphans they stay."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
