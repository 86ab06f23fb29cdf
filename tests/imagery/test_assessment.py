"""Accuracy of maps: samples, error matrices, and areas with their uncertainty."""

import csv
import json

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin

from resnetd_tf.errors import InputError
from resnetd_tf.imagery import assessment

geopandas = pytest.importorskip("geopandas")
shapely = pytest.importorskip("shapely")

# The worked example of Olofsson et al. 2014, tables 8 and 9: deforestation, forest gain, stable forest, stable other.
EXAMPLE = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
EXAMPLE_PIXELS = np.array([200_000, 150_000, 3_200_000, 6_450_000])
NAMES = ("deforestation", "gain", "forest", "other")


def test_the_published_example():
    """Areas and intervals to the printed hectare, accuracies to the printed digit."""
    accuracy = assessment.estimate_accuracy(NAMES, EXAMPLE, EXAMPLE_PIXELS * 0.09)
    intervals = 1.96 * accuracy.area_errors
    assert accuracy.areas.round().tolist() == [21_158, 11_686, 285_770, 581_386]
    assert intervals.round().tolist() == [6_158, 3_756, 15_510, 16_282]
    assert accuracy.users_accuracies.round(2).tolist() == [0.88, 0.73, 0.93, 0.96]
    assert (1.96 * accuracy.users_errors).round(2).tolist() == [0.07, 0.10, 0.04, 0.02]
    assert accuracy.producers_accuracies.round(2).tolist() == [0.75, 0.85, 0.93, 0.96]
    assert (1.96 * accuracy.producers_errors).round(2).tolist() == [0.21, 0.25, 0.03, 0.02]
    assert round(accuracy.overall_accuracy, 3) == 0.947 and round(1.96 * accuracy.overall_error, 3) == 0.018
    assert accuracy.shares[0].round(4).tolist() == [0.0176, 0, 0.0013, 0.0011]
    text = assessment.format_accuracy(accuracy)
    assert "overall accuracy: 94.7 ± 1.8 % of the area" in text and "581,386.2 ± 16,281.7 ha" in text


# The example of sits_accuracy in the book of sits (e-sensing.github.io/sitsbook, "Map accuracy assessment"), 2022:
# reference classes by column, mapped classes by row, and their areas in hectares.
SITS_CLASSES = (
    *("bare soil", "burned", "mountainside forest", "forest", "riparian forest", "vegetation", "water"),
    *("seasonally flooded", "wetland"),
)
SITS_EXAMPLE = np.array(
    [
        [415, 65, 0, 0, 0, 10, 3, 1, 15],
        [1, 42, 0, 0, 0, 1, 0, 1, 3],
        [1, 0, 22, 9, 0, 0, 0, 0, 0],
        [0, 0, 95, 680, 3, 19, 2, 0, 3],
        [4, 0, 4, 5, 111, 43, 0, 0, 0],
        [1, 17, 0, 0, 0, 82, 0, 0, 0],
        [0, 0, 0, 0, 3, 0, 121, 1, 0],
        [0, 0, 0, 0, 1, 0, 1, 118, 18],
        [0, 2, 0, 0, 1, 4, 0, 6, 88],
    ]
)
SITS_AREAS = np.array([9537617.8, 124018.1, 113107.2, 13376070.4, 136126.7, 228469.7, 190751.9, 190620.2, 932298.3])


def test_the_example_of_sits():
    accuracy = assessment.estimate_accuracy(SITS_CLASSES, SITS_EXAMPLE, SITS_AREAS)
    assert round(accuracy.overall_accuracy, 2) == 0.84
    assert accuracy.users_accuracies.round(2).tolist() == [0.82, 0.88, 0.69, 0.85, 0.66, 0.82, 0.97, 0.86, 0.87]
    assert accuracy.producers_accuracies.round(2).tolist() == [1, 0.08, 0.05, 1, 0.58, 0.24, 0.67, 0.68, 0.69]
    areas = [7787913.8, 1383784.0, 1665469.0, 11377193.6, 155704.6, 766171.1, 275599.8, 241225.8, 1176018.6]
    np.testing.assert_allclose(accuracy.areas, areas, atol=0.2)
    intervals = [321996.87, 278746.61, 299925.62, 333181.28, 60452.25, 186476.04, 78786.79, 58098.50, 163726.86]
    np.testing.assert_allclose(1.96 * accuracy.area_errors, intervals, rtol=2e-5)


def test_intervals_hold_the_true_areas():
    """Of a thousand maps with known errors, 93 to 97 % have the true area of a class within its interval."""
    generator = np.random.default_rng(0)
    weights = np.array([0.6, 0.3, 0.1])
    truth = np.array([[0.9, 0.07, 0.03], [0.1, 0.85, 0.05], [0.15, 0.1, 0.75]])  # of each class of the map
    true_areas = 1000 * weights @ truth
    contains_truth = []
    for _ in range(1000):
        counts = np.stack([generator.multinomial(size, shares) for size, shares in zip((180, 90, 60), truth)])
        accuracy = assessment.estimate_accuracy(("a", "b", "c"), counts, 1000 * weights)
        contains_truth.append(np.abs(accuracy.areas - true_areas) <= 1.96 * accuracy.area_errors)
    coverage = np.mean(contains_truth, axis=0)
    assert (coverage >= 0.93).all() and (coverage <= 0.97).all()


def test_classes_without_places_are_refused():
    counts = EXAMPLE.copy()
    counts[1] = (0, 1, 0, 0)
    with pytest.raises(InputError, match=r"gain is 1.5 % of the map and has 1 labelled place; .* at least two"):
        assessment.estimate_accuracy(NAMES, counts, EXAMPLE_PIXELS)
    # A class that is not on the map can be a reference class.
    accuracy = assessment.estimate_accuracy(("a", "b"), [[8, 2], [0, 0]], [10.0, 0.0])
    assert accuracy.areas.tolist() == [8, 2] and np.isnan(accuracy.users_accuracies[1])
    assert "-" in assessment.format_accuracy(accuracy)


def write_map(path, values, names=("a", "b", "c"), **profile):
    """Writes a map of classes of 10 m in UTM zone 33, as map.py does."""
    profile = {"crs": "EPSG:32633", "transform": from_origin(5e5, 5e6, 10, 10), "nodata": 255} | profile
    height, width = values.shape
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=1, dtype=values.dtype, **profile
    ) as file:
        file.write(values, 1)
        if names:
            file.update_tags(classes=json.dumps(dict(enumerate(names))))
    return path


@pytest.fixture
def class_map(tmp_path):
    values = np.full((100, 80), 255, "uint8")
    values[:60], values[60:90], values[90:99] = 0, 1, 2
    return write_map(tmp_path / "m_landcover.tif", values)


def test_areas_are_those_of_the_ground(class_map, tmp_path):
    assert assessment.read_class_map(class_map).areas.tolist() == pytest.approx([48, 24, 7.2])
    degrees = {"crs": "EPSG:4326", "transform": from_origin(15, 60, 1e-4, 1e-4)}
    values = np.zeros((100, 100), "uint8")
    areas = assessment.read_class_map(write_map(tmp_path / "degrees.tif", values, **degrees)).areas
    # A degree of longitude has 55.8 km at 60 degrees north, a degree of latitude 111.4 km.
    assert areas[0] == pytest.approx(55.8 * 111.4 / 100, rel=5e-3)


def test_the_sample_is_drawn_by_class(class_map):
    class_map = assessment.read_class_map(class_map)
    sizes = assessment.choose_sample_sizes(class_map, total=300)
    assert sizes.sum() == 300 and sizes.min() >= 50 and sizes[0] > sizes[1] > sizes[2]
    assert abs(assessment.choose_sample_sizes(class_map, standard_error=0.02).sum() - 400) <= 1
    assert assessment.choose_sample_sizes(class_map, total=12).tolist() == [7, 3, 2]
    assert assessment.choose_sample_sizes(class_map, total=100_000).tolist() == [4800, 2400, 720]
    places = assessment.draw_places(class_map, sizes, seed=1)
    drawn = class_map.classes[places[:, 0], places[:, 1]]
    assert np.bincount(drawn).tolist() == sizes.tolist()
    assert len({tuple(place) for place in places.tolist()}) == 300
    assert len(set(drawn[:30])) == 3  # The order does not tell the classes.
    np.testing.assert_array_equal(places, assessment.draw_places(class_map, sizes, seed=1))
    assert not np.array_equal(places, assessment.draw_places(class_map, sizes, seed=2))


def label(sample, class_path, correct=lambda number: True):
    """Labels a sample with the classes of its map, or the next class where it is to be wrong."""
    with rasterio.open(class_path) as file:
        names = list(json.loads(file.tags()["classes"]).values())
        centres = sample.geometry.centroid
        classes = [int(value[0]) for value in file.sample(zip(centres.x, centres.y))]
    return [
        names[index if correct(number) else (index + 1) % len(names)] for number, index in zip(sample["id"], classes)
    ]


def test_from_a_map_to_its_areas(program, class_map, tmp_path):
    scene = np.zeros((3, 100, 80), "uint8") + np.arange(80, dtype="uint8")
    scene_path = tmp_path / "scene.tif"
    options = {"crs": "EPSG:32633", "transform": from_origin(5e5, 5e6, 10, 10), "photometric": "RGB"}
    with rasterio.open(
        scene_path, "w", driver="GTiff", height=100, width=80, count=3, dtype="uint8", **options
    ) as file:
        file.write(40 + scene)
    arguments = ("assess.py", str(class_map), "--design", "--samples=60", f"--scene={scene_path}")
    result = program(*arguments, "--rendering=eurosat")
    assert result.returncode == 0, result.stderr
    assert "60 places, drawn at random within each class" in result.stdout
    sample = geopandas.read_file(tmp_path / "m_sample.gpkg")
    assert list(sample["id"]) == list(range(1, 61)) and sample.crs.to_epsg() == 32633
    assert sample.area.unique().tolist() == [100.0] and not sample["reference"].any()
    with (tmp_path / "m_sample.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["picture"] for row in rows] == list(sample["picture"])
    with Image.open(tmp_path / rows[0]["picture"]) as picture:
        assert picture.size == (512, 512)
    second_result = program(*arguments)
    assert second_result.returncode == 2 and "may hold labels" in second_result.stderr

    sample["reference"] = label(sample, class_map, lambda number: number % 5)
    sample.loc[0, "reference"] = None
    sample.to_file(tmp_path / "labelled.gpkg")
    result = program("assess.py", str(class_map), f"--reference={tmp_path / 'labelled.gpkg'}")
    assert result.returncode == 0, result.stderr
    assert "59 labelled places; 1 without a label" in result.stdout
    content = json.loads((tmp_path / "m_accuracy.json").read_text())
    assert np.sum(content["counts"]) == 59 and sum(content["areas"]) == pytest.approx(79.2)
    assert 0.6 < content["overall_accuracy"] < 0.95 and content["names"] == ["a", "b", "c"]
    with (tmp_path / "m_accuracy.csv").open() as file:
        assert [row["class"] for row in csv.DictReader(file)] == ["a", "b", "c"]
    assert (tmp_path / "m_error_matrix.csv").read_text().startswith("map class,a,b,c\na,")
    assert (tmp_path / "m_accuracy.png").stat().st_size > 10_000


@pytest.mark.parametrize("suffix", [".csv", ".geojson", ".shp"])
def test_references_of_other_formats(class_map, tmp_path, suffix):
    class_map = assessment.read_class_map(class_map)
    places = assessment.draw_places(class_map, np.array([10, 10, 10]))
    assessment.write_sample(class_map, places, tmp_path / "m")
    sample = geopandas.read_file(tmp_path / "m_sample.gpkg")
    sample["reference"] = label(sample, class_map.path)
    path = tmp_path / f"labelled{suffix}"
    if suffix == ".csv":
        sample.drop(columns="geometry").to_csv(path, index=False)
    else:
        sample.to_crs("EPSG:4326").to_file(path)
    counts, _, _ = assessment.read_reference(path, class_map)
    assert counts.tolist() == np.diag([10, 10, 10]).tolist()


def test_spreadsheets_may_use_semicolons_and_decimal_commas(class_map, tmp_path):
    text = "longitude;latitude;cover;note\n15,0;45,15; A ;x\n15,0001;45,15;b;\n;;;\n"
    (tmp_path / "own.csv").write_text(text, encoding="utf-8-sig")
    counts, _, _ = assessment.read_reference(tmp_path / "own.csv", assessment.read_class_map(class_map), "cover")
    assert counts.sum() == 2 and counts[:, 0].sum() == counts[:, 1].sum() == 1


def test_numbers_of_classes_may_be_stored_as_floats(tmp_path):
    path = write_map(tmp_path / "m.tif", np.arange(64, dtype="uint8").reshape(8, 8) % 2, None)
    points = geopandas.points_from_xy([500_005, 500_015], [4_999_995, 4_999_995], crs="EPSG:32633")
    geopandas.GeoDataFrame({"n": [0.0, 1.0]}, geometry=points).to_file(tmp_path / "own.gpkg")
    counts, _, _ = assessment.read_reference(tmp_path / "own.gpkg", assessment.read_class_map(path), "n")
    assert counts.tolist() == [[1, 0], [0, 1]]


def test_several_places_from_elsewhere_in_one_pixel(program, tmp_path):
    """They are no more than a sample, though there are more of them than pixels."""
    path = write_map(tmp_path / "m.tif", np.arange(16, dtype="uint8").reshape(4, 4) % 2)
    rng = np.random.default_rng(0)
    x, y = 500_000 + 40 * rng.random(60), 5_000_000 - 40 * rng.random(60)
    points = geopandas.GeoSeries(geopandas.points_from_xy(x, y), crs="EPSG:32633")
    names = np.array(["a", "b"])[((x - 500_000) // 10).astype(int) % 2]
    names[:5] = "a"
    geopandas.GeoDataFrame({"reference": names}, geometry=points).to_file(tmp_path / "own.gpkg")
    result = program("assess.py", path, f"--reference={tmp_path / 'own.gpkg'}")
    assert result.returncode == 0 and not result.stderr, result.stderr
    accuracy = json.loads((tmp_path / "m_accuracy.json").read_text())
    assert 0.01 < accuracy["overall_error"] < 0.1


@pytest.mark.parametrize("fault", ["moved", "repeated"])
def test_drawn_places_are_taken_as_they_were_drawn(class_map, tmp_path, fault):
    class_map = assessment.read_class_map(class_map)
    assessment.write_sample(class_map, assessment.draw_places(class_map, np.array([5, 5, 5])), tmp_path / "m")
    with (tmp_path / "m_sample.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["reference"] = "a"
    if fault == "moved":
        rows[0]["longitude"] = f"{float(rows[0]['longitude']):.3f}"
    else:
        rows.append(rows[1])
    with (tmp_path / "labels.csv").open("w") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(InputError, match="been rounded" if fault == "moved" else "repeats an earlier place"):
        assessment.read_reference(tmp_path / "labels.csv", class_map)


def test_a_class_that_is_visited_whole_has_no_error():
    counts, pixels = np.array([[30, 10], [0, 1]]), np.array([4000, 1])
    accuracy = assessment.estimate_accuracy(("a", "b"), counts, pixels * 0.01, pixels)
    assert accuracy.users_errors[1] == 0 and accuracy.users_errors[0] > 0
    everything = assessment.estimate_accuracy(("a", "b"), np.array([[30, 10], [0, 1]]), [0.4, 0.01], np.array([40, 1]))
    assert everything.overall_error == 0 and everything.area_errors.tolist() == [0, 0]
    assert "too narrow for a, b" in assessment.format_accuracy(accuracy)


def test_masked_pixels_are_no_class(tmp_path):
    path = write_map(tmp_path / "m.tif", np.zeros((8, 8), "uint8"), nodata=None)
    with rasterio.open(path, "r+") as file:
        file.write_mask(np.arange(64).reshape(8, 8) >= 16)
    assert assessment.read_class_map(path).pixel_counts.tolist() == [48, 0, 0]


def test_areas_are_those_that_the_map_counts(tmp_path):
    """Cells on the edge of a scene cover other ground too."""
    path = write_map(tmp_path / "m.tif", np.zeros((8, 8), "uint8"))
    with rasterio.open(path, "r+") as file:
        file.update_tags(hectares=json.dumps({"a": 0.6, "b": 0, "c": 0}))
    assert assessment.read_class_map(path).areas.tolist() == [0.6, 0, 0]


def test_a_picture_of_a_cell_that_reaches_beyond_the_scene(program, tmp_path):
    path = write_map(tmp_path / "m.tif", np.zeros((3, 3), "uint8"), transform=from_origin(5e5, 5e6, 320, 320))
    options = {"crs": "EPSG:32633", "transform": from_origin(5e5, 5e6, 10, 10), "photometric": "RGB", "dtype": "uint8"}
    with rasterio.open(tmp_path / "s.tif", "w", driver="GTiff", height=70, width=70, count=3, **options) as file:
        file.write(np.full((3, 70, 70), 90, "uint8"))
    arguments = ("assess.py", str(path), "--design", f"--scene={tmp_path / 's.tif'}", "--rendering=eurosat")
    result = program(*arguments)
    assert result.returncode == 0, result.stderr
    assert "9 places, every pixel of the map" in result.stdout and not result.stderr
    assert len(list((tmp_path / "m_places").iterdir())) == 9
    result = program("assess.py", str(path), "--design", "--overwrite", "--area=15.0,45.0,15.006,45.2")
    assert result.returncode == 0 and "--area=15.0,45.0,15.006,45.2" in result.stdout.splitlines()[-1]
    assert not (tmp_path / "m_places").exists()
    (tmp_path / "m_places").mkdir()
    (tmp_path / "m_places/notes.txt").write_text("mine")
    result = program("assess.py", str(path), "--design", "--overwrite")
    assert result.returncode == 2 and "holds notes.txt" in result.stderr


def test_places_of_ones_own(class_map, tmp_path):
    """Points from a field campaign: some lie outside, and nothing tells how they were drawn."""
    points = geopandas.points_from_xy([15.0, 15.0005, 17.0], [45.15, 45.1505, 45.0], crs="EPSG:4326")
    geopandas.GeoDataFrame({"cover": ["a", "b", "a"]}, geometry=points).to_file(tmp_path / "own.gpkg")
    counts, _, note = assessment.read_reference(tmp_path / "own.gpkg", assessment.read_class_map(class_map), "cover")
    assert counts.sum() == 2 and "1 outside of the map" in note and "not drawn by assess.py" in note


def test_bad_maps_and_labels(bad_input, class_map, tmp_path):
    def refuse(*arguments):
        return bad_input("assess.py", *map(str, arguments))

    assert "give --design" in refuse(class_map)
    assert "give one map" in refuse("--design")
    floats = write_map(tmp_path / "floats.tif", np.zeros((8, 8), "float32"), nodata=None)
    assert "one band of whole numbers" in refuse(floats, "--design")
    unplaced = write_map(tmp_path / "unplaced.tif", np.zeros((8, 8), "uint8"), crs=None)
    assert "no coordinate reference system" in refuse(unplaced, "--design")
    assert "no pixel has a class within --area" in refuse(class_map, "--design", "--area=1,1,2,2")
    many = np.arange(400, dtype="uint16").reshape(20, 20)
    assert "has 400 classes" in refuse(write_map(tmp_path / "many.tif", many, None, nodata=None), "--design")
    odd = np.full((8, 8), 7, "uint8")
    assert "has the value 7" in refuse(write_map(tmp_path / "odd.tif", odd), "--design")
    (tmp_path / "labels.csv").write_text("longitude,latitude,reference,map\n15.0,45.15,x,\n")
    assert "x is no class of the map, which has a, b, c" in refuse(class_map, f"--reference={tmp_path / 'labels.csv'}")
    (tmp_path / "labels.csv").write_text("longitude,latitude,reference,map\n15.0,45.15,a,0123\n")
    assert "drawn from another map" in refuse(class_map, f"--reference={tmp_path / 'labels.csv'}")
    (tmp_path / "labels.csv").write_text("lon,lat,reference\n15.0,45.15,a\n")
    assert "no column latitude and longitude" in refuse(class_map, f"--reference={tmp_path / 'labels.csv'}")
    (tmp_path / "labels.csv").write_text("longitude,latitude,cover\n15.0,45.15,a\n")
    assert "has no attribute reference, but longitude" in refuse(class_map, f"--reference={tmp_path / 'labels.csv'}")
    (tmp_path / "labels.csv").write_text("longitude,latitude,reference\nx,45.15,a\n")
    assert "row 2 has the longitude 'x'" in refuse(class_map, f"--reference={tmp_path / 'labels.csv'}")
    (tmp_path / "labels.csv").write_text("longitude,latitude,reference\n15.0,45.15,\n16.0,45.15,a\n")
    message = refuse(class_map, f"--reference={tmp_path / 'labels.csv'}")
    assert "no place counts: 1 without a label; 1 outside of the map" in message
    places = geopandas.GeoDataFrame({"reference": [""]}, geometry=[shapely.Point(15.0, 45.15)], crs=4326)
    places.to_file(tmp_path / "june_sample.gpkg", layer="sample")
    places.assign(reference="a").to_file(tmp_path / "june_sample.gpkg")  # geopandas names a layer as the file
    message = refuse(class_map, f"--reference={tmp_path / 'june_sample.gpkg'}")
    assert "1 without a label" in message and "--layer reads another layer of the file: june_sample" in message
    assert "no such file" in refuse(class_map, "--reference=missing.gpkg")
    assert "--standard_error=nan" in refuse(class_map, "--design", "--standard_error=nan")
    assert "give what the names of files begin with" in refuse(class_map, "--design", "--output=.")
    assert "--bands has no effect beside --reference" in refuse(class_map, "--reference=x.gpkg", "--bands=B04")
    twins = write_map(tmp_path / "twins.tif", np.zeros((8, 8), "uint8"), ("a", "b", "a"))
    assert "two of its classes have the name a" in refuse(twins, "--design")
    degrees = {"crs": "EPSG:4326", "transform": from_origin(15, 70, 0.5, 0.5)}
    wide = write_map(tmp_path / "wide.tif", np.zeros((60, 60), "uint8"), **degrees)
    assert "equal-area projection" in refuse(wide, "--design")
    empty = write_map(tmp_path / "empty.tif", np.full((8, 8), 255, "uint8"))
    assert "no pixel has a class" in refuse(empty, "--design")
    mistagged = write_map(tmp_path / "mistagged.tif", np.zeros((8, 8), "uint8"), None)
    with rasterio.open(mistagged, "r+") as file:
        file.update_tags(classes="forest,water")
    assert "cannot be read as a map of classes" in refuse(mistagged, "--design")
    assert not list(tmp_path.glob("*_accuracy*"))
