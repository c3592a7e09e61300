fcn-deploy clip street --frames 12
python train_small.py
