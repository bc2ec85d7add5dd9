"""The command lines; train.py, val.py, predict.py and `python -m paddleseg` are doors to them."""
