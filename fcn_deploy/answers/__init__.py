"""What the original network answered in its own training environment, and how an artefact compares with it.

Parity proves that an artefact computes what our own module computes. That this module is the user's
network, fed as it was trained, only the original can tell: its answers come in a file, and the usual mistakes
are tried where they differ.
"""
