"""Where the classifier to protect comes from."""
