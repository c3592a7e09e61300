import json

import onnx

metadata = {prop.key: prop.value for prop in onnx.load("model.onnx").metadata_props}
spec = json.loads(metadata["fcn_deploy.spec"])
print(spec["architecture"]["name"], spec["color_order"], spec["classes"][:3])
