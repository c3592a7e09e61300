fcn-deploy clip drive --frames 36 --video drive.mp4
fcn-deploy run model.onnx drive.mp4 --real-time --overlay live.mp4
fcn-deploy run model.onnx drive.mp4 --smooth 3 --overlay calm.mp4
fcn-deploy run model.onnx drive.mp4 --real-time --json > live.json
