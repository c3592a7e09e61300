from my_network import street

import fcn_deploy

result = fcn_deploy.export_model(
    "street.pth",
    "module.onnx",
    model=street(),  # without a checkpoint: export_model(street(), "module.onnx", ...)
    size_multiple=4,
    scale=1 / 255,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    classes="camvid",
    check_against="answers.npz",
)
print(result)
