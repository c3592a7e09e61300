import numpy as np

import fcn_deploy

frame = np.zeros((360, 480, 3), np.uint8)  # what a camera gives: uint8, B G R

with fcn_deploy.load("model.onnx") as segmenter:
    result = segmenter.infer(frame)

print(result.labels.shape, result.labels.dtype)
print([result.spec.classes[i] for i in np.unique(result.labels)])
