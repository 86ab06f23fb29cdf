"""What `evaluate.py` does: opens a classifier, measures it on a dataset, writes and prints what it found."""

import pathlib

from resnetd_tf import rundir, saved
from resnetd_tf.data import sources
from resnetd_tf.data.splits import Dataset
from resnetd_tf.evaluation import corruptions, imagenet, metrics, report


def evaluate(
    model: str,
    *,
    dataset: str | None = None,
    split: str = "test",
    output_dir: str | None = None,
    data_dir: str | None = None,
    eurosat_zip: str | None = None,
    trust: bool = False,
) -> dict:
    """Evaluates a saved classifier: accuracy, per-class scores, confusion matrix, worst mistakes.

    Args:
        model: A path as `saved.locate` takes it.
        dataset: Name of a dataset as for `sources.load`; `None` for the one the model was trained on.
        split: "train", "validation", "test", or a TFDS slice.
        output_dir: A folder that does not exist yet; `None` for evaluation-SPLIT-K beside the model.
        data_dir, eurosat_zip: As for `sources.load`.
        trust: As for `saved.open_classifier`.

    Returns:
        What metrics.json holds.

    Raises:
        InputError: Something given cannot be used.
    """
    classifier, loaded = _open(model, dataset, split, data_dir, eurosat_zip, trust)
    with rundir.new_evaluation(classifier.folder, split, output_dir) as folder:
        evaluation = metrics.evaluate(classifier, loaded, split)
        report.write(evaluation, folder)
    print(report.table(evaluation.result))
    print(f"Written to {folder}: {report.FILES}")
    return evaluation.result


def _open(
    model: str, dataset: str | None, split: str, data_dir: str | None, eurosat_zip: str | None, trust: bool
) -> tuple[saved.SavedClassifier, Dataset]:
    """A classifier and the split that it is to be measured on."""
    classifier = saved.open_classifier(model, trust=trust)
    name, data_dir = classifier.source(dataset, data_dir)
    loaded = sources.load(name, (split,), data_dir=data_dir, eurosat_zip=eurosat_zip)
    metrics.check(classifier, loaded)
    return classifier, loaded


def evaluate_under_corruptions(
    model: str,
    *,
    dataset: str | None = None,
    split: str = "test",
    output_dir: str | None = None,
    data_dir: str | None = None,
    eurosat_zip: str | None = None,
    trust: bool = False,
) -> dict:
    """Evaluates a saved classifier on images that are noisy, blurred, compressed and so on.

    Arguments and errors are those of `evaluate`, but for the folder, evaluation-SPLIT-corruptions-K.

    Returns:
        What corruptions.json holds.
    """
    classifier, loaded = _open(model, dataset, split, data_dir, eurosat_zip, trust)
    with rundir.new_evaluation(classifier.folder, f"{split}-corruptions", output_dir) as folder:
        rows = []
        print(report.CORRUPTION_COLUMNS)
        for row in corruptions.evaluate(classifier, loaded, split):
            rows.append(row)
            print(report.corruption_row(row), flush=True)
        count = len(loaded.splits[split])
        result = {
            "dataset": loaded.name,
            "split": split,
            "count": count,
            **corruptions.means(rows),
            "corruptions": rows,
        }
        report.plot_corruptions(rows, corruptions.examples(loaded.splits[split]), folder / "corruptions.png")
        rundir.write_json(folder / "corruptions.json", result)
    print(report.corruption_summary(result))
    print(f"Written to {folder}: corruptions.json, corruptions.png")
    return result


def evaluate_on_imagenet(
    model: str,
    *,
    weights: str | None = None,
    depth: int = 50,
    variant: str = "d",
    dataset: str = "imagenet2012",
    split: str = "validation",
    output_dir: str | None = None,
    data_dir: str | None = None,
    trust: bool = False,
) -> dict:
    """Evaluates a classifier of ImageNet's 1000 classes: top-1 and top-5 accuracy, on images cropped in the middle.

    Args:
        model: A path as `saved.locate` takes it; not used where there are weights.
        weights: "imagenet" or a file, as `checkpoints.read` takes them, to evaluate instead of a saved model.
        depth, variant: The network that the weights are for.
        dataset, split, data_dir: As for `imagenet.evaluate`.
        output_dir: A new folder; `None` for evaluation-DATASET-SPLIT-K beside the model or in the current folder.
        trust: As for `saved.open_classifier`.

    Returns:
        What metrics.json holds.

    Raises:
        InputError: Something given cannot be used.
    """
    place = pathlib.Path()
    if weights is None:
        classifier = saved.open_classifier(model, trust=trust)
        contender, place = imagenet.from_saved(classifier), classifier.folder
    else:
        contender = imagenet.from_weights(weights, depth, variant)
    with rundir.new_evaluation(place, f"{dataset}-{split}", output_dir) as folder:
        result = imagenet.evaluate(contender, dataset, split, data_dir)
        rundir.write_json(folder / "metrics.json", result)
    size, crop = result["size"], result["crop"]
    print(f"{contender.name} on {dataset} {split}, {size}x{size} of {int(size / crop)}: ", end="")
    print(f"top-1 {report.percent(result['top1'], result['top1_interval'])}, ", end="")
    print(f"top-5 {100 * result['top5']:.2f} %, {result['count']} images")
    print(f"Written to {folder}: metrics.json")
    return result
