import fcn_deploy
from fcn_deploy.data.folders import ImageFolder

frames = (frame.image for frame in ImageFolder("street/images"))

with fcn_deploy.load("model.onnx") as segmenter:
    segmenter.warm_up(360, 480)
    for frame, answer in segmenter.stream(frames):
        road = (answer.labels[0] == answer.spec.classes.index("road")).mean()
        print(f"{frame.shape[1]}x{frame.shape[0]}: {road:.0%} road")
