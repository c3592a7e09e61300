fcn-deploy bench model.onnx --size 180x240 --size 97x131 --batch 1 --batch 2 --seconds 2 --json sweep.json
