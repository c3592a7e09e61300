fcn-deploy quantize model.onnx --target tensorrt --calib street/images --save-table ranges.json -o model.int8.onnx
fcn-deploy quantize model.onnx --target tensorrt --table ranges.json --float-precision fp32 --method percentile -o model.int8-fp32.onnx
fcn-deploy eval model.int8.onnx --data street --simulate-fp16
