"""One whole trial without Ray: inputs, training, certificates, result."""
