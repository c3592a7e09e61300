import fcn_deploy

result = fcn_deploy.build_engine(
    "model.onnx", "from_python.engine", precision="fp16", calib="street/images", profiles=["1x360x480"]
)
print(result)
