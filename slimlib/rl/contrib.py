"""The algorithms of sb3_contrib that have no slimmable form, and what one would need."""

from __future__ import annotations

NEEDED = {
    "RecurrentPPO": "a rollout that keeps the LSTM states of every width: those of one are no states of another",
    "MaskablePPO": "an update in which every width sees the masks of the actions",
    "QRDQN": "an update of quantiles at every width",
    "TQC": "an update of quantiles at every width, the critics' targets cut",
}
FAMILIES = {"recurrent": "RecurrentPPO", "maskable": "MaskablePPO", "qrdqn": "QRDQN", "tqc": "TQC"}
"""Part of the module that an algorithm's policy is defined in -> the algorithm."""


def refusal(algorithm: str) -> str:
    """Why an algorithm of sb3_contrib is refused."""
    needed = NEEDED.get(algorithm, "an update that trains several widths")
    return (
        f"{algorithm} of sb3_contrib has no slimmable form; it would need {needed}. Slimmable are PPO, A2C, DQN and "
        "SAC of stable-baselines3; the networks of another policy slim one by one, with slimlib.convert"
    )


def algorithm_of(module: str) -> str | None:
    """The algorithm of sb3_contrib whose policies are defined in a module; None: of another package."""
    package, *parts = module.split(".")
    if package != "sb3_contrib":
        return None
    return next((name for part, name in FAMILIES.items() if part in parts), "another algorithm")


def refuse_contrib(kind: type) -> None:
    """Raise ValueError, by name, for the class of a policy of sb3_contrib, or of one made from it."""
    for base in kind.__mro__:
        if algorithm := algorithm_of(base.__module__):
            raise ValueError(refusal(algorithm))
