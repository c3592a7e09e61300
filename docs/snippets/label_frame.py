import numpy as np

import fcn_deploy

frame = np.zeros((360, 480, 3), np.uint8)  # what a camera gives: uint8, B G R

with fcn_deploy.load("model.onnx") as segmenter:
    answer = segmenter.infer(frame)

print(answer.labels.shape, answer.labels.dtype)
print([answer.spec.classes[i] for i in np.unique(answer.labels)])
