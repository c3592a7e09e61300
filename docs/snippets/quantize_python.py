import fcn_deploy

result = fcn_deploy.quantize("model.onnx", "from_python.int8.onnx", calib="street/images", target="cpu")
print(result)
