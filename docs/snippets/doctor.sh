fcn-deploy doctor
