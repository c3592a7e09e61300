"""What ``import tensorrt`` finds on the simulator."""

from tensorrt_simulated import *  # noqa: F403
from tensorrt_simulated import __version__, faults, launches  # noqa: F401
