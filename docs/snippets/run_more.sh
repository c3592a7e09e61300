fcn-deploy run model.onnx street/images/000000.png --masks one
fcn-deploy run model.safetensors street/images --max-frames 4 --overlay overlay_frames
fcn-deploy run rgb.onnx street/images --max-frames 4 --confidence confidence
