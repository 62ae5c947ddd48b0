"""Colours of runs in MLflow's charts, which would be drawn at random."""

COLOUR_TAG = "mlflow.runColor"

UNDEFENDED_COLOUR = "#000000"
SWEEP_COLOUR = "#666666"
# Okabe and Ito's colours, of which the reference has the first, then darker and lighter ones.
_COLOURS = (
    *("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#8A3D00", "#004B75", "#00664A", "#8C4A70", "#A67300", "#2F7BA6"),
    *("#F29E66", "#66AEDB", "#66C7AD", "#E6B8D0", "#F5CC80", "#A3D5F2"),
)


def trial_colour(number: int) -> str:
    """Return the colour of a trial and of its final training."""
    return _COLOURS[number % len(_COLOURS)]
