"""What is said of mistakes that several questions share."""

from __future__ import annotations

NO_MAX = "did you subtract the largest logit before exp?"
NO_SCALE = "did you forget the scale?"
ADD_BACK = "what you subtracted before exp has to be added to lse again."
NO_LOG = "lse is a logarithm: is the sum of exponentials returned as it is?"
NOT_LARGEST = "lse is the logarithm of a sum, not the largest."
NOT_MEAN = "lse is the logarithm of a sum, not of a mean."
SUM_OF_EXP = "lse is the logarithm of a sum of exponentials, not a sum of logarithms."
SHRINK = "when the maximum grows, what you carry has to shrink: multiply it by exp(old - new)."
FROM_ZERO = "the running maximum starts at -inf, not at 0: all logits may be far below."
