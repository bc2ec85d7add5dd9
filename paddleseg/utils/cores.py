"""Usable CPU cores; standard library only, as tools/check_env.py asks before anything else is installed."""

import os


def usable_cores() -> int:
    """Return the number of cores that this process may use: its affinity, or less under a container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no cgroup v2 here
    return cores
