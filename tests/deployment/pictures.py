"""Pictures in files and models in LiteRT's interpreter, for the tests of this folder."""

import io

import numpy as np
from PIL import Image


def encode(image: np.ndarray | Image.Image, format: str = "PNG", **options) -> bytes:
    """Returns the file of a picture; options are those of Pillow's `save`."""
    file = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(file, format, **options)
    return file.getvalue()


class TfliteModel:
    """A TFLite file in LiteRT's interpreter, as whoever deploys it opens it."""

    def __init__(self, path):
        from ai_edge_litert.interpreter import Interpreter

        self.interpreter = Interpreter(model_path=str(path))
        self.interpreter.allocate_tensors()
        (self.input,) = self.interpreter.get_input_details()
        self.output, *_ = self.interpreter.get_output_details()

    def classify(self, images: np.ndarray) -> np.ndarray:
        """Returns the outputs of images, given one at a time."""
        outputs = []
        for image in images:
            self.interpreter.set_tensor(self.input["index"], image[np.newaxis])
            self.interpreter.invoke()
            outputs.append(self.interpreter.get_tensor(self.output["index"])[0])
        return np.array(outputs)

    def operations(self) -> list[str]:
        return [operation["op_name"] for operation in self.interpreter._get_ops_details()]
