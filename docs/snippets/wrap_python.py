import fcn_deploy

result = fcn_deploy.wrap_model(
    "theirs.onnx",
    "wrapped_python.onnx",
    scale=1 / 255,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    trained_on="rgb",
    classes="camvid",
)
print(result)
