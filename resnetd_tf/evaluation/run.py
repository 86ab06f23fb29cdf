"""Evaluation from the opened classifier to the printed summary, as `evaluate.py` does it."""

import pathlib
from dataclasses import dataclass

import numpy as np

from resnetd_tf import rundir, runtimes, saved
from resnetd_tf.data import datasets, images
from resnetd_tf.data.datasets import absolute_locations
from resnetd_tf.data.rasters import AS_STORED, RasterOptions
from resnetd_tf.data.splits import ALL, Dataset, Split, read_split_record
from resnetd_tf.deployment import export
from resnetd_tf.errors import damage_as_input_error
from resnetd_tf.evaluation import imagenet, metrics, report
from resnetd_tf.evaluation.metrics import Images
from resnetd_tf.networks.pretrained import EUROSAT_NAME
from resnetd_tf.sentinel2 import BANDS, RGB_BANDS


@dataclass(frozen=True)
class EvaluationTask:
    """A classifier and the images that it is evaluated on.

    Attributes:
        classifier: The opened classifier.
        dataset: The dataset with the split loaded, and with the classes of the classifier.
        split_name: Name of the split.
        over_turns: Whether to average over the eight rotations and flips of each image.
        training_mask: Whether the classifier was trained on each image (n,) bool; `None` where that is not recorded.
    """

    classifier: saved.SavedClassifier
    dataset: Dataset
    split_name: str
    over_turns: bool
    training_mask: np.ndarray | None

    @property
    def split(self) -> Split:
        """The images and their labels."""
        return self.dataset.splits[self.split_name]


def evaluate(
    model: str | saved.SavedClassifier,
    *,
    dataset: str | None = None,
    split: str = "test",
    under_corruptions: bool = False,
    over_turns: bool = False,
    output_dir: str | None = None,
    data_dir: str | None = None,
    eurosat_zip: str | None = None,
    split_files: str | None = None,
    raster_options: RasterOptions = AS_STORED,
    trust: bool = False,
) -> dict:
    """Evaluates a saved classifier, writes the results into a new folder and prints a summary.

    Args:
        model: Path of a model, as `saved.locate_model` takes it, or an opened classifier.
        dataset: Name of a dataset, as `datasets.load_dataset` takes it; `None` for the one the model was trained on.
        split: "train", "validation", "test", "all", or a TFDS slice.
        under_corruptions: Whether to measure accuracy and calibration on noisy, blurred and otherwise corrupted images.
        over_turns: Whether to average over the eight rotations and flips of each image.
        output_dir: A folder that does not exist yet; `None` for the first free evaluation-SPLIT-K beside the model.
            With corruptions or turns it is evaluation-SPLIT-corruptions-K or evaluation-SPLIT-turns-K.
        data_dir: Folder of the datasets of TFDS; `None` for the one used in training.
        eurosat_zip: A EuroSAT archive to prepare the dataset from.
        split_files: Three lists of file names, separated by commas; `None` for those used in training.
        raster_options: Names, scale and offset of the bands of raster files.
        trust: Whether to open a model that holds layers that no classifier of this package has. It may run any code.

    Returns:
        The content of metrics.json, or of corruptions.json.

    Raises:
        InputError: The model, the dataset or the folder cannot be used.
    """
    classifier = model if isinstance(model, saved.SavedClassifier) else saved.open_classifier(model, trust=trust)
    name, data_dir, split_files = datasets.resolve_dataset(
        classifier.path, classifier.metadata, dataset, data_dir, split_files
    )
    loaded = datasets.load_dataset(
        name,
        (split,),
        data_dir=data_dir,
        eurosat_zip=eurosat_zip,
        split_files=split_files,
        required_bands={3: RGB_BANDS, len(BANDS): BANDS}.get(classifier.bands),
        raster_options=datasets.resolve_raster_options(classifier.metadata, name, raster_options),
    )
    loaded = metrics.align_classes(classifier, loaded)
    training_mask = find_training_images(classifier, loaded, split, split_files)
    task = EvaluationTask(classifier, loaded, split, over_turns, training_mask)
    measure = _measure_corruptions if under_corruptions else _measure_images
    folder_name = split + "-turns" * over_turns + "-corruptions" * under_corruptions
    with rundir.create_evaluation_folder(classifier.folder, folder_name, output_dir) as folder:
        result, summary, file_names = measure(task, folder)
    print(summary)
    print(f"Written to {folder}: {file_names}")
    return result


def find_training_images(
    classifier: saved.SavedClassifier, dataset: Dataset, split_name: str, split_files: str | None
) -> np.ndarray | None:
    """Finds the images that the classifier was trained on, and prints how many they are.

    It also prints whether the dataset has changed since training. Images are compared by their pixels, not by their
    names.

    Args:
        classifier: An opened classifier.
        dataset: A dataset with that split loaded.
        split_name: Name of the split.
        split_files: The lists of file names that define the splits; `None` if there are none.

    Returns:
        Whether the classifier was trained on each image (n,) bool; `None` where its run has no record of its images.
    """
    digests, metadata = dataset.splits[split_name].digests, classifier.metadata
    count = len(digests)
    is_training_dataset = absolute_locations(dataset.name, None, None)[0] == metadata.get("dataset")
    if classifier.split_record is None:
        if is_training_dataset and split_files == metadata.get("split_files"):
            sizes = metadata.get("split_sizes", {})
            _print_size_changes(dataset.name, split_name, count, sizes, uses_lists=bool(split_files))
        return None
    split_of_digest = read_split_record(classifier.split_record)
    training_mask = np.array([split_of_digest.get(digest) == "train" for digest in digests])
    if is_training_dataset and (new := sum(digest not in split_of_digest for digest in digests)):
        print(f"{dataset.name} has changed since training: {new} of {count} images of {split_name!r} are new")
    if training_mask.any() or split_name == ALL or not is_training_dataset:
        note = "; on those it is better than on others" if training_mask.any() else ""
        share = 100 * training_mask.mean()
        print(f"The model was trained on {training_mask.sum()} of these {count} images ({share:.1f} %){note}")
    if metadata.get("weights") == EUROSAT_NAME and dataset.name == "eurosat/rgb" and split_name in ("train", ALL):
        print("The weights from which it started were trained on the train split of EuroSAT")
    return training_mask


def _print_size_changes(
    dataset_name: str, split_name: str, count: int, training_sizes: dict[str, int], *, uses_lists: bool
) -> None:
    """Prints what the sizes of the splits tell about the training images, where the run has no record of them.

    Args:
        dataset_name: Name of the dataset.
        split_name: Name of the split that the classifier is evaluated on.
        count: Number of images in it now.
        training_sizes: Number of images in each split at training; empty if unknown.
        uses_lists: Whether lists of file names define the splits. Then some images may be in no split.
    """
    training_count = training_sizes.get(split_name) if split_name != ALL else sum(training_sizes.values())
    if not training_count or (split_name == ALL and uses_lists):
        print("Which of these images the model was trained on is not recorded")
    elif count != training_count:
        print(
            f"{dataset_name} has changed since training: {split_name!r} has {count} images, and had {training_count}; "
            "which of them the model was trained on is not recorded"
        )
    elif split_name == ALL:
        share = 100 * training_sizes["train"] / count
        print(f"The model was trained on {training_sizes['train']} of these {count} images ({share:.1f} %)")


def _measure_images(task: EvaluationTask, folder: pathlib.Path) -> tuple[dict, str, str]:
    """Evaluates on the images as they are, and writes the report.

    Returns:
        The content of metrics.json, a summary to print, and the names of the written files.
    """
    evaluation = metrics.evaluate_split(task.classifier, task.dataset, task.split_name, task.over_turns)
    summary = report.format_table(evaluation.result)
    if task.training_mask is not None:
        unseen_mask = ~task.training_mask
        evaluation.result["trained_on"] = int(task.training_mask.sum())
        if unseen_mask.any() and not unseen_mask.all():
            unseen = metrics.measure_accuracy(task.split.labels[unseen_mask], evaluation.probabilities[unseen_mask])
            evaluation.result["not_trained_on"] = unseen
            accuracy = report.format_accuracy(unseen["accuracy"], unseen["accuracy_interval"])
            summary += f"\nOn the {unseen_mask.sum()} images that it was not trained on: {accuracy}"
    if task.classifier.path.suffix in runtimes.SUFFIXES:
        latency = _measure_exported_model(task.classifier.path, task.split.images[:1])
        evaluation.result.update(latency)
        summary += f"\n{report.format_latency(latency)}"
    report.write_report(evaluation, folder)
    return evaluation.result, summary, report.REPORT_FILES


def _measure_exported_model(path: pathlib.Path, image: Images) -> dict:
    """Measures the size of an exported model, and its latency on one image (1, height, width, bands)."""
    (model_input,) = runtimes.describe_exported(path)["inputs"].values()
    # A dimension of the model's input that is not positive is free: the image keeps its own.
    height, width = (
        model_side if model_side > 0 else image_side
        for model_side, image_side in zip(model_input["shape"][1:3], image[0].shape)
    )
    pixels = images.resize_all(image, height, width)
    with damage_as_input_error(f"model {path}: cannot be timed"):
        return {"megabytes": export.size_megabytes(path), **export.measure_latency(path, pixels)}


def _measure_corruptions(task: EvaluationTask, folder: pathlib.Path) -> tuple[dict, str, str]:
    """Evaluates on corrupted images, prints a line for each corruption, and writes corruptions.json and its picture.

    Returns:
        The content of corruptions.json, a summary to print, and the names of the written files.
    """
    from resnetd_tf.evaluation import corruptions  # needs SciPy, which only the extra `train` installs

    rows: list[dict] = []
    for row in corruptions.evaluate_corruptions(task.classifier, task.dataset, task.split_name, task.over_turns):
        if not rows:
            print(report.CORRUPTION_HEADER)
        rows.append(row)
        print(report.format_corruption_row(row), flush=True)
    result = {
        "model": task.classifier.path.name,
        "dataset": task.dataset.name,
        "split": task.split_name,
        "over_turns": task.over_turns,
        "count": len(task.split),
    }
    if task.training_mask is not None:
        result["trained_on"] = int(task.training_mask.sum())
    result |= {**corruptions.average_corruptions(rows), "corruptions": rows}
    report.plot_corruptions(rows, corruptions.corrupt_examples(task.split), folder / "corruptions.png")
    rundir.write_json(folder / "corruptions.json", result)
    return result, report.format_corruption_summary(result), "corruptions.json, corruptions.png"


def evaluate_on_imagenet(
    model: str | saved.SavedClassifier | None,
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
        model: Path of a model, as `saved.locate_model` takes it, or an opened classifier; `None` with `weights`.
        weights: "imagenet" or a file, as `checkpoints.read_checkpoint` takes them, to evaluate instead of a model.
        depth: Layers of the network that the weights are for.
        variant: Variant of the network that the weights are for: "base", "b", "c" or "d".
        dataset: TFDS name of ImageNet, or of a dataset with its features and classes.
        split: A TFDS split or slice.
        output_dir: A folder that does not exist yet; `None` for the first free evaluation-DATASET-SPLIT-K. It lies
            beside the model, or in the current folder for weights.
        data_dir: Folder of the datasets of TFDS; `None` for its default.
        trust: Whether to open a model that holds layers that no classifier of this package has. It may run any code.

    Returns:
        The content of metrics.json.

    Raises:
        InputError: The model, the weights, the dataset or the folder cannot be used.
    """
    parent = pathlib.Path()
    if weights is None:
        assert model is not None
        classifier = model if isinstance(model, saved.SavedClassifier) else saved.open_classifier(model, trust=trust)
        imagenet_classifier, parent = imagenet.convert_saved_classifier(classifier), classifier.folder
    else:
        imagenet_classifier = imagenet.build_with_weights(weights, depth, variant)
    with rundir.create_evaluation_folder(parent, f"{dataset}-{split}", output_dir) as folder:
        result = imagenet.evaluate_imagenet(imagenet_classifier, dataset, split, data_dir)
        rundir.write_json(folder / "metrics.json", result)
    size, crop = result["size"], result["crop"]
    print(f"{imagenet_classifier.name} on {dataset} {split}, {size}x{size} of {int(size / crop)}: ", end="")
    print(f"top-1 {report.format_accuracy(result['top1'], result['top1_interval'])}, ", end="")
    print(f"top-5 {100 * result['top5']:.2f} %, {result['count']} images")
    print(f"Written to {folder}: metrics.json")
    return result
