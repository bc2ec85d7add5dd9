"""Rank, world size and the few collectives that every backend has."""

import itertools
import os
import time

import numpy as np

_barriers = itertools.count()  # every process meets the others in the same order


def rank() -> int:
    """Return this process's number, which `paddle.distributed.launch` sets; 0 without it."""
    return int(os.environ.get("PADDLE_TRAINER_ID", 0))


def world_size() -> int:
    """Return the number of processes that train together."""
    return int(os.environ.get("PADDLE_TRAINERS_NUM", 1))


def local_world_size() -> int:
    """Return the number of processes on this machine."""
    return int(os.environ.get("PADDLE_LOCAL_SIZE", world_size()))


def init(device: str) -> None:
    """Join the other processes, if there are any.

    Args:
        device: "cpu" or "gpu". A GPU build of Paddle would go to the GPU by itself, unless gloo is given.
    """
    if world_size() > 1:
        import paddle

        if device == "cpu":
            os.environ["PADDLE_DISTRI_BACKEND"] = "gloo"
        paddle.distributed.init_parallel_env()


def barrier() -> None:
    """Wait for the other processes, if there are any, however long they take."""
    if world_size() > 1:
        import paddle

        if not paddle.get_device().startswith("gpu"):
            _store_barrier()
        paddle.distributed.barrier()


def _store_barrier() -> None:
    """Wait for the other processes without a time limit; gloo gives a collective up after 30 seconds."""
    import paddle

    store, name = paddle.distributed.collective._default_store, f"barrier {next(_barriers)}"
    store.add(name, 1)
    while store.add(name, 0) < world_size():  # asked, not waited for, so that signals are heard meanwhile
        time.sleep(0.01)


def share_buffers(model) -> None:
    """Give every process the buffers of rank 0, such as running statistics; parameters agree anyway."""
    if world_size() > 1:
        import paddle

        for tensor in model.state_dict().values():
            if tensor.stop_gradient:
                paddle.distributed.broadcast(tensor, src=0)


def any_rank(flag: bool) -> bool:
    """Return True on every process if any process passes True."""
    if world_size() == 1:
        return flag
    import paddle

    tensor = paddle.to_tensor([int(flag)])
    paddle.distributed.all_reduce(tensor, op=paddle.distributed.ReduceOp.MAX)
    return bool(tensor.item())


def broadcast_object(value):
    """Return rank 0's object on every process."""
    if world_size() == 1:
        return value
    import paddle

    values = [value]
    paddle.distributed.broadcast_object_list(values, src=0)
    return values[0]


def sum_over_ranks(array: np.ndarray) -> np.ndarray:
    """Return the sum of every process's int64 or float array, on every process; they may arrive at different times."""
    if world_size() == 1:
        return array
    import paddle

    barrier()
    tensor = paddle.to_tensor(array)
    paddle.distributed.all_reduce(tensor)
    return tensor.numpy()
