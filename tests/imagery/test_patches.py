"""Labels for image files, through the program."""

from PIL import Image

from resnetd_tf.data import synthetic
from resnetd_tf.saved import open_classifier


def test_labels(run, program, tmp_path):
    images, labels = synthetic.draw(10, seed=9)
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    result = program("predict.py", f"--model={run}", *sorted(tmp_path.glob("*.png")))
    assert result.returncode == 0, result.stderr
    expected = open_classifier(run).predict(images).argmax(axis=1)
    lines = result.stdout.splitlines()
    assert len(lines) == 10
    for index, line in enumerate(lines):
        assert line.startswith(f"{tmp_path / str(index)}.png: {synthetic.CLASSES[expected[index]]} ")
    assert (expected == labels).mean() > 0.3


def test_nothing_to_label(bad_input, run):
    assert "no image given" in bad_input("predict.py", f"--model={run}")
