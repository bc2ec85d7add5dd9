"""The device, the CPU threads and the kernels that a process uses."""

import os
import platform
from typing import Optional, Set, Tuple

from paddleseg.cvlibs.errors import RunError
from paddleseg.utils import distributed, logger
from paddleseg.utils.cores import usable_cores

# Needed CPU flags -> the kernels of MKL 2019 that use them, by MKL_DEBUG_CPU_TYPE; the first match counts.
_MKL_KERNELS = (({"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}, "7"), ({"avx2", "fma"}, "5"))


def default_threads() -> int:
    """Return the number of CPU threads of this process: its share of the cores."""
    return max(1, usable_cores() // distributed.local_world_size())


def set_threads(threads: int) -> None:
    """Let Paddle use `threads` CPU threads.

    `import paddle` sets OMP_NUM_THREADS=1 where it is unset; this call undoes it after the import. It chooses MKL's
    kernels too, see `use_fast_kernels`.
    """
    import paddle

    use_fast_kernels()
    try:
        paddle.base.core.set_num_threads(threads)
    except AttributeError:
        logger.warning(f"this Paddle can't set its threads; start with OMP_NUM_THREADS={threads} instead")


def use_fast_kernels() -> None:
    """Let Paddle's matrix products use AVX-512 or AVX2 on an AMD CPU.

    Paddle's MKL, of 2019, asks for the vendor: on any but Intel's it takes much slower kernels, unless
    MKL_DEBUG_CPU_TYPE names others. MKL reads it at its first use in a process. A value from outside stays, and is
    the way back: MKL_DEBUG_CPU_TYPE=0.
    """
    kernels = fast_kernels()
    if kernels:
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", kernels)


def fast_kernels() -> Optional[str]:
    """Return the value of MKL_DEBUG_CPU_TYPE for this CPU; None where MKL chooses well itself."""
    vendor, flags = _cpu()
    if vendor != "AuthenticAMD":
        return None
    return next((number for needed, number in _MKL_KERNELS if needed <= flags), None)


def _cpu() -> Tuple[str, Set[str]]:
    """Return the vendor and the abilities of the CPU, as Linux names them; nothing elsewhere."""
    facts = {}
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            for line in file:
                key, _, value = line.partition(":")
                facts.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    return facts.get("vendor_id", ""), set(facts.get("flags", "").split())


def default_workers() -> int:
    """Return the number of processes that read data: up to 4, this process's share of the cores but one."""
    return min(4, max(0, usable_cores() // distributed.local_world_size() - 1))


def set_device(device: str) -> str:
    """Choose "cpu" or "gpu"; "auto" takes the GPU where there is one. Returns the choice.

    Raises:
        RunError: "gpu" was asked for and Paddle sees none.
    """
    import paddle

    cuda = paddle.is_compiled_with_cuda()
    gpus = paddle.device.cuda.device_count() if cuda else 0
    if device == "gpu" and gpus == 0:
        why = "sees no GPU (nvidia-smi lists them)" if cuda else "is a CPU build (requirements.txt has the GPU build)"
        raise RunError(f"--device gpu: this Paddle {paddle.__version__} {why}; --device cpu runs on the CPU")
    chosen = "gpu" if device == "gpu" or (device == "auto" and gpus > 0) else "cpu"
    paddle.set_device(f"gpu:{os.environ.get('FLAGS_selected_gpus', '0').split(',')[0]}" if chosen == "gpu" else "cpu")
    if chosen == "gpu":
        # From Ampere on Paddle would round the factors of float32 products to TF32, 10 bits as in fp16: too few for
        # the Encoding layer's squared distances. PyTorch doesn't; in convolutions both do.
        paddle.base.core.set_cublas_switch(False)
    return chosen


def start_process(device: str, threads: int) -> None:
    """Choose the device, join the other processes, set the threads, and log what the run uses."""
    import paddle

    chosen = set_device(device)
    distributed.init(chosen)
    set_threads(threads)
    name = paddle.device.cuda.get_device_name() if chosen == "gpu" else f"{threads} threads of {usable_cores()} cores"
    logger.info(f"Paddle {paddle.__version__}, Python {platform.python_version()}, "
                f"{distributed.world_size()} process(es), device: {chosen} ({name})")
