import fcn_deploy

check = fcn_deploy.check_answers("model.onnx", "answers.npz")
print(check)
for mistake in check.mistakes:
    print(mistake.words, "->", mistake.repair)
