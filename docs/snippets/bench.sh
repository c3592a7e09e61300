fcn-deploy bench model.safetensors model.onnx --typical --json bench.json --report report.html
