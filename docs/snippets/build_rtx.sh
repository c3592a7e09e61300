fcn-deploy build-engine model.onnx --fp16 --calib street/images --compute-capability 8.6 --compute-capability 8.9 -o model.fp16.engine
fcn-deploy build-engine model.int8.onnx --profile 1x360x480 --profile 1x720x960:2x720x960:4x720x960 -o model.int8.engine
