"""The network, its deploy graph, and checkpoints."""
