#!/bin/sh
# Build pycuda without a GPU, for the tests of the pycuda binding: about three minutes, and nvcc's headers.
#   build_pycuda.sh FOLDER     makes FOLDER/env, a virtual environment with pycuda in it
#   then: export FCN_DEPLOY_PYCUDA_PYTHON=FOLDER/env/bin/python
# CUDA_ROOT is where cuda.h is; CURAND where libcurand.so.10 is (PyTorch brings it in nvidia/cu13/lib).
set -eu
FOLDER=${1:?a folder to build in}
CUDA_ROOT=${CUDA_ROOT:-/usr/local/cuda}
CURAND=${CURAND:?the folder of libcurand.so.10, with ../include beside it}
mkdir -p "$FOLDER/stub"
# The linker only wants the names; the simulated driver takes their place.
echo "" > "$FOLDER/stub/empty.c"
cc -shared -Wl,-soname,libcuda.so.1 -o "$FOLDER/stub/libcuda.so" "$FOLDER/stub/empty.c"
ln -sf "$CURAND/libcurand.so.10" "$FOLDER/stub/libcurand.so"
python3 -m venv "$FOLDER/env"
CPATH="$CUDA_ROOT/include:$CURAND/../include" LIBRARY_PATH="$FOLDER/stub" CUDA_ROOT="$CUDA_ROOT" \
    "$FOLDER/env/bin/pip" install numpy pycuda safetensors pillow typer rich onnxruntime pytest hypothesis
