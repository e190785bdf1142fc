"""is_worse(): whether the last weights of a run are worse than its best ones, beyond chance."""

import math
from typing import Any

# Least drop that is_worse() reports, as a share of the other mean. Ours, untuned.
_LEAST_DROP = 0.1
# Warning in summary.json of a run whose last weights are worse.
COLLAPSED = (
    "the last weights are worse than the best. The best were selected among all evaluations, so "
    "compare settings by the last"
)


def is_worse(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Returns whether the mean return of an evaluation is below another's, beyond chance.

    The arguments are evaluations as summary.json has them. Beyond chance: by more than three
    standard errors of the difference. The same start states make it smaller still. A difference
    of less than a tenth of the other mean is not called worse.
    """
    errors = [each["std_return"] ** 2 / each["episodes"] for each in (ours, theirs)]
    least = max(3 * math.sqrt(sum(errors)), _LEAST_DROP * abs(theirs["mean_return"]))
    return theirs["mean_return"] - ours["mean_return"] > least
