#!/bin/sh
# From CamVid (or a folder of the same layout) to a measured model. Run it in this folder.
#   DATA    has train/, trainannot/, val/, valannot/
#   INIT    a full-width checkpoint to prune the start from; without it training starts from nothing
set -eu
DATA=${DATA:?the folder that holds train, trainannot, val and valannot}
OUT=${OUT:-runs/lite}

# Streets from the generator, so that the demo's clip is not foreign to the model.
for seed in 1 2 3 4 5; do
    fcn-deploy clip "$OUT/street-$seed" --frames 30 --seed "$seed" --size 360x480
done
python train.py --data "$DATA" --out "$OUT" ${INIT:+--init "$INIT"} \
    --extra "$OUT/street-1" --extra "$OUT/street-2" --extra "$OUT/street-3" \
    --extra "$OUT/street-4" --extra "$OUT/street-5"

fcn-deploy export --weights "$OUT/model.safetensors" -o "$OUT/model.onnx"
fcn-deploy eval "$OUT/model.safetensors" "$OUT/model.onnx" --data "$DATA/val" --confusion "$OUT/confusion.png"

# INT8 on frames of the train split, within half a point of mean IU on val: one file for CPUs, one for TensorRT.
for target in cpu tensorrt; do
    fcn-deploy quantize "$OUT/model.onnx" --target $target --calib "$DATA/train" --max-drop 0.5 --eval "$DATA/val" \
        --sensitivity "$OUT/layers-$target.json" --chart "$OUT/layers-$target.svg" -o "$OUT/model.$target.onnx"
done
# RTX engines are built without a GPU; where TensorRT is not installed the step is left out.
if python -c "import tensorrt_rtx" 2>/dev/null; then
    fcn-deploy build-engine "$OUT/model.tensorrt.onnx" --flavor rtx -o "$OUT/model.engine"
fi
fcn-deploy bench "$OUT/model.safetensors" "$OUT/model.onnx" "$OUT/model.cpu.onnx" --typical \
    --report "$OUT/report.html"
