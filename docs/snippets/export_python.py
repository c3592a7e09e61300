import fcn_deploy

result = fcn_deploy.export_model("bundled", "from_python.onnx", outputs=("labels", "confidence"))
print(result)
