"""What `evaluate.py` does: opens a classifier, measures it on a dataset, writes and prints what it found."""

import pathlib

import numpy as np

from resnetd_tf import rundir, runtimes, saved
from resnetd_tf.data import datasets, images
from resnetd_tf.data.datasets import absolute_locations
from resnetd_tf.data.rasters import AS_STORED, RasterOptions
from resnetd_tf.data.splits import ALL, Dataset, read_split_record
from resnetd_tf.deployment import export
from resnetd_tf.errors import damage_as_input_error
from resnetd_tf.evaluation import corruptions, imagenet, metrics, report
from resnetd_tf.evaluation.metrics import Images
from resnetd_tf.sentinel2 import BANDS, RGB_BANDS


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
    """Evaluates a saved classifier: accuracy, per-class scores, confusion matrix, worst mistakes.

    Args:
        model: A path as `saved.locate` takes it, or a classifier that was opened.
        dataset: Name of a dataset as for `sources.load`; `None` for the one the model was trained on.
        split: "train", "validation", "test", "all", or a TFDS slice.
        under_corruptions: Measures accuracy and calibration on images that are noisy, blurred, compressed and so on.
        over_turns: Averages probabilities over the eight turns and flips of each image.
        output_dir: A folder that does not exist yet; `None` for evaluation-SPLIT-K, or evaluation-SPLIT-corruptions-K,
            evaluation-SPLIT-turns-K and so on, beside the model.
        data_dir, eurosat_zip, split_files, raster_options: As for `sources.load`.
        trust: As for `saved.open_classifier`.

    Returns:
        What metrics.json, or corruptions.json, holds.

    Raises:
        InputError: Something given cannot be used.
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
    overlap = measure_training_overlap(classifier, loaded, split, split_files)
    measure = _evaluate_under_corruptions if under_corruptions else _evaluate_images
    what = split + "-turns" * over_turns + "-corruptions" * under_corruptions
    with rundir.create_evaluation_folder(classifier.folder, what, output_dir) as folder:
        result, summary, files = measure(classifier, loaded, split, over_turns, folder, overlap)
    print(summary)
    print(f"Written to {folder}: {files}")
    return result


def measure_training_overlap(
    classifier: saved.SavedClassifier, dataset: Dataset, split: str, split_files: str | None
) -> np.ndarray | None:
    """Prints how many images of a split the classifier was trained on, and whether its dataset has changed since.

    Images are compared by their pixels, whatever they are called and wherever they lie.

    Args:
        classifier: The classifier.
        dataset: The dataset, with that split loaded.
        split: The split that it is evaluated on.
        split_files: The lists that the split is of, `None` for none.

    Returns:
        Whether it was trained on each image, (n,) bool; `None` where its run has no record of its images.
    """
    digests, trained = dataset.splits[split].digests, classifier.metadata
    count, is_own = len(digests), absolute_locations(dataset.name, None, None)[0] == trained.get("dataset")
    if classifier.split_record is None:
        if is_own and split_files == trained.get("split_files"):
            _print_split_sizes(dataset.name, split, count, trained.get("split_sizes", {}), bool(split_files))
        return None
    split_of = read_split_record(classifier.split_record)
    overlap = np.array([split_of.get(digest) == "train" for digest in digests])
    if is_own and (new := sum(digest not in split_of for digest in digests)):
        print(f"{dataset.name} has changed since training: {new} of {count} images of {split!r} are new")
    if overlap.any() or split == ALL or not is_own:
        note = "; on those it is better than on others" if overlap.any() else ""
        print(f"The model was trained on {overlap.sum()} of these {count} images ({100 * overlap.mean():.1f} %){note}")
    return overlap


def _print_split_sizes(name: str, split: str, count: int, sizes: dict[str, int], listed: bool) -> None:
    """Prints what the sizes of its splits tell of a dataset that a classifier without a record was trained on.

    Args:
        name: Name of the dataset.
        split: The split that is evaluated on.
        count: Number of its images now.
        sizes: Those of the splits at training; empty where not known.
        listed: Whether lists of files say which images the splits have; others may be in none of them.
    """
    before = sizes.get(split) if split != ALL else sum(sizes.values())
    if not before or (split == ALL and listed):
        print("Which of these images the model was trained on is not recorded")
    elif count != before:
        print(
            f"{name} has changed since training: {split!r} has {count} images, and had {before}; which of them the "
            "model was trained on is not recorded"
        )
    elif split == ALL:
        share = 100 * sizes["train"] / count
        print(f"The model was trained on {sizes['train']} of these {count} images ({share:.1f} %)")


def _evaluate_images(
    classifier: saved.SavedClassifier,
    dataset: Dataset,
    split: str,
    over_turns: bool,
    folder: pathlib.Path,
    overlap: np.ndarray | None,
) -> tuple[dict, str, str]:
    """Writes what is found on the images of a split; returns it as written and in words, and the names of the files."""
    evaluation = metrics.evaluate_split(classifier, dataset, split, over_turns)
    summary = report.format_table(evaluation.result)
    if overlap is not None:
        evaluation.result["trained_on"] = int(overlap.sum())
        if 0 < overlap.sum() < len(overlap):
            unseen = metrics.measure_accuracy(evaluation.split.labels[~overlap], evaluation.probabilities[~overlap])
            evaluation.result["not_trained_on"] = unseen
            accuracy = report.format_accuracy(unseen["accuracy"], unseen["accuracy_interval"])
            summary += f"\nOn the {(~overlap).sum()} images that it was not trained on: {accuracy}"
    if classifier.path.suffix in runtimes.SUFFIXES:
        measured = _measure_export(classifier.path, dataset.splits[split].images[:1])
        evaluation.result.update(measured)
        summary += f"\n{report.format_latency(measured)}"
    report.write_report(evaluation, folder)
    return evaluation.result, summary, report.REPORT_FILES


def _measure_export(exported: pathlib.Path, image: Images) -> dict:
    """Size and latency of what another runtime runs, on one image."""
    (given,) = runtimes.describe_exported(exported)["inputs"].values()
    height, width = (taken if taken > 0 else side for taken, side in zip(given["shape"][1:3], image[0].shape))
    pixels = images.resize_all(image, height, width)
    with damage_as_input_error(f"model {exported}: cannot be timed"):
        return {"megabytes": export.size_megabytes(exported), **export.measure_latency(exported, pixels)}


def _evaluate_under_corruptions(
    classifier: saved.SavedClassifier,
    dataset: Dataset,
    split: str,
    over_turns: bool,
    folder: pathlib.Path,
    overlap: np.ndarray | None,
) -> tuple[dict, str, str]:
    """The same for images that are corrupted, with a line as each corruption is done."""
    rows: list[dict] = []
    for row in corruptions.evaluate_corruptions(classifier, dataset, split, over_turns):
        if not rows:
            print(report.CORRUPTION_HEADER)
        rows.append(row)
        print(report.format_corruption_row(row), flush=True)
    chosen = dataset.splits[split]
    found = {
        "model": classifier.path.name,
        "dataset": dataset.name,
        "split": split,
        "over_turns": over_turns,
        "count": len(chosen),
    }
    if overlap is not None:
        found["trained_on"] = int(overlap.sum())
    result = {**found, **corruptions.average_corruptions(rows), "corruptions": rows}
    report.plot_corruptions(rows, corruptions.corrupt_examples(chosen), folder / "corruptions.png")
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
        model: As for `evaluate`; `None` where there are weights.
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
        assert model is not None
        classifier = model if isinstance(model, saved.SavedClassifier) else saved.open_classifier(model, trust=trust)
        contender, place = imagenet.contender_from_classifier(classifier), classifier.folder
    else:
        contender = imagenet.contender_from_weights(weights, depth, variant)
    with rundir.create_evaluation_folder(place, f"{dataset}-{split}", output_dir) as folder:
        result = imagenet.evaluate_contender(contender, dataset, split, data_dir)
        rundir.write_json(folder / "metrics.json", result)
    size, crop = result["size"], result["crop"]
    print(f"{contender.name} on {dataset} {split}, {size}x{size} of {int(size / crop)}: ", end="")
    print(f"top-1 {report.format_accuracy(result['top1'], result['top1_interval'])}, ", end="")
    print(f"top-5 {100 * result['top5']:.2f} %, {result['count']} images")
    print(f"Written to {folder}: metrics.json")
    return result
