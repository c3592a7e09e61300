import fcn_deploy
from fcn_deploy.camera import OverlayVideo, Pipeline, Preview, SourceOptions, open_source

asked = SourceOptions(pace="real-time", fps=12.0, read_timeout=3.0, give_up=60.0)

with fcn_deploy.load("model.onnx") as segmenter:
    source = open_source("street/images", segmenter.spec.color_order, asked)
    preview = Preview(port=0)  # any free port; preview.url says which
    pipeline = Pipeline(source, segmenter, [OverlayVideo("seen.mp4"), preview], smoothing=3)
    preview.statistics = pipeline.statistics
    print(pipeline.run())
    print(source.state.properties["got"])
