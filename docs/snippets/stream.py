import fcn_deploy
from fcn_deploy.data import ImageFolder

frames = (frame.image for frame in ImageFolder("street/images"))

with fcn_deploy.load("model.onnx") as segmenter:
    segmenter.warm_up(360, 480)
    for frame, result in segmenter.stream(frames):
        road = (result.labels[0] == result.spec.classes.index("road")).mean()
        print(f"{frame.shape[1]}x{frame.shape[0]}: {road:.0%} road")
