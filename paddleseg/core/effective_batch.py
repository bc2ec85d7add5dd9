"""How many images make one optimizer step, against the number that the recipe was made for."""

from typing import Optional, Tuple


def describe(world: int, batch_size: int, accum_iters: int, recipe: Optional[int], iters: int,
             learning_rate: float) -> Tuple[str, Optional[str]]:
    """The line for the log, and a warning with the exact overrides where the recipe's number is missed.

    Args:
        recipe: images per step that the recipe's schedule was made for; None where it doesn't say.
    """
    here = world * batch_size * accum_iters
    line = f"effective batch = {world} processes x {batch_size} x {accum_iters} accumulated = {here}"
    if recipe is None:
        return line, None
    line += f" (recipe: {recipe})"
    if here == recipe:
        return line, None
    ways = []
    if recipe % (world * accum_iters) == 0:
        ways.append(f"--batch_size {recipe // (world * accum_iters)}")
    if recipe % (world * batch_size) == 0:
        ways.append(f"--accum_iters {recipe // (world * batch_size)} (the statistics of batch norms stay those of "
                    f"{world * batch_size} images)")
    if recipe % (batch_size * accum_iters) == 0:
        ways.append(f"{recipe // (batch_size * accum_iters)} processes")
    ways.append(f"keep it and scale the schedule: --learning_rate {learning_rate * here / recipe:g} "
                f"--iters {round(iters * recipe / here)} --opts effective_batch={here}")
    return line, (f"the effective batch is {here}, the recipe's schedule is made for {recipe}: expect another result. "
                  f"Nothing is scaled by itself; choose {', or '.join(ways)}")
