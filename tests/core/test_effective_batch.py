import pytest

from paddleseg.core.effective_batch import describe


@pytest.mark.parametrize("world, batch_size, accum_iters, recipe", [(4, 2, 1, 8), (1, 2, 4, 8), (1, 3, 1, None)])
def test_nothing_to_warn_of(world, batch_size, accum_iters, recipe):
    line, advice = describe(world, batch_size, accum_iters, recipe, 80000, 0.01)
    assert advice is None and f"= {world * batch_size * accum_iters}" in line
    assert ("(recipe: 8)" in line) == (recipe == 8)


def test_the_overrides_that_mend_it():
    line, advice = describe(1, 2, 1, 8, 80000, 0.01)
    assert line == "effective batch = 1 processes x 2 x 1 accumulated = 2 (recipe: 8)"
    for override in ("--batch_size 8,", "--accum_iters 4 (", "4 processes,",
                     "--learning_rate 0.0025 --iters 320000 --opts effective_batch=2"):
        assert override in advice


@pytest.mark.parametrize("world, batch_size, accum_iters, absent", [
    (3, 2, 1, ("--batch_size", "--accum_iters")), (1, 3, 1, ("--accum_iters", "processes"))])
def test_overrides_that_do_not_divide_are_not_offered(world, batch_size, accum_iters, absent):
    _, advice = describe(world, batch_size, accum_iters, 8, 80000, 0.01)
    assert not any(word in advice for word in absent) and "--learning_rate" in advice


def test_following_the_advice_ends_the_warning():
    assert describe(1, 8, 1, 8, 80000, 0.01)[1] is None
    assert describe(1, 2, 4, 8, 80000, 0.01)[1] is None
    assert describe(4, 2, 1, 8, 80000, 0.01)[1] is None
    assert describe(1, 2, 1, 2, 320000, 0.0025)[1] is None
