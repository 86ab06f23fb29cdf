# %% [markdown]
# # Deploy
#
# This tutorial exports the packaged classifier in two formats: a SavedModel that a server answers with, and a TFLite
# file of a quarter of the size that runs without TensorFlow. It takes about two minutes on two cores.
#
# An export is compared with the model it comes from, on validation images. Where EuroSAT is not prepared, the ten
# images in `samples/patches` serve instead, which is too few for a real decision.

# %%
import base64
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import requests
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from resnetd_tf.sentinel2 import CLASSES

has_eurosat = (pathlib.Path(os.environ.get("TFDS_DATA_DIR", "")) / "eurosat/rgb/2.0.0").is_dir()
os.environ["DATASET"] = "eurosat/rgb" if has_eurosat else "folder:samples/patches"
shutil.rmtree("saved_models/tutorials/deploy", ignore_errors=True)

# %% [markdown]
# ## A TFLite file
#
# In int8, weights and intermediate results are whole numbers of 8 bits. Validation images calibrate their ranges.

# %% language="bash"
# python export.py --model=eurosat --format=tflite --precision=int8 --dataset=$DATASET \
#   --output=saved_models/tutorials/deploy/eurosat.tflite

# %% [markdown]
# The last line of the output is the one to read: it says how often both models choose the same class. The file needs
# no more than LiteRT, the runtime of Android and of small computers. The image goes in as pixels; preprocessing is
# part of the model.

# %%
interpreter = Interpreter("saved_models/tutorials/deploy/eurosat.tflite", num_threads=2)
runner = interpreter.get_signature_runner()
(input_name,) = runner.get_input_details()
picture = np.asarray(Image.open("samples/patches/River/River_1198.jpg").convert("RGB"))
(probabilities,) = runner(**{input_name: picture[np.newaxis]}).values()
print(CLASSES[probabilities.argmax()], f"{100 * probabilities.max():.2f} %")

# %% [markdown]
# ## A SavedModel
#
# TensorFlow Serving reads a SavedModel from a numbered folder below the folder with the model's name.

# %% language="bash"
# python export.py --model=eurosat --format=savedmodel --dataset=$DATASET \
#   --output=saved_models/tutorials/deploy/eurosat/1

# %% [markdown]
# ## Ask a server
#
# `docker compose up` in `serving/` starts TensorFlow Serving; [Serve](../how-to/serve.md) explains how. This page is
# built where TensorFlow Serving cannot run. The next cell therefore starts a stand-in, `benchmarks/model_server.py`,
# which opens the SavedModel with TensorFlow and answers the same requests by gRPC and REST.

# %%
server = subprocess.Popen(
    [sys.executable, "-m", "benchmarks.model_server", "saved_models/tutorials/deploy/eurosat"],
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
)
ports = json.loads(server.stdout.readline())
os.environ["GRPC_PORT"] = str(ports["grpc"])

# %% [markdown]
# `predict.py` asks a server instead of opening a model. The client needs the address and the model's name. A real
# TensorFlow Serving listens on port 8500 for gRPC and on port 8501 for REST.

# %% language="bash"
# python predict.py --server=grpc://localhost:$GRPC_PORT --model_name=eurosat \
#   samples/patches/Forest samples/patches/River

# %% [markdown]
# Any program that speaks HTTP can ask as well. The request holds the file of the image, in Base64.

# %%
content = base64.b64encode(pathlib.Path("samples/patches/Forest/Forest_1711.jpg").read_bytes()).decode()
answer = requests.post(
    f"http://localhost:{ports['http']}/v1/models/eurosat:predict",
    json={"signature_name": "encoded", "instances": [{"b64": content}]},
    timeout=30,
)
prediction = answer.json()["predictions"][0]
print(prediction["top_class"], f"{100 * max(prediction['probabilities']):.2f} %")

# %% [markdown]
# At the end, the stand-in is stopped.

# %%
server.terminate()
_ = server.wait()

# %% [markdown]
# ## Next
#
# [Export](../how-to/export.md) lists all formats and their speed. [Serve](../how-to/serve.md) has the settings of
# TensorFlow Serving that matter.
