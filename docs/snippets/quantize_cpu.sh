fcn-deploy quantize model.onnx --target cpu --calib street/images -o model.cpu.onnx
fcn-deploy eval model.onnx model.cpu.onnx --data street
