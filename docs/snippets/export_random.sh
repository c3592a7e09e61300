fcn-deploy export --weights random --variant fcn8s-lite --num-classes 5 -o random.onnx
