"""The generator's problems are solvable, need as many operations as they say, and are told in full."""

import random
import re

import pytest

from multipole_lab.evaluation.reasoning import make_problem
from multipole_lab.evaluation.symbolic import ask_about, item_problem

CASES = [
    (operations, length, seed) for operations in (1, 3, 8, 20) for length in (1200, 3000) for seed in range(6)
]


def solve_from_text(text, question):
    """A reader who knows nothing of the generator: sentences to equations, equations to the answer."""
    values, rules = {}, {}
    for sentence in re.findall(r"[^.]+\.", text):
        if found := re.fullmatch(r" ?There are (\d+) (.+)\.", sentence):
            values[found[2]] = int(found[1])
            continue
        name, told = re.fullmatch(r" ?The number of (.+?) is (.+)\.", sentence).groups()
        if found := re.fullmatch(r"(\d+) (more|fewer) than the number of (.+)", told):
            sign = 1 if found[2] == "more" else -1
            rules[name] = ([found[3]], lambda x, n=int(found[1]), sign=sign: x + sign * n)
        elif found := re.fullmatch(r"(\d+) times the number of (.+)", told):
            rules[name] = ([found[2]], lambda x, n=int(found[1]): n * x)
        else:
            found = re.fullmatch(r"the (sum|difference) of the number of (.+) and the number of (.+)", told)
            sign = 1 if found[1] == "sum" else -1
            rules[name] = ([found[2], found[3]], lambda x, y, sign=sign: x + sign * y)
    asked = re.fullmatch(r"How many (.+) are there\?", question)[1]
    needed = set()

    def value(name):
        if name not in values:
            parents, rule = rules[name]
            needed.add(name)
            values[name] = rule(*map(value, parents))
        return values[name]

    return value(asked), len(needed)


@pytest.mark.parametrize(("operations", "length", "seed"), CASES)
def test_the_text_alone_gives_the_answer_in_that_many_operations(operations, length, seed):
    problem = make_problem(operations, length, seed)
    answer, needed = solve_from_text(problem.text, problem.question)
    assert answer == problem.answer == problem.solve()
    assert needed == problem.operations == operations


@pytest.mark.parametrize(("operations", "length", "seed"), CASES[::3])
def test_every_step_of_the_solution_is_right_and_the_last_is_the_answer(operations, length, seed):
    problem = make_problem(operations, length, seed)
    steps = problem.solution.split(". ")
    assert len(steps) == len(problem.chain)
    for step in steps:
        told = step.split(" is ")[1].rstrip(".")
        left, _, right = told.partition(" = ")
        if right:
            assert eval(left, {}) == int(right)
    assert problem.solution.endswith(f" {problem.answer}.")


def test_the_length_is_filled_and_not_exceeded():
    for length in (300, 1000, 5000):
        problem = make_problem(2, length, 0)
        words = len(" ".join((problem.text, problem.question, problem.solution)).split())
        assert length - 25 < words <= length
    assert len(make_problem(2, 5000, 0).distractors) > 200


def test_the_seed_is_all_the_chance_there_is():
    random.seed(1)
    first = make_problem(4, 500, 7)
    random.seed(2)
    assert make_problem(4, 500, 7) == first
    assert make_problem(4, 500, 8) != first


@pytest.mark.parametrize(("ask", "seed"), [(ask, seed) for ask in ("direct", "worked") for seed in range(8)])
def test_the_options_hold_the_answer_once_among_numbers_of_its_length(ask, seed):
    problem = make_problem(1 + seed, 800, seed)
    context, question, options, right = ask_about(problem, ask, seed)
    assert context == problem.text
    assert options[right] == f" {problem.answer}."
    assert len(set(options)) == 4
    assert len({len(option) for option in options}) == 1
    if ask == "worked":
        assert (question + options[right]).endswith(problem.solution)
    else:
        assert question.endswith(" is")


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="operations is 0"):
        make_problem(0, 100, 0)
    with pytest.raises(ValueError, match="8 operations need at least"):
        make_problem(8, 60, 0)
    with pytest.raises(ValueError, match="names for 9600 sentences"):
        make_problem(1, 10**6, 0)


@pytest.mark.parametrize("operations", [1, 2, 4, 8])
def test_an_item_has_as_many_tokens_as_its_length_says(operations):
    def count(text):
        return len(re.findall(r"\w+|[^\w\s]|\n", text))

    facts = {"operations": operations, "length": 900, "problem": 0}
    context, question, options, _ = ask_about(item_problem(facts, 0, count), "worked", 0)
    assert 850 < count(context) + count(question) + max(map(count, options)) <= 900
