import gpus
import pytest

A100, H100 = "8.0, 535.104.05, NVIDIA A100-SXM4-40GB", "9.0, 550.54, NVIDIA H100 80GB HBM3"


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Put a program named nvidia-smi first on PATH; it runs the given shell lines."""
    def write(script):
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return write


def test_reads_every_card(nvidia_smi, tmp_path):
    nvidia_smi(f"echo '{A100}'; echo '{H100}'")
    assert gpus.visible_gpus(tmp_path) == [gpus.Gpu("NVIDIA A100-SXM4-40GB", (8, 0), "535.104.05"),
                                           gpus.Gpu("NVIDIA H100 80GB HBM3", (9, 0), "550.54")]


def test_a_driver_that_does_not_know_the_capability(nvidia_smi, tmp_path):
    nvidia_smi('case "$1" in *compute_cap*) echo "Field is not valid"; exit 2;; esac; echo "450.80.02, Tesla V100"')
    assert gpus.visible_gpus(tmp_path) == [gpus.Gpu("Tesla V100", None, "450.80.02")]


@pytest.mark.parametrize("script", ["echo 'could not talk to the driver'; exit 9", "echo 'No devices were found'",
                                    "kill -9 $$"])
def test_a_failing_nvidia_smi_is_no_gpu(nvidia_smi, tmp_path, script):
    nvidia_smi(script)
    assert gpus.visible_gpus(tmp_path) == []


def test_the_driver_files_do_without_nvidia_smi(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus.visible_gpus(tmp_path) == []
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").touch()
    assert gpus.visible_gpus(tmp_path) == [gpus.Gpu("NVIDIA GPU", None, None)]
    for slot in ("0000:01:00.0", "0000:02:00.0"):
        folder = tmp_path / "proc/driver/nvidia/gpus" / slot
        folder.mkdir(parents=True)
        (folder / "information").write_text("Model: \t\t NVIDIA L4\nIRQ:   \t\t 88\n")
    assert gpus.visible_gpus(tmp_path) == [gpus.Gpu("NVIDIA L4", None, None)] * 2


@pytest.mark.parametrize("capability, verdict", [
    ((5, 2), "too old"), ((6, 0), "too old"), ((6, 1), None), ((8, 9), None), ((9, 0), "too new"),
    ((12, 0), "too new"), (None, None)])
def test_which_cards_the_wheel_runs_on(capability, verdict):
    card = gpus.Gpu("Card", capability, "535")
    assert gpus.unusable([card]) == ([card] if verdict else [])
    if verdict:
        assert verdict in gpus.why_unusable(card)
        assert gpus.why_unusable(card).startswith(f"Card (compute capability {capability[0]}.{capability[1]})")
