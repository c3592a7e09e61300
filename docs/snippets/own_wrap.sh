fcn-deploy wrap theirs.onnx --scale 1/255 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --classes camvid -o wrapped.onnx
fcn-deploy run wrapped.onnx street/images --masks wrapped
