"""Tags by which a sweep finds in MLflow again what it has logged."""

# The sweep's id, a slash and what it is: `experiment`, or the key of a run.
KEY_TAG = "decrop.key"
# Hash of the stamps of all that a run shows.
SYNCED_TAG = "decrop.synced"
