fcn-deploy export --weights bundled -o model.safetensors
