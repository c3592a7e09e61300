fcn-deploy export --model my_network.py:street --weights street.pth --size-multiple 4 --classes camvid -o own.pt2
fcn-deploy run own.pt2 street/images --masks own
fcn-deploy bench own.onnx own.pt2 --typical-model theirs.onnx --rounds 5 --seconds 5
