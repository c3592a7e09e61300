#!/bin/sh
# Fetches the real Python bindings of several TensorRT versions and writes what names they have.
#
#   FCN_DEPLOY_TENSORRT_BINDINGS=~/.cache/fcn-deploy/tensorrt-bindings tests/export/tensorrt/conformance/fetch_bindings.sh
#
# The bindings are small wheels; the libraries behind them are not needed, because nothing is called: a
# stub under their three names has the nine symbols that the bindings look up while they are imported.
# Needs pip, unzip, a C compiler, and Python 3.11 (set PYTHON to one).
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cache=${FCN_DEPLOY_TENSORRT_BINDINGS:?set it to a folder to keep the bindings in}
python=${PYTHON:-python3.11}
mkdir -p "$cache/wheels"
cache=$(CDPATH='' cd -- "$cache" && pwd)

stub() { # $1 folder, $2 major version
    mkdir -p "$1/lib"
    cat > "$1/lib/stub.c" <<'C'
#define STUB(name) void *name(void) { return 0; }
STUB(createInferBuilder_INTERNAL)
STUB(createInferRefitter_INTERNAL)
STUB(createInferRuntime_INTERNAL)
STUB(createNvOnnxParser_INTERNAL)
STUB(createNvOnnxParserRefitter_INTERNAL)
STUB(getBuilderPluginRegistry)
STUB(getNvOnnxParserVersion)
STUB(getPluginRegistry)
STUB(initLibNvInferPlugins)
C
    for name in nvinfer nvinfer_plugin nvonnxparser; do
        "${CC:-cc}" -shared -fPIC -Wl,-soname,"lib$name.so.$2" -o "$1/lib/lib$name.so.$2" "$1/lib/stub.c"
    done
}

fetch() { # $1 line (10.3), $2 package, $3 version
    folder="$cache/$1"
    [ -e "$folder/complete" ] && return
    "$python" -m pip download --quiet --no-deps --dest "$cache/wheels" "$2==$3"
    mkdir -p "$folder"
    unzip -qo "$cache/wheels/$2-$3-"*.whl -d "$folder"
    stub "$folder" "${3%%.*}"
    touch "$folder/complete"
}

fetch 10.3 tensorrt_cu12_bindings 10.3.0
fetch 10.16 tensorrt_cu12_bindings 10.16.1.11
fetch 11.4 tensorrt_cu13_bindings 11.4.0.106

# Type stubs of 10.13 for mypy. As published they do not parse: a parameter is named `in`, another one
# without a default follows one with it.
if [ ! -e "$cache/stubs/complete" ]; then
    "$python" -m pip download --quiet --no-deps --dest "$cache/wheels" tensorrt-stubs==10.13.0.35.1
    mkdir -p "$cache/stubs"
    unzip -qo "$cache"/wheels/tensorrt_stubs-*.whl -d "$cache/stubs"
    sed -i 's/\bin: list/in_: list/; s/channel_axis: int) -> IScaleLayer/channel_axis: int = 0) -> IScaleLayer/' \
        "$cache/stubs/tensorrt_bindings/tensorrt.pyi"
    touch "$cache/stubs/complete"
fi

for line in 10.3 10.16 11.4; do
    LD_LIBRARY_PATH="$cache/$line/lib" PYTHONPATH="$cache/$line" \
        "$python" "$here/list_names.py" tensorrt_bindings > "$here/names-$line.json"
done
# TensorRT-RTX is one wheel with its libraries in it, installed like any package: fcn-deploy[tensorrt-rtx].
"$python" "$here/list_names.py" tensorrt_rtx > "$here/names-rtx-1.7.json"
