"""What is deployed: `savedmodel` for TensorFlow Serving, `tflite` for devices.

`folding` makes the network that both compute; `comparison` says how well each agrees with the model it was made from.
"""
