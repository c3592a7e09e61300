python own_answers.py
fcn-deploy check own.onnx answers.npz
