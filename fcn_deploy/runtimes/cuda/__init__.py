"""The CUDA driver: GPUs, memory, streams, events and graphs, through cuda-python or pycuda."""
