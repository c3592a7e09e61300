fcn-deploy export --weights bundled -o model.onnx
fcn-deploy clip street --frames 12
fcn-deploy run model.onnx street/images --overlay overlay.mp4 --masks labels
fcn-deploy inspect model.onnx
