import fcn_deploy

spec = fcn_deploy.quantize(
    "model.onnx", "model.python.onnx", calib="street/images", target="cpu", method="percentile"
)
found = spec.evidence["quantization"]
print(spec.precision, found["frames"], "frames", found["agreement_with_fp32"])
