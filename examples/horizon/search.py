"""Search for the settings of the two networks: `python -m examples.horizon.search`.

Every initialisation with every learning rate, on equal streams with an equal number of steps, one
seed each. Takes the better part of an hour on a core.
"""

import json
from pathlib import Path

import numpy as np

from examples.horizon.networks import INITS
from examples.horizon.training import Choice, Plan, accuracy, train

RATES = (1e-3, 3e-3, 1e-2)
FOUND = Path(__file__).with_name("search.json")

_VALIDATION = 1
"""Seed of the streams for the choice. The figures come from different streams."""


def search(plan: Plan) -> list[dict[str, object]]:
    """Accuracy by lag for each choice."""
    tried: list[dict[str, object]] = []
    for kind, inits in INITS.items():
        for init in inits:
            for rate in RATES:
                right = accuracy(
                    plan, train(plan, Choice(kind=kind, init=init, rate=rate)), seed=_VALIDATION
                )
                mean = float(np.mean([right[lag] for lag in plan.lags]))
                tried.append(
                    {
                        "kind": kind,
                        "init": init,
                        "rate": rate,
                        "accuracy": {str(lag): round(right[lag], 4) for lag in plan.lags},
                        "mean": round(mean, 4),
                    }
                )
                print(json.dumps(tried[-1]), flush=True)
    return tried


if __name__ == "__main__":
    FOUND.write_text(json.dumps(search(Plan()), indent=1) + "\n", encoding="utf-8")
