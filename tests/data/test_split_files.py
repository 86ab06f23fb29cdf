"""Splits as lists of file names."""

import json
import pathlib
import re

import numpy as np
import pytest
from conftest import eurosat_dir, needs_eurosat
from PIL import Image

from resnetd_tf.data import datasets
from resnetd_tf.data.splits import split_files_digest
from resnetd_tf.errors import InputError


@pytest.fixture
def folder(tmp_path):
    """Two classes of twelve images each, told apart by their grey levels, with the same names."""
    for label, name in enumerate(("Forest", "River")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(12):
            image = np.full((8, 8, 3), 100 * label + number, np.uint8)
            Image.fromarray(image).save(tmp_path / "data" / name / f"{number}.png")
    return tmp_path / "data"


def write_lists(folder, train, validation, test) -> str:
    paths = [folder / f"{name}.txt" for name in ("train", "validation", "test")]
    for path, names in zip(paths, (train, validation, test)):
        path.write_text("\n".join(names) + "\n\n")
    return ",".join(map(str, paths))


def test_lists_of_a_folder_in_any_order_give_its_own_order(folder, tmp_path, capsys):
    """One list is a CSV file, and all name images with another suffix."""
    names = [f"{name}/{number}.jpg" for name in ("Forest", "River") for number in range(12)]
    split_files = write_lists(
        tmp_path, [f"{name},{label}" for label, name in enumerate(names[3:][::-1])], names[:2], names[2:3]
    )
    (tmp_path / "train.txt").rename(tmp_path / "train.csv")
    split_files = split_files.replace("train.txt", "train.csv")
    dataset = datasets.load_dataset(f"folder:{folder}", split_files=split_files)
    values = {name: split.images[:, 0, 0, 0].tolist() for name, split in dataset.splits.items()}
    assert sorted(values["validation"]) == [0, 1] and values["test"] == [2]
    assert sorted(values["train"]) == [*range(3, 12), *range(100, 112)]
    train = dataset.splits["train"]
    assert train.slice == str(tmp_path / "train.csv")
    assert [value >= 100 for value in values["train"]] == train.labels.tolist()
    everything = datasets.load_dataset(f"folder:{folder}").splits
    order = [name for split in everything.values() for name in split.names]
    assert list(train.names) == [name for name in order if name in train.names]
    assert "none of the lists" not in capsys.readouterr().out
    split_files = write_lists(tmp_path, names[3:20], names[:2], names[2:3])
    assert len(datasets.load_dataset(f"folder:{folder}", ("test",), split_files=split_files).splits) == 1
    assert "4 images of " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("filename,label", "Forest/{}.png,Forest"),
        (",Filename,Label,ClassName", "7,Forest/{}.png,0,Forest"),  # as EuroSAT's CSV files are spread
        ("Label,Image Path", "0,Forest/{}.png"),
        ("0,Forest", "Forest/{}.png,0"),  # no header, and no image
    ],
)
def test_the_header_of_a_table_names_the_column_of_file_names(folder, tmp_path, header, row):
    """The header names the column of file names; a first row that is no header must name an image."""
    paths = [tmp_path / f"{split}.CSV" for split in ("train", "validation", "test")]
    for number, path in enumerate(paths):
        path.write_text(f"{header}\n{row.format(number)}\n{row.format(number + 3)}\n")
    split_files = ",".join(map(str, paths))
    if header == "0,Forest":
        with pytest.raises(InputError, match="'0' is 2 images of"):
            datasets.load_dataset(f"folder:{folder}", split_files=split_files)
        return
    splits = datasets.load_dataset(f"folder:{folder}", split_files=split_files).splits
    names = [sorted(int(pathlib.Path(name).stem) for name in split.names) for split in splits.values()]
    assert names == [[0, 3], [1, 4], [2, 5]]
    assert split_files_digest(split_files)


def test_all_is_every_image_in_a_list_or_not(folder, tmp_path):
    split_files = write_lists(tmp_path, ["Forest/0.png"], ["Forest/1.png"], ["River/2.png"])
    assert len(datasets.load_dataset(f"folder:{folder}", ("all",), split_files=split_files).splits["all"]) == 24


def test_names_that_differ_in_the_suffix_are_distinguished(folder, tmp_path):
    """The complete name counts before the name without its suffix; names may have commas and dots."""
    for number, name in enumerate(("scene.png", "scene.1.png", "a,b.png", "a.png", "twin.png", "twin.jpg")):
        Image.fromarray(np.full((8, 8, 3), 200 + 9 * number, np.uint8)).save(folder / "River" / name)
    split_files = write_lists(tmp_path, ["scene.1", "River/twin.jpg"], ["a,b.png"], ["scene"])
    splits = datasets.load_dataset(f"folder:{folder}", split_files=split_files).splits
    names = {name: sorted(pathlib.Path(path).name for path in split.names) for name, split in splits.items()}
    assert names == {"train": ["scene.1.png", "twin.jpg"], "validation": ["a,b.png"], "test": ["scene.png"]}


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        (["Forest/0.png"], ["Forest/1.png", "Forest/0.png"], "both name .*Forest/0.png \\(1 in all\\); no image may"),
        (["Forest/0.png", "Forest/0.tif"], ["Forest/1.png"], "train.txt: names .*Forest/0.png twice"),
        (["Forest/12.png"], ["Forest/1.png"], "train.txt: 'Forest/12.png' is no image of folder:"),
        (["Forest/only.png"], ["Forest/1.png"], "train.txt: 'Forest/only.png' is no image of folder:"),
        (["Vineyard/only.png"], ["Forest/1.png"], "train.txt: 'Vineyard/only.png' is no image of folder:"),
        (["3.png"], ["Forest/1.png"], "train.txt: '3.png' is 2 images of folder:.*CLASS/NAME"),
        ([], ["Forest/1.png"], "train.txt names no image"),
    ],
)
def test_lists_that_name_images_wrongly_are_refused(folder, tmp_path, train, validation, message):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "River" / "only.png")
    with pytest.raises(InputError, match=message):
        datasets.load_dataset(f"folder:{folder}", split_files=write_lists(tmp_path, train, validation, ["River/2.png"]))


def test_arguments_that_are_no_three_lists_are_refused(folder, tmp_path):
    name, lists = f"folder:{folder}", write_lists(tmp_path, ["Forest/0.png"], ["Forest/1.png"], ["River/2.png"])
    for split_files, message in (
        ("a.txt,b.txt", "--split_files=a.txt,b.txt: expected three files"),
        (f"{lists},", "expected three files"),
        (lists.replace("test.txt", "missing.txt"), "missing.txt cannot be read (No such file or directory)"),
        (lists.replace(str(tmp_path / "test.txt"), str(folder / "Forest/0.png")), "0.png cannot be read ("),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            datasets.load_dataset(name, split_files=split_files)
    with pytest.raises(InputError, match="'train\\[:9%\\]' is not one of train, validation, test"):
        datasets.load_dataset(name, ("train[:9%]",), split_files=lists)
    with pytest.raises(InputError, match="of no use for dataset synthetic"):
        datasets.load_dataset("synthetic", split_files=lists)


@needs_eurosat
def test_lists_of_eurosat_give_the_images_of_their_names(tmp_path):
    test_split = datasets.load_dataset("eurosat/rgb", ("test",), data_dir=eurosat_dir()).splits["test"]
    named = dict(zip(test_split.names, test_split.images))
    names = list(named)
    split_files = write_lists(
        tmp_path, names[:40][::-1], [name.replace(".jpg", ".tif") for name in names[40:60]], names[60:90]
    )
    splits = datasets.load_dataset("eurosat/rgb", data_dir=eurosat_dir(), split_files=split_files).splits
    assert [len(split) for split in splits.values()] == [40, 20, 30]
    assert splits["train"].names == test_split.names[:40] and splits["test"].slice == str(tmp_path / "test.txt")
    for split in splits.values():
        for name, image in zip(split.names, split.images):
            np.testing.assert_array_equal(image, named[name])
    np.testing.assert_array_equal(splits["validation"].labels, test_split.labels[40:60])


def test_other_splits_than_those_of_the_training_are_warned_of(folder, tmp_path, capsys):
    split_files = write_lists(tmp_path, ["Forest/1.png"], ["Forest/2.png"], ["Forest/3.png"])
    metadata = {"dataset": "eurosat/rgb"}
    for dataset, used_lists, warning in (
        (None, None, ""),
        (f"folder:{folder}", None, "was trained on eurosat/rgb; where images of that training are among"),
        (None, split_files, "was trained with other splits"),
    ):
        datasets.resolve_dataset("model", metadata, dataset, None, used_lists)
        out = capsys.readouterr().out
        assert warning in out and out.count("\n") == bool(warning)
    metadata["split_files"] = split_files  # earlier versions kept no SHA-256
    assert datasets.resolve_dataset("model", metadata, None, None, split_files)[2] == split_files
    assert not capsys.readouterr().out
    metadata["split_files_sha256"] = split_files_digest(split_files)
    for used_lists, differ in ((split_files, False), (None, True), (split_files, True)):
        if used_lists and differ:  # one image in the lists is replaced
            write_lists(tmp_path, ["Forest/4.png"], ["Forest/2.png"], ["Forest/3.png"])
        datasets.warn_of_other_splits("weights were", metadata, "eurosat/rgb", used_lists)
        warning = "The weights were trained with other splits, perhaps on some of the images judged on here\n"
        assert capsys.readouterr().out == warning * differ


@pytest.mark.long
def test_a_run_and_its_evaluation_have_the_same_splits(folder, tmp_path, program, bad_input):
    names = [f"{name}/{number}.png" for name in ("Forest", "River") for number in range(12)]
    write_lists(tmp_path, names[4:20], names[:4], names[20:])
    arguments = ("--depth=10", "--image_size=32", "--epochs=1", "--batch_size=16", "--weights=none")
    run_options = {"cwd": tmp_path}
    files = "--split_files=train.txt,validation.txt,test.txt"
    trained = program("train.py", *arguments, f"--dataset=folder:{folder}", files, "--output_dir=model", **run_options)
    assert trained.returncode == 0, trained.stderr
    assert f"16 train ({tmp_path.resolve()}/train.txt), 4 validation" in trained.stdout
    metadata = json.loads((tmp_path / "model/run-1/metadata.json").read_text())
    assert metadata["split_files"] == ",".join(f"{tmp_path.resolve()}/{name}.txt" for name in metadata["splits"])
    evaluated = program("evaluate.py", "--model=model", "--output_dir=evaluated", **run_options)
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads((tmp_path / "evaluated/metrics.json").read_text())["count"] == 4
    relative = program("evaluate.py", "--model=model", "--dataset=folder:data", "--output_dir=relative", **run_options)
    assert relative.returncode == 0 and json.loads((tmp_path / "relative/metrics.json").read_text())["count"] == 4
    moved = folder.rename(tmp_path / "moved")
    evaluated = program("evaluate.py", "--model=model", f"--dataset=folder:{moved}", **run_options)
    assert evaluated.returncode == 0 and f"with the lists {metadata['split_files']}; where images" in evaluated.stdout
    message = bad_input("evaluate.py", "--model=model", **run_options)
    assert f"--dataset=folder:PATH --split_files={metadata['split_files']}" in message
    trained_files = f"--split_files={metadata['split_files']}"
    evaluated = program("evaluate.py", "--model=model", f"--dataset=folder:{moved}", trained_files, **run_options)
    assert evaluated.returncode == 0 and "4 images" in evaluated.stdout
    moved.rename(folder)
    (tmp_path / "test.txt").write_text("\n".join(names[:19:-1]))  # in another order
    evaluated = program("evaluate.py", "--model=model", trained_files, "--output_dir=reordered", **run_options)
    assert evaluated.returncode == 0 and "other splits" not in evaluated.stdout
    (tmp_path / "test.txt").write_text("\n".join(names[4:8]))
    message = bad_input("evaluate.py", "--model=model", **run_options)
    assert "was trained with the lists" in message and "which have changed since" in message
    (tmp_path / "train.txt").write_text(names[-1])
    evaluated = program("evaluate.py", "--model=model", trained_files, **run_options)
    assert evaluated.returncode == 0 and "trained with other splits, perhaps on some of the images" in evaluated.stdout
    (tmp_path / "test.txt").unlink()
    message = bad_input("evaluate.py", "--model=model", **run_options)
    assert "was trained with the lists" in message and "give --split_files" in message
