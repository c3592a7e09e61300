fcn-deploy export --weights bundled --precision fp16 --calib street/images -o model.fp16.onnx
