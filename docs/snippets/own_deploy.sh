fcn-deploy quantize own.onnx --target cpu --calib street/images --check-against answers.npz -o own.cpu.onnx
fcn-deploy build-engine own.onnx --fp16 --calib street/images -o own.engine
