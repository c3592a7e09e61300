import fcn_deploy
from fcn_deploy.model.checkpoints.describe import describe
from fcn_deploy.model.checkpoints.layouts import load_checkpoint

model, info = load_checkpoint("bundled")
spec = describe(model, info, outputs=("labels", "confidence"))
written = fcn_deploy.export_onnx(model, spec, "from_python.onnx")
print(f"largest relative logit error: {written.evidence['parity']['max_relative_error']:.1e}")
