"""What is deployed, and asking it: `conversion` is what export.py does, from a classifier to a verified export.

`savedmodel` and `signatures` for TensorFlow Serving, `tflite` for devices, `onnx` and `openvino` for servers without
TensorFlow; `folding` and `frozen` make the graph that they compute. `client` asks a server.
"""
