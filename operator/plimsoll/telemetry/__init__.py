"""What running replicas show, read from Prometheus: an edge of the operator and of the command line."""
