import fcn_deploy

result = fcn_deploy.benchmark(["model.safetensors", "model.onnx"], sizes=((180, 240),), rounds=3, seconds=1)
print(result)

for row in result.rows:
    assert row.latency_ms is not None, row.failure
    print(f"{row.name}: {row.latency_ms.p50:.0f} ms, labels agree to {row.agreement.share:.2%}")
