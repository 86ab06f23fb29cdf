"""TFLite files in the LiteRT interpreter."""

import numpy as np
import pytest

from resnetd_tf.data import synthetic
from resnetd_tf.saved import open_classifier


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_tflite_in_the_interpreter(run, program, tmp_path, precision):
    from ai_edge_litert.interpreter import Interpreter

    path = tmp_path / "model.tflite"
    result = program("export.py", f"--model={run}", "--format=tflite", f"--precision={precision}", f"--output={path}")
    assert result.returncode == 0, result.stderr
    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    (pixels,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert pixels["shape"].tolist() == [1, 64, 64, 3] and pixels["dtype"] == np.uint8
    images = synthetic.draw(40, seed=7)[0]
    probabilities = []
    for image in images:
        interpreter.set_tensor(pixels["index"], image[np.newaxis])
        interpreter.invoke()
        probabilities.append(interpreter.get_tensor(output["index"])[0])
    expected = open_classifier(run).predict(images)
    if precision == "float32":
        np.testing.assert_allclose(probabilities, expected, atol=1e-4)
    else:
        assert (np.argmax(probabilities, 1) == expected.argmax(1)).mean() >= 0.8
        assert path.stat().st_size < 8e6
    before = path.read_bytes()
    again = program("export.py", f"--model={run}", f"--precision={precision}", f"--output={path}")
    assert again.returncode == 2 and path.read_bytes() == before
