import fcn_deploy

result = fcn_deploy.quantize(
    "model.onnx", "model.python.onnx", calib="street/images", target="cpu", method="percentile"
)
print(result)
print(result.agreement, result.warnings)
