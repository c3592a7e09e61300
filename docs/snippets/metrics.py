import numpy as np

from fcn_deploy.metrics import ConfusionMatrix

truth = np.array([[0, 0, 1], [1, 1, 255]], np.uint8)  # 255: not scored
found = np.array([[0, 1, 1], [1, 1, 0]], np.uint8)

matrix = ConfusionMatrix(num_classes=2)
matrix.update(truth, found)
print(f"mean IU {matrix.mean_iu:.3f}, pixel accuracy {matrix.pixel_accuracy:.3f}")
