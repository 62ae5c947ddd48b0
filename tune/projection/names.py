"""Names of the metrics that more than one module speaks of."""

SCORE = "held_out/average_certified_radius"
BEST_SO_FAR = "sweep/best_so_far"
TRIAL_NUMBER = "sweep/trial"
CERTIFIED = "certified"
# What a curve's points stand over, a metric too, for MLflow draws a metric over another by step.
CURVE_RADIUS = "certified/L2 radius"
