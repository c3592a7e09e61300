fcn-deploy export --model my_network.py:street --weights street.pth --key ema --size-multiple 4 --classes camvid -o ema.onnx
fcn-deploy export --model my_network.py:coarse --weights coarse.pth --logits-stride 4 --classes camvid -o coarse.onnx
fcn-deploy export --model my_network.py:road --weights road.pt --size-multiple 4 --threshold 0.4 -o road.onnx
