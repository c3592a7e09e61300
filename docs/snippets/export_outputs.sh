fcn-deploy export --weights bundled --outputs labels,confidence --color rgb -o rgb.onnx
