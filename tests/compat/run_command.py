import subprocess
import sys


def run_command(script, *arguments) -> str:
    """What a script prints, in a process of its own, whose registries hold nothing else; it must end well."""
    done = subprocess.run([sys.executable, *map(str, (script, *arguments))], capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    return done.stdout
