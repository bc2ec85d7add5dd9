"""The list of mistakes fits the code, so that `make align-mutations` can make each."""

import ast

import pytest

from diff import mutations


@pytest.mark.parametrize("mutation", mutations.MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_changes_the_program(mutation):
    text = (mutations.ROOT / "paddleseg" / "models" / mutation.file).read_text(encoding="utf-8")
    changed = mutations.mutate(text, mutation)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(text))


def test_a_mutation_that_does_not_fit_stops_it():
    with pytest.raises(SystemExit, match="0 times, once is wanted"):
        mutations.mutate("", mutations.MUTATIONS[0])


@pytest.mark.parametrize("crash, difference, is_caught", [
    ("", "forward: x", True), ("", None, False), ("SyntaxError", None, False)])
def test_only_a_difference_counts(crash, difference, is_caught):
    outcome = mutations.Outcome(mutations.MUTATIONS[0], crash, difference)
    assert outcome.is_caught == is_caught and (outcome.mutation.name in str(outcome))
