fcn-deploy quantize model.onnx --target cpu --calib street/images --max-drop 0.5 --eval street \
  --sensitivity layers.json --chart layers.svg -o model.budget.onnx
fcn-deploy inspect model.budget.onnx
