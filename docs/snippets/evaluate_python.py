import fcn_deploy

result = fcn_deploy.evaluate("model.onnx", "street", keep_worst=1)
print(result)
print(result.worst[0].frame.name, result.worst[0].mean_iu)
