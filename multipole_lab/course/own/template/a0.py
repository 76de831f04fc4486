"""Assignment A0: inputs to try, right answers, and the usual mistakes.

Students get this file beside their notebook, for the checks in it. So compute right answers the long way round, by
loops or by functions that the question forbids: nothing in here may be accepted as an answer.
"""

import math

import torch

from multipole_lab.course import Question, Random

# --- right answers, the long way round --------------------------------------------------------------


def entropy(weights):
    rows = [[float(w) for w in row] for row in weights]
    return torch.tensor([math.fsum(-w * math.log(w) for w in row if w > 0) for row in rows])


def perplexity(weights):
    return torch.tensor([math.prod(float(w) ** -float(w) for w in row if w > 0) for row in weights])


# --- inputs: what is special about them, and the arguments ------------------------------------------


def rows(r: Random):
    """Rows of weights. ``r(3, 4)`` is a normal tensor; every seed gives other numbers."""
    sharp = r(3, 6)
    sharp[sharp < 0] = -torch.inf
    sharp[:, 0] = 1.0
    return [
        ("ordinary weights", (r(4, 7).softmax(1),)),
        ("weights that are zero", (sharp.softmax(1),)),
        ("a single key", (torch.ones(2, 1),)),
        ("equal weights", (torch.full((3, 8), 1 / 8),)),
    ]


# --- the usual mistakes: {what to ask the student: a wrong function that gives the same answers} -----

QUESTIONS = {
    "A0.1": Question(
        cases=rows,
        oracle=entropy,
        mistakes={
            "what is 0 log 0, here and in the limit?": lambda w: -(w * w.log()).sum(1),
            "is it a natural logarithm?": lambda w: entropy(w) / math.log(2),
            "is the sign right?": lambda w: -entropy(w),
            "a sum over the keys is asked, no mean.": lambda w: entropy(w) / w.shape[1],
        },
        hint="do a row with the weights 1/2, 1/2 and 0 by hand: its entropy is log 2.",
    ),
    "A0.2": Question(
        cases=rows,
        oracle=perplexity,
        mistakes={
            "that is the entropy itself.": lambda w: entropy(w),
            "is it the exponential that belongs to your logarithm?": lambda w: 2 ** entropy(w),
        },
        hint="n equal weights have a perplexity of n.",
        uses={"entropy": "A0.1"},  # it may call the function of that question
    ),
}
