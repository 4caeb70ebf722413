"""The request path in front of the replicas: admission, placement, health, continuation, metrics."""
