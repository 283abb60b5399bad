"""A real Kubernetes control plane without containers, for development and tests; not part of the shipped wheel."""
