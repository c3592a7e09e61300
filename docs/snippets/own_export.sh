fcn-deploy export --model my_network.py:street --weights street.pth --size-multiple 4 --classes camvid -o own.onnx
fcn-deploy run own.onnx street/images --overlay own.mp4
