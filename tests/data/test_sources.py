"""Datasets from folders, zips and TFDS, good and damaged."""

import hashlib
import os
import pathlib
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import tifffile
from conftest import eurosat_dir, needs_eurosat, needs_sentinel2, sentinel2_dir
from PIL import ExifTags, Image, PngImagePlugin

from resnetd_tf.data import datasets, images
from resnetd_tf.data.splits import SPLITS, slice_bounds
from resnetd_tf.errors import InputError
from resnetd_tf.normalization import EUROSAT_RGB
from resnetd_tf.sentinel2 import CLASSES


def write_jpeg(path, seed=0, size=64):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=95)


@pytest.fixture
def folder(tmp_path):
    """Ten images in each of three classes, in the layout of the dataset's own zip."""
    root = tmp_path / "2750"
    for index in range(30):
        name = CLASSES[index % 3]
        write_jpeg(root / name / f"{name}_{index}.jpg", seed=index)
    return root


def write_zip(path, folder, prefix):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("README.txt", "not an image")
        for image in folder.rglob("*.jpg"):
            archive.write(image, f"{prefix}/{image.relative_to(folder)}")
    return path


def test_folder_is_split_70_20_10(folder):
    dataset = datasets.load_dataset(f"folder:{folder}")
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 21, "validation": 6, "test": 3}
    assert dataset.classes == CLASSES[:3]
    names = [name for split in dataset.splits.values() for name in split.names]
    assert len(set(names)) == 30
    for split in dataset.splits.values():
        for image, label, name in zip(split.images, split.labels, split.names):
            assert CLASSES[label] in name
            np.testing.assert_array_equal(image, np.asarray(Image.open(name)))  # as Pillow decodes it


def write_splits(root, **counts):
    """Writes a number of images of two classes to each folder of a split, and returns the root."""
    for split, count in counts.items():
        for index in range(count):
            name = CLASSES[index % 2]
            write_jpeg(root / split / name / f"{split}_{index}.jpg", seed=index, size=8)
    return root


@pytest.mark.parametrize(
    ("counts", "slices", "sizes"),
    [
        ({"train": 24, "val": 6, "test": 4}, ("train", "val", "test"), (24, 6, 4)),
        ({"Train": 24, "validation": 6, "Test": 4}, ("Train", "validation", "Test"), (24, 6, 4)),
        ({"train": 20, "test": 6}, ("train[:80%]", "train[80%:]", "test"), (16, 4, 6)),
        ({"train": 20, "valid": 6}, ("train[:90%]", "valid", "train[90%:]"), (18, 6, 2)),
        ({"train": 20}, ("train[:70%]", "train[70%:90%]", "train[90%:]"), (14, 4, 2)),
    ],
)
def test_a_folder_that_is_split_already(tmp_path, counts, slices, sizes):
    """Each split has the images of its folder; missing splits are cut off train, as for TFDS's datasets."""
    dataset = datasets.load_dataset(f"folder:{write_splits(tmp_path, **counts)}")
    assert dataset.classes == CLASSES[:2]
    assert tuple(split.slice for split in dataset.splits.values()) == slices
    assert tuple(map(len, dataset.splits.values())) == sizes
    for split in dataset.splits.values():
        folders = {pathlib.Path(name).parents[1].name for name in split.names}
        assert folders == {split.slice.partition("[")[0]}
        for label, name in zip(split.labels, split.names):
            assert pathlib.Path(name).parent.name == CLASSES[label]
    names = [name for split in dataset.splits.values() for name in split.names]
    assert len(set(names)) == len(names) == sum(sizes)
    assert len(datasets.load_dataset(f"folder:{tmp_path}", ("all",)).splits["all"]) == sum(sizes)


def test_splits_that_a_folder_lacks(tmp_path):
    write_splits(tmp_path / "a", test=4)
    assert len(datasets.load_dataset(f"folder:{tmp_path / 'a'}", ("test",)).splits["test"]) == 4
    with pytest.raises(InputError, match="has test, no train to take validation from"):
        datasets.load_dataset(f"folder:{tmp_path / 'a'}", ("validation",))
    write_splits(tmp_path / "b", train=4, val=4, validation=4)
    with pytest.raises(InputError, match="val and validation are both validation; rename one of them"):
        datasets.load_dataset(f"folder:{tmp_path / 'b'}")
    with pytest.raises(InputError, match=r"train\[80%:\] of 2 images is none; add images"):
        datasets.load_dataset(f"folder:{write_splits(tmp_path / 'c', train=2, test=2)}", ("validation",))


def test_classes_that_are_called_train_and_test(tmp_path):
    for name in ("train", "test"):
        for index in range(6):
            write_jpeg(tmp_path / name / f"{name}_{index}.jpg", size=8)
    dataset = datasets.load_dataset(f"folder:{tmp_path}")
    assert dataset.classes == ("test", "train") and dataset.splits["train"].slice == "train[:70%]"


def test_all_is_every_image_of_a_folder(folder, tmp_path):
    """A folder with too few images for three splits can be evaluated as a whole."""
    everything = datasets.load_dataset(f"folder:{folder}", ("all",)).splits["all"]
    parts = datasets.load_dataset(f"folder:{folder}").splits.values()
    assert everything.names == tuple(name for split in parts for name in split.names) and everything.slice == "all"
    assert everything.digests == tuple(digest for split in parts for digest in split.digests)
    assert len(set(everything.digests)) == 30
    for index in range(4):
        write_jpeg(tmp_path / "few" / CLASSES[index % 2] / f"{index}.jpg")
    assert len(datasets.load_dataset(f"folder:{tmp_path / 'few'}", ("all",)).splits["all"]) == 4
    with pytest.raises(InputError, match=r"4 images; a 70/20/10 split needs at least 10\. --split=all"):
        datasets.load_dataset(f"folder:{tmp_path / 'few'}", ("test",))


def test_an_image_is_known_again_whatever_size_a_batch_needs(folder):
    for index in range(20):
        write_jpeg(folder / CLASSES[0] / f"large{index}.jpg", size=100, seed=index)
    name = f"folder:{folder}"
    resized, plain = datasets.load_dataset(name, ("train",), image_size=48), datasets.load_dataset(name, ("train",))
    assert resized.splits["train"].digests == plain.splits["train"].digests
    assert resized.splits["train"].shape == (48, 48, 3)


@pytest.mark.parametrize(("count", "sizes"), [(45, (31, 9, 5)), (27000, (18900, 5400, 2700))])
def test_splits_stay_where_they_were(count, sizes):
    """0.7 * 45 is a little less than 31.5: runs were trained on what that gives."""
    ranges = [range(count)[slice_bounds(count, slice_name)] for slice_name in SPLITS.values()]
    assert tuple(map(len, ranges)) == sizes and [index for indices in ranges for index in indices] == [*range(count)]


def test_images_of_differing_sizes_are_resized_for_training_alone(folder):
    for index in range(20):
        write_jpeg(folder / CLASSES[0] / f"large{index}.jpg", size=100, seed=index)
    loaded = datasets.load_dataset(f"folder:{folder}")
    assert all(split.shape == (None, None, 3) for split in loaded.splits.values())
    for split in loaded.splits.values():
        for name, image in zip(split.names, split.images):
            assert image.shape == ((100, 100, 3) if "large" in name else (64, 64, 3))
    resized = datasets.load_dataset(f"folder:{folder}", image_size=48)
    assert [split.shape[0] for split in resized.splits.values()] == [48, 48, None]


def test_bad_folders(tmp_path, folder):
    with pytest.raises(InputError, match="is not a folder"):
        datasets.load_dataset(f"folder:{tmp_path / 'missing'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images"):
        datasets.load_dataset(f"folder:{tmp_path / 'empty'}")
    write_jpeg(tmp_path / "one" / "Forest" / "1.jpg")
    with pytest.raises(InputError, match="only one class, Forest"):
        datasets.load_dataset(f"folder:{tmp_path / 'one'}")
    damaged = folder / CLASSES[1] / "damaged.jpg"
    content = next(folder.rglob("*.jpg")).read_bytes()
    damaged.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"damaged\.jpg: not a readable"):
        datasets.load_dataset(f"folder:{folder}")


def test_only_the_splits_asked_for_are_decoded(folder):
    """Images of the other splits may even be damaged behind their headers."""
    train = datasets.load_dataset(f"folder:{folder}", ("train",)).splits["train"]
    for name in train.names:
        content = pathlib.Path(name).read_bytes()
        pathlib.Path(name).write_bytes(content[: len(content) // 2])
    assert len(datasets.load_dataset(f"folder:{folder}", ("test", "validation")).splits["test"]) == 3
    with pytest.raises(InputError, match="not a readable"):
        datasets.load_dataset(f"folder:{folder}", ("train",))


@pytest.mark.parametrize("sizes", [(400,), (390, 400, 410)])
def test_images_are_in_memory_once(tmp_path, sizes):
    """The images have 190 MB of pixels in files of a few hundred bytes; one epoch of batches is read."""
    for index in range(400):
        path = tmp_path / "data" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (400, sizes[index % len(sizes)]), (index % 256, 0, 0)).save(path)
    script = f"""
from resnetd_tf.data import batches, datasets, images
from resnetd_tf.environment import peak_memory_gib
images.resize_image(images.read_image({str(tmp_path / "data/a/0.png")!r}), 8, 8)
start = peak_memory_gib()
splits = datasets.load_dataset("folder:{tmp_path / "data"}", image_size=400).splits
for _ in batches.training_batches(splits["train"], 2, 2).take(len(splits["train"]) // 2):
    pass
pixels = sum(image.nbytes for split in splits.values() for image in split.images) / 2**30
added = peak_memory_gib() - start
assert pixels > 0.17 and added < 1.2 * pixels + 0.02, (pixels, added)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=200)


def test_images_that_do_not_fit_into_memory_are_refused_before_they_are_read(folder, monkeypatch):
    monkeypatch.setattr("resnetd_tf.data.splits.available_memory_bytes", lambda: 300_000)
    monkeypatch.setattr(images, "read_patch", None)
    with pytest.raises(InputError, match=r"2750: its images take 0\.0 GiB of memory, of which 0\.0 GiB are free"):
        datasets.load_dataset(f"folder:{folder}")


def test_files_that_are_no_images_of_a_class_are_skipped(folder, capsys):
    write_jpeg(folder / ".ipynb_checkpoints" / "0.jpg")
    (folder / CLASSES[0] / "._0.jpg").write_text("a file that macOS leaves")
    (folder / CLASSES[1] / "notes.txt").write_text("no image")
    (folder / CLASSES[1] / "table.csv").write_text("no image")
    (folder / CLASSES[1] / "folder.jpg").mkdir()
    (folder / "Empty").mkdir()
    write_jpeg(folder / "Deep" / "under" / "0.jpg")
    write_jpeg(folder / "beside.jpg")
    assert datasets.load_dataset(f"folder:{folder}").classes == CLASSES[:3]
    printed = capsys.readouterr().out
    assert "AnnualCrop 10, Forest 10, HerbaceousVegetation 10" in printed
    assert "that are no folders of images: Deep, Empty, beside.jpg" in printed
    assert "Skipped 3 that are no image files: .csv, .jpg, .txt" in printed


def test_names_that_no_text_file_can_hold_are_refused(folder):
    strange = folder / "two\nlines"
    write_jpeg(strange / "0.jpg")
    with pytest.raises(InputError, match="a line break; rename it"):
        datasets.load_dataset(f"folder:{folder}")
    (strange / "0.jpg").unlink()
    write_jpeg(folder / CLASSES[0] / "0.jpg")
    (folder / CLASSES[0] / "0.jpg").rename(folder / CLASSES[0] / os.fsdecode(b"\xea.jpg"))
    with pytest.raises(InputError, match=r"udcea\.jpg': its name is not UTF-8"):
        datasets.load_dataset(f"folder:{folder}")
    with pytest.raises(InputError, match="is not a folder"):
        datasets.load_dataset("folder:")


def test_pictures_of_every_kind_are_read_as_pillow_reads_them(tmp_path):
    """The content decides the format, not the name; transparency is dropped."""
    noise, path, read = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype("uint8"), tmp_path / "x.jpg", []
    for format in ("PNG", "TIFF", "JPEG", "WEBP", "BMP", "GIF", "JPEG2000", "PPM", "AVIF"):
        for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"):
            try:
                Image.fromarray(noise).convert(mode).save(path, format)
            except (OSError, ValueError):  # Pillow writes no such format of this mode
                continue
            pixels = images.read_image(path)
            assert images.read_header(path) == ((20, 30, 3), "uint8"), (format, mode)
            with Image.open(path) as picture:
                np.testing.assert_array_equal(pixels, np.asarray(picture.convert("RGB")), f"{format} {mode}")
            if format in ("PNG", "TIFF", "BMP") and mode in ("RGB", "RGBA"):
                np.testing.assert_array_equal(pixels, noise)
            read.append((format, mode))
    assert len(read) > 50, read


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(tmp_path, orientation):
    upright = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype("uint8")
    # How the picture is stored, by EXIF's number: mirrored or not, then turned counter-clockwise by quarters.
    mirrored, quarters = {1: (0, 0), 2: (1, 0), 3: (0, 2), 4: (1, 2), 5: (1, 1), 6: (0, 1), 7: (1, 3), 8: (0, 3)}[
        orientation
    ]
    stored = np.rot90(upright[:, ::-1] if mirrored else upright, quarters)
    for format, options in (("PNG", "exif"), ("WEBP", "exif"), ("TIFF", "tiffinfo")):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        path, lossless = tmp_path / f"picture.{format}", {"lossless": True} if format == "WEBP" else {}
        Image.fromarray(np.ascontiguousarray(stored)).save(path, format, **{options: exif}, **lossless)
        assert images.read_header(path)[0] == (20, 30, 3)
        np.testing.assert_array_equal(images.read_image(path), upright)


def test_turns_that_other_programs_ignore_are_ignored(tmp_path):
    """These are numbers that EXIF does not define, and turns in a PNG's XMP or after its pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype("uint8")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 9
    Image.fromarray(noise).save(tmp_path / "nine.png", exif=exif)
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(noise).save(tmp_path / "late.png", exif=exif)
    content = (tmp_path / "late.png").read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    last = content.index(b"IEND") - 4
    (tmp_path / "late.png").write_bytes(content[:start] + content[end:last] + content[start:end] + content[last:])
    xmp = PngImagePlugin.PngInfo()
    xmp.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    Image.fromarray(noise).save(tmp_path / "xmp.png", pnginfo=xmp)
    for path in tmp_path.iterdir():
        assert images.read_header(path)[0] == (20, 30, 3)
        np.testing.assert_array_equal(images.read_image(path), noise, path.name)


def test_pictures_that_hold_other_files_are_refused(tmp_path):
    """EPS is a program for Ghostscript, IPTC holds a picture of any format; OME-TIFF names files beside it."""
    (tmp_path / "program.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")
    (tmp_path / "iptc.jpg").write_bytes(b"\x1c\x03\x3c\x00\x02\x08\x01\x1c\x08\x0a\x00\x00")
    for name in ("program.jpg", "iptc.jpg"):
        with pytest.raises(InputError, match=f"{name}: not a readable image of a kind"):
            images.read_image(tmp_path / name)
    bands = np.random.default_rng(0).integers(0, 9000, (8, 8, 13)).astype("uint16")
    names_another = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:a"><Image '
        'ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="13" SizeY="8" SizeZ="8" '
        'SizeC="1" SizeT="1"><TiffData IFD="0" PlaneCount="8"><UUID FileName="other.tif">urn:uuid:b</UUID></TiffData>'
        "</Pixels></Image></OME>"
    )
    tifffile.imwrite(tmp_path / "bands.ome.tif", bands, description=names_another, metadata=None)
    np.testing.assert_array_equal(images.read_image(tmp_path / "bands.ome.tif"), bands)


@pytest.mark.parametrize("name", ["dn.png", "dn.tif", "dn.jp2", "dn.ppm", "rgb.png", "rgb.ppm", "rgb.j2k"])
def test_pictures_of_16_bits_are_refused(tmp_path, name):
    path = tmp_path / name
    if name == "rgb.png":
        import tensorflow as tf

        path.write_bytes(tf.io.encode_png(np.full((8, 8, 3), 3000, "uint16")).numpy())
    elif name == "rgb.ppm":
        path.write_bytes(b"P6 8 8 4095\n" + bytes(8 * 8 * 6))
    elif name == "rgb.j2k":  # Pillow writes none of 16 bits
        Image.new("RGB", (8, 8)).save(path)
        content = bytearray(path.read_bytes())
        assert content[42] == content[45] == content[48] == 7  # depths less one
        content[42] = content[45] = content[48] = 15
        path.write_bytes(content)
    else:
        Image.fromarray(np.full((8, 8), 3000, "uint16")).save(path)
    with pytest.raises(InputError, match=rf"{name}: (16 bits a colour|one band of uint16|3 bands of uint16)"):
        images.read_image(path)


def test_a_bmp_of_16_bits_a_pixel_has_fewer_a_colour(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "x.bmp")
    header = bytearray((tmp_path / "x.bmp").read_bytes()[:54])
    header[10], header[28], header[30] = 66, 16, 3  # where pixels begin, bits a pixel, masks follow
    masks = b"".join(mask.to_bytes(4, "little") for mask in (0xF800, 0x7E0, 0x1F))
    (tmp_path / "x.bmp").write_bytes(bytes(header) + masks + b"\x1f\x00\xe0\x07" * 2)
    np.testing.assert_array_equal(images.read_image(tmp_path / "x.bmp")[0], [(0, 0, 255), (0, 255, 0)])


def test_large_pictures_are_refused_by_their_header(tmp_path):
    path = tmp_path / "large.png"
    Image.new("1", (9000, 9000)).save(path)
    with pytest.raises(InputError, match=r"large\.png: 9000 x 9000 pixels, more than the 67108864 that may become one"):
        images.read_image(path)
    assert images.read_header(path, 9000 * 9000) == ((9000, 9000, 3), "uint8")


def test_a_truncated_picture_among_many_is_named(folder):
    path = sorted((folder / CLASSES[1]).iterdir())[3]
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=re.escape(f"{path}: not a readable image")):
        datasets.load_dataset(f"folder:{folder}")


def test_locations_mean_the_same_in_every_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", "data")

    here, locate = tmp_path.resolve(), datasets.absolute_locations
    assert locate("folder:a/../b", None, None) == (f"folder:{here / 'b'}", None, None)
    assert locate("eurosat/rgb", "there", None) == ("eurosat/rgb", str(here / "there"), None)
    assert locate("eurosat/rgb", None, "a, b,../c") == (
        "eurosat/rgb",
        str(here / "data"),
        f"{here / 'a'},{here / 'b'},{here.parent / 'c'}",
    )
    assert locate("synthetic", None, None) == ("synthetic", None, None)


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match="'no_such' is unknown"):
        datasets.load_dataset("no_such")
    with pytest.raises(InputError, match="'eurosat/nir' is unknown"):
        datasets.load_dataset("eurosat/nir")
    with pytest.raises(InputError, match="split 'dev' is not one of train, validation, test, all"):
        datasets.load_dataset("synthetic", ("dev",))


@pytest.mark.parametrize("prefix", ["2750", "EuroSAT_RGB"])
def test_zip_is_prepared_as_tfds_would(tmp_path, folder, prefix):
    """The reference is TFDS's own builder, which reads the same images from the folder its zip unpacks to."""
    import tensorflow_datasets as tfds

    archive = write_zip(tmp_path / "EuroSAT.zip", folder, prefix)
    ours = datasets.load_dataset("eurosat/rgb", data_dir=str(tmp_path / "ours"), eurosat_zip=str(archive))

    reference = tfds.builder("eurosat/rgb", data_dir=str(tmp_path / "reference"))
    reference._split_generators = lambda dl_manager: {"train": reference._generate_examples(str(folder), "rgb")}
    reference.download_and_prepare()
    for split, slicing in SPLITS.items():
        expected = list(reference.as_dataset(split=slicing).as_numpy_iterator())
        assert ours.splits[split].names == tuple(example["filename"].decode() for example in expected)
        np.testing.assert_array_equal(ours.splits[split].labels, [example["label"] for example in expected])
        for name, image in zip(ours.splits[split].names, ours.splits[split].images):
            np.testing.assert_array_equal(image, np.asarray(Image.open(next(folder.rglob(name)))))
    assert ours.classes == CLASSES
    assert not list((tmp_path / "ours").glob(".eurosat-*"))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "encrypted", "other"])
def test_damaged_zip_is_not_prepared(tmp_path, folder, damage):
    archive = write_zip(tmp_path / "EuroSAT.zip", folder, "2750")
    content = bytearray(archive.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[len(content) // 2] ^= 0xFF
    elif damage == "encrypted":
        content[content.rindex(b"PK\1\2") + 8] |= 1
    archive.write_bytes(content)
    if damage == "other":
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("cats/1.jpg", "")
    with pytest.raises(InputError, match=r"EuroSAT\.zip"):
        datasets.load_dataset("eurosat/rgb", data_dir=str(tmp_path / "data"), eurosat_zip=str(archive))
    assert not list((tmp_path / "data").rglob("*.tfrecord*"))
    assert not list((tmp_path / "data").glob(".eurosat-*"))


@pytest.fixture
def prepared(tmp_path, folder):
    archive = write_zip(tmp_path / "EuroSAT.zip", folder, "2750")
    datasets.load_dataset("eurosat/rgb", data_dir=str(tmp_path / "data"), eurosat_zip=str(archive))
    return tmp_path / "data"


def test_damaged_tfrecord_is_named(prepared):
    (record,) = prepared.rglob("*.tfrecord*")
    content = record.read_bytes()
    record.write_bytes(content[: len(content) * 3 // 4])
    with pytest.raises(InputError, match=r"tfrecord-00000-of-00001: truncated or corrupt"):
        datasets.load_dataset("eurosat/rgb", data_dir=str(prepared))
    first = 16 + int.from_bytes(content[:8], "little")  # length, CRC, example, CRC
    record.write_bytes(content[:first])
    with pytest.raises(InputError, match=r"tfrecord-00000-of-00001: truncated, holds 1 of 30 images"):
        datasets.load_dataset("eurosat/rgb", data_dir=str(prepared))
    record.write_bytes(content[:1000] + bytes([content[1000] ^ 0xFF]) + content[1001:])
    with pytest.raises(InputError, match=r"tfrecord-00000-of-00001: truncated or corrupt"):
        datasets.load_dataset("eurosat/rgb", data_dir=str(prepared))


def test_damaged_jpeg_in_tfrecord_is_named(tmp_path, folder):
    damaged = folder / CLASSES[1] / f"{CLASSES[1]}_999.jpg"
    content = next(folder.rglob("*.jpg")).read_bytes()
    damaged.write_bytes(content[: len(content) // 2])
    archive = write_zip(tmp_path / "EuroSAT.zip", folder, "2750")
    with pytest.raises(InputError, match=r"Forest_999\.jpg in it is not a readable"):
        datasets.load_dataset("eurosat/rgb", data_dir=str(tmp_path / "data"), eurosat_zip=str(archive))


@pytest.mark.parametrize("registered", [True, False])
def test_an_archive_of_the_mirror_is_used_only_with_the_registered_checksum(tmp_path, folder, hub, registered):
    """The process finds TFDS's address dead, and a local server as the hub."""
    content = write_zip(tmp_path / "EuroSAT.zip", folder, "2750").read_bytes()
    checksum = hashlib.sha256(content).hexdigest() if registered else "0" * 64
    script = f"""
import dataclasses, tensorflow_datasets as tfds
from resnetd_tf.data import datasets
builder = tfds.builder("eurosat/rgb", data_dir={str(tmp_path / "data")!r})
url = "http://127.0.0.1:9/EuroSAT.zip"
info = type(builder).url_infos.pop(builder.builder_config.download_url)
builder.builder_config.download_url = url
type(builder).url_infos[url] = dataclasses.replace(info, checksum={checksum!r})
datasets.load_dataset("eurosat/rgb", data_dir={str(tmp_path / "data")!r})
"""
    environment = {**os.environ, **hub(content)}
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=200
    )
    if registered:
        assert result.returncode == 0, result.stderr
        assert len(datasets.load_dataset("eurosat/rgb", data_dir=str(tmp_path / "data")).splits["train"]) == 21
    else:
        assert "has SHA-256" in result.stderr and "not used, deleted" in result.stderr
        assert not list((tmp_path / "hub").rglob("EuroSAT.zip"))
        assert not list((tmp_path / "data").rglob("*.tfrecord*"))


@needs_eurosat
def test_eurosat_has_27000_images_in_ten_classes():
    dataset = datasets.load_dataset("eurosat/rgb", data_dir=eurosat_dir())
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 18900,
        "validation": 5400,
        "test": 2700,
    }
    assert dataset.classes == CLASSES
    for split in dataset.splits.values():
        assert all(CLASSES[label] == name.split("_")[0] for label, name in zip(split.labels, split.names))
    everything = np.concatenate([split.images.reshape(-1, 3) for split in dataset.splits.values()])
    np.testing.assert_allclose(everything.mean(0, dtype=float), EUROSAT_RGB.mean, atol=0.1)
    assert len({name for split in dataset.splits.values() for name in split.names}) == 27000


@needs_sentinel2
def test_thirteen_bands_from_zip_and_folder(tmp_path):
    """The real 13-band patches, in the layout of TFDS's archive of them."""

    root = sentinel2_dir() / "eurosat_all"
    archive = tmp_path / "EuroSATallBands.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in root.rglob("*.tif"):
            file.write(path, f"ds/images/remote_sensing/otherDatasets/sentinel_2/tif/{path.relative_to(root)}")
    prepared = datasets.load_dataset("eurosat/all", data_dir=str(tmp_path / "data"), eurosat_zip=str(archive))
    unpacked = datasets.load_dataset(f"folder:{root}")
    for dataset in (prepared, unpacked):
        assert {name: len(split) for name, split in dataset.splits.items()} == {
            "train": 56,
            "validation": 16,
            "test": 8,
        }
        for split in dataset.splits.values():
            assert split.images.dtype == np.uint16 and split.images.shape[1:] == (64, 64, 13)
            for image, name in zip(split.images, split.names):
                np.testing.assert_array_equal(image, tifffile.imread(next(root.rglob(name.split("/")[-1]))))


@needs_eurosat
def test_patches_are_decoded_as_pillow_does_and_as_tensorflow_by_default_does_not():
    import io

    import tensorflow as tf
    import tensorflow_datasets as tfds

    builder = tfds.builder("eurosat/rgb", data_dir=eurosat_dir())
    patches = builder.as_dataset(split="train[:1%]", decoders={"image": tfds.decode.SkipDecoding()})
    for patch in patches.as_numpy_iterator():
        pillow = np.asarray(Image.open(io.BytesIO(patch["image"]))).astype(int)
        np.testing.assert_array_equal(images.decode_picture(patch["image"]), pillow)
        assert np.abs(tf.io.decode_image(patch["image"]).numpy() - pillow).max() >= 3
