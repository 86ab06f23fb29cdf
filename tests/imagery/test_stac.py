"""STAC items and searches, from files and from an API on this machine."""

import contextlib
import functools
import http.server
import json
import pathlib
import re
import threading
import warnings

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

pytest.importorskip("pystac_client")
from resnetd_tf.errors import InputError
from resnetd_tf.imagery import stac
from resnetd_tf.imagery.products import open_scene
from resnetd_tf.sentinel2 import RGB_BANDS

WEST, NORTH, SIDE = 500_000, 5_000_000, 1024  # of the items, in UTM zone 33
AREA = "15.02,45.10,15.04,45.12"
SCENE_BOX = (15.0, 45.06, 15.13, 45.16)


def write_item(folder, name, *, level=1500, cloud_cover=5.0, cloudy=None, properties=None, fields=None):
    """Writes an item with its files, as Earth Search lays them out; returns the path of the item.

    Args:
        folder: Folder of the files.
        name: The id of the item.
        level: What its files store.
        cloud_cover: In per cent.
        cloudy: Slice of the columns of its scene classification that are clouds.
        properties: More properties.
        fields: What its assets say of their numbers.
    """
    (folder / name).mkdir(parents=True)
    generator = np.random.default_rng(0)
    assets = {}
    numbers = {"coastal": 60, "blue": 10, "green": 10, "red": 10, "nir": 10, "swir16": 20, "scl": 20}
    for key, metres in numbers.items():
        side = SIDE * 10 // metres
        pixels = generator.integers(level, level + 100, (side, side)).astype("uint16")
        if key == "scl":
            pixels = np.full((side, side), 4, "uint8")
            if cloudy:
                pixels[:, cloudy] = 9
        path = folder / name / f"{key}.tif"
        profile = {"crs": "EPSG:32633", "transform": from_origin(WEST, NORTH, metres, metres), "dtype": pixels.dtype}
        with rasterio.open(
            path, "w", driver="COG", width=side, height=side, count=1, nodata=0, blocksize=256, **profile
        ) as file:
            file.write(pixels, 1)
        assets[key] = {"href": f"./{key}.tif", "type": "image/tiff; application=geotiff", "gsd": metres}
        if key != "scl":
            assets[key]["eo:bands"] = [{"name": key, "common_name": key}]
            assets[key] |= fields or {}
    assets["visual"] = {"href": "./visual.tif", "eo:bands": [{"name": band} for band in ("red", "green", "blue")]}
    west, south, east, north = SCENE_BOX
    ring = [(west, south), (east, south), (east, north), (west, north), (west, south)]
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": SCENE_BOX,
        "properties": {"datetime": "2024-06-01T10:00:00Z", "eo:cloud_cover": cloud_cover} | (properties or {}),
        "links": [],
        "assets": assets,
        "collection": "sentinel-2-l2a",
    }
    path = folder / name / "item.json"
    path.write_text(json.dumps(item))
    return path


class CatalogHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files with ranges, as object stores do, and answers a STAC API's searches with all items there are."""

    def __init__(self, *arguments, requests, **options):
        self.requests = requests
        super().__init__(*arguments, **options)

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path == "/":
            address = f"http://{self.headers['Host']}"
            links = [
                {"rel": "search", "href": f"{address}/search", "method": "POST", "type": "application/geo+json"},
                {"rel": "root", "href": address},
            ]
            conforms = ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"]
            catalog = {"type": "Catalog", "stac_version": "1.0.0", "id": "test", "description": "test"}
            return self._answer(json.dumps({**catalog, "links": links, "conformsTo": conforms}).encode())
        if "expired" in self.path:
            return self.send_error(403)
        path = pathlib.Path(self.directory, self.path.split("?")[0].lstrip("/"))
        if not path.is_file():
            return self.send_error(404)
        content = path.read_bytes()
        requested = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not requested:
            return self._answer(content)
        start, end = int(requested[1]), min(int(requested[2] or len(content) - 1), len(content) - 1)
        headers = {"Content-Range": f"bytes {start}-{end}/{len(content)}"}
        self._answer(content[start : end + 1], 206, headers)

    def do_POST(self):
        self.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        items = []
        for path in sorted(pathlib.Path(self.directory).glob("*/item.json")):
            item = json.loads(path.read_text())
            href = f"http://{self.headers['Host']}/{path.parent.name}/item.json"
            items.append(item | {"links": [{"rel": "self", "href": href}]})
        self._answer(json.dumps({"type": "FeatureCollection", "features": items, "links": []}).encode())

    def do_HEAD(self):
        if "expired" in self.path:
            return self.send_error(403)
        path = pathlib.Path(self.directory, self.path.split("?")[0].lstrip("/"))
        if not path.is_file():
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(path.stat().st_size))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()

    def _answer(self, content, status=200, headers=None):
        self.requests.append(len(content))
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), "Accept-Ranges": "bytes", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(content)


@contextlib.contextmanager
def served(folder):
    """Serves a folder; gives the address, and a list of the sizes of all answers and of the searches."""
    requests = []
    handler = functools.partial(CatalogHandler, directory=str(folder), requests=requests)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", requests
        server.shutdown()


def read(path):
    file = rasterio.open(path)
    return file.read(), file


def test_an_area_of_an_item_is_read_over_http(tmp_path):
    write_item(tmp_path / "data", "S2B_33TVK_20240601_0_L2A")
    with served(tmp_path / "data") as (address, requests):
        item = f"{address}/S2B_33TVK_20240601_0_L2A/item.json"
        path = stac.fetch_scene(item, f"{tmp_path}/out_", area=AREA)
    assert path.name == "out_S2B_33TVK_20240601_0_L2A.tif"
    numbers, file = read(path)
    assert file.descriptions == ("B02", "B03", "B04", "B08") and file.dtypes[0] == "uint16" and file.nodata == 0
    with rasterio.open(tmp_path / "data/S2B_33TVK_20240601_0_L2A/red.tif") as stored:
        window = rasterio.windows.from_bounds(*file.bounds, transform=stored.transform)
        np.testing.assert_array_equal(numbers[2], stored.read(1, window=window))
    assert 0 < sum(requests) < 2e6  # of 9 MB


def test_offset_and_scale_of_an_item(tmp_path):
    """By the asset's own fields, by the baseline, and not where the catalogue has subtracted the offset already."""
    fields = {"raster:bands": [{"scale": 0.0001, "offset": -0.1, "nodata": 0}]}
    cases = [
        ({}, fields, 500),
        ({"earthsearch:boa_offset_applied": True}, fields, 1500),
        ({"s2:processing_baseline": "05.10"}, {}, 500),
        ({"s2:processing_baseline": "05.10", "earthsearch:boa_offset_applied": True}, {}, 1500),
        ({"s2:processing_baseline": "02.14"}, {}, 1500),
    ]
    for index, (properties, asset_fields, expected) in enumerate(cases):
        item = write_item(tmp_path, f"item{index}", properties=properties, fields=asset_fields)
        numbers, _ = read(stac.fetch_scene(str(item), f"{tmp_path}/{index}_", area=AREA))
        assert expected <= numbers.min() and numbers.max() < expected + 100, index
    bad = write_item(tmp_path, "bad", fields={"raster:bands": [{"scale": "x"}]})
    with pytest.raises(InputError, match=r"bad: cannot be read as a STAC item .*'x'"):
        stac.fetch_scene(str(bad), f"{tmp_path}/bad_", area=AREA)


def test_a_mosaic_takes_the_clearest_pixels(tmp_path, capsys):
    """The clearest item has clouds in the west, the second one fills them; a third one is too cloudy."""
    data = tmp_path / "data"
    write_item(data, "second", level=3000, cloud_cover=10)
    write_item(data, "clearest", level=1000, cloud_cover=2, cloudy=slice(0, 110))
    write_item(data, "cloudy", level=5000, cloud_cover=90)
    with served(data) as (address, requests):
        options = {"area": AREA, "date": "2024-06-01/2024-06-30", "api": address}
        path = stac.fetch_scene("stac:sentinel-2-l2a", f"{tmp_path}/", **options)
        clouds_kept, _ = read(stac.fetch_scene("stac:sentinel-2-l2a", f"{tmp_path}/kept_", keep_clouds=True, **options))
        with pytest.raises(InputError, match="none with at most 1 % clouds"):
            stac.fetch_scene("stac:sentinel-2-l2a", f"{tmp_path}/x", max_cloud=1, **options)
        with pytest.raises(InputError, match="a search needs --area and --date"):
            stac.fetch_scene("stac:sentinel-2-l2a", f"{tmp_path}/x", api=address)
    (search, *_) = [request for request in requests if isinstance(request, dict)]
    assert search["collections"] == ["sentinel-2-l2a"] and search["bbox"] == [15.02, 45.1, 15.04, 45.12]
    assert path.name == "clearest_L2A.tif"
    numbers, file = read(path)
    column = round((WEST + 2200 - file.bounds.left) / 10)  # where the clouds end
    assert numbers[:, :, : column - 1].min() >= 3000 and numbers[:, :, column + 1 :].max() < 1100
    assert clouds_kept.max() < 1100
    assert "2 items, clearest (2024-06-01), second (2024-06-01)" in capsys.readouterr().out


def test_maps_of_items(program, tmp_path):
    item = write_item(tmp_path, "S2B_33TVK_20240601_0_L2A", level=600)
    arguments = ("map.py", str(item), "--model=eurosat", f"--area={AREA}", f"--output={tmp_path}/maps/june")
    result = program(*arguments, "--applicability=off")
    assert result.returncode == 0, result.stderr
    assert "L2A (by its name): added" in result.stdout and "NDWI" in result.stdout
    assert (tmp_path / "maps/june_landcover.tif").is_file()
    assert "left out by the scene classification" in result.stdout
    repeated = program(*arguments, "--applicability=off")
    assert repeated.returncode == 2 and "exists" in repeated.stderr


def test_bad_items(tmp_path, bad_input):
    data = tmp_path / "data"
    item = write_item(data, "item")
    content = json.loads(item.read_text())
    del content["assets"]["green"]
    (data / "no_green").mkdir()
    (data / "no_green/item.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="item has no B03, but B01, B02, B04, B08, B11"):
        stac.fetch_scene(str(data / "no_green/item.json"), f"{tmp_path}/x", area=AREA)
    with pytest.raises(InputError, match="does not reach there"):
        stac.fetch_scene(str(item), f"{tmp_path}/x", area="1,2,3,4")
    with served(data) as (address, _):
        for path, message in (
            ("none/item.json", "cannot be read as STAC"),
            ("item/red.tif", "cannot be read as STAC"),
        ):
            with pytest.raises(InputError, match=message):
                stac.fetch_scene(f"{address}/{path}", f"{tmp_path}/x", area=AREA)
        with pytest.raises(InputError, match="cannot be read as STAC"):
            stac.fetch_scene("stac:x", f"{tmp_path}/x", area=AREA, date="2024", api=f"{address}/item")
        for asset in content["assets"].values():
            asset["href"] = f"{address}/expired.tif?token=secret"
        content["assets"]["green"] = content["assets"]["red"] | {"eo:bands": [{"name": "green"}]}
        (data / "no_green/item.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match="its token may have expired") as caught:
            stac.fetch_scene(str(data / "no_green/item.json"), f"{tmp_path}/x", area=AREA)
        assert "secret" not in str(caught.value)
    assert not list(tmp_path.glob("x*"))
    assert "--date has no effect without a search" in bad_input("map.py", "scene.tif", "--date=2024-06-01")
    searches = ("--before=stac:c", "--after=stac:c", "--date=2024", f"--output={tmp_path}/x")
    assert "take no searches" in bad_input("map.py", *searches)
    (tmp_path / "five.json").write_text("5")
    assert "five.json" in bad_input("map.py", str(tmp_path / "five.json"))


def test_the_offset_is_subtracted_once_though_the_name_has_a_baseline(tmp_path):
    name = "S2B_MSIL2A_20250302T095029_N0511_R079_T33UXP_20250302T104753"
    item = write_item(tmp_path, name, properties={"s2:processing_baseline": "05.11"})
    path = stac.fetch_scene(str(item), f"{tmp_path}/", area=AREA)
    pixels, valid = open_scene(path).read(Window(0, 0, 64, 64))
    assert valid.all() and pixels.min() >= 500 and pixels.max() < 600
    reduced = write_item(tmp_path, "reduced", level=300, properties={"s2:processing_baseline": "05.11"})
    with pytest.raises(InputError, match="100 % of its B02 is below -250 DN by the offset -1000"):
        stac.fetch_scene(str(reduced), f"{tmp_path}/x", area=AREA)


def rewrite(item, band, change, **profile):
    """Replaces the pixels of an item's file, by a function of the old ones."""
    path = item.parent / f"{band}.tif"
    with rasterio.open(path) as file:
        pixels, old_profile = change(file.read(1)), file.profile
    with rasterio.open(path, "w", **{**old_profile, "driver": "GTiff", "dtype": pixels.dtype, **profile}) as file:
        file.write(pixels, 1)
        return file


def test_what_the_files_of_an_item_say(tmp_path):
    """Water may be 0 in the near infrared; NaN is no data; scale and offset may be those of the file."""
    item = write_item(tmp_path, "item")
    rewrite(item, "nir", np.zeros_like)
    numbers, _ = read(stac.fetch_scene(str(item), f"{tmp_path}/zero_", area=AREA))
    assert numbers[0].min() >= 1500 and numbers[3].max() == 1
    item = write_item(tmp_path, "scaled")
    for band in ("red", "green", "blue", "nir"):
        rewrite(item, band, lambda pixels: np.where(pixels % 2, pixels / 10_000, np.nan).astype("float32"), nodata=None)
    with pytest.raises(InputError, match=r"has numbers up to 0\.16, reflectances of which the item says no scale"):
        stac.fetch_scene(str(item), f"{tmp_path}/x", area=AREA)
    for band in ("red", "green", "blue", "nir"):
        with rasterio.open(item.parent / f"{band}.tif", "r+") as file:
            file.scales, file.offsets = (10_000,), (-1000,)
    numbers, _ = read(stac.fetch_scene(str(item), f"{tmp_path}/file_", area=AREA))
    assert numbers.min() == 0 and numbers[numbers > 0].min() >= 500 and numbers.max() < 600


def test_a_file_is_kept_where_nothing_clear_is_found(tmp_path):
    item = write_item(tmp_path, "item")
    path = stac.fetch_scene(str(item), f"{tmp_path}/", area=AREA)
    rewrite(item, "scl", lambda pixels: np.full_like(pixels, 9))
    with pytest.raises(InputError, match="no item shows a clear pixel"):
        stac.fetch_scene(str(item), f"{tmp_path}/", area=AREA, overwrite=True)
    assert path.is_file()
    with pytest.raises(InputError, match="does not reach there"):
        stac.fetch_scene(str(item), f"{tmp_path}/new/", area="14.0,44.5,14.1,44.6")
    assert not (tmp_path / "new").exists()


def test_files_in_degrees_are_brought_into_metres(tmp_path):
    item = write_item(tmp_path, "item")
    for band in ("red", "green", "blue", "nir", "scl"):
        path = item.parent / f"{band}.tif"
        with rasterio.open(path) as file, WarpedVRT(file, crs="EPSG:4326") as warped:
            pixels, profile = warped.read(1), warped.profile
        with rasterio.open(path, "w", **{**profile, "driver": "GTiff"}) as file:
            file.write(pixels, 1)
    numbers, file = read(stac.fetch_scene(str(item), f"{tmp_path}/", area=AREA))
    assert file.crs.to_epsg() == 32633 and file.res == (10, 10)
    assert numbers[:, 70:-70, 70:-70].min() > 1400


def test_an_area_is_cut_to_the_items(tmp_path):
    numbers, _ = read(stac.fetch_scene(str(write_item(tmp_path, "item")), f"{tmp_path}/", area="10,40,20,50"))
    assert numbers.shape == (4, SIDE, SIDE)


def test_boxes_of_searches_across_180_degrees(tmp_path):
    assert stac._search_box("179.9,-17,-179.9,-16.9") == [179.9, -17, -179.9, -16.9]
    parts = [[[(179.9, 1), (180, 1), (180, 2), (179.9, 1)]], [[(-180, 1), (-179.9, 1), (-180, 2), (-180, 1)]]]
    path = tmp_path / "area.geojson"
    path.write_text(json.dumps({"type": "MultiPolygon", "coordinates": parts}))
    assert stac._search_box(str(path)) == [179.9, 1, -179.9, 2]


def test_items_that_lack_what_others_have_are_left_out(tmp_path):
    items = [
        stac._read_item(item)
        for name in ("a", "b")
        for item in stac._find_items(str(write_item(tmp_path, name)), None, None, 20, "")
    ]
    del items[0].assets["B04"]
    selected, bands = stac._select_items("search", items, RGB_BANDS)
    assert [item.name for item in selected] == ["b"] and bands == ["B02", "B03", "B04", "B08"]
    assert not stac.is_remote(str(tmp_path / "a/red.tif"))


def test_azure_addresses_are_signed(tmp_path, monkeypatch):
    """Planetary Computer's files need a token, which its own package asks for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import planetary_computer.sas
    monkeypatch.setattr(
        planetary_computer.sas,
        "get_token",
        lambda account, container, **_: planetary_computer.sas.SASToken(
            **{"token": f"sig={account}.{container}", "msft:expiry": "2099-01-01T00:00:00Z"}
        ),
    )
    item = write_item(tmp_path, "item")
    content = json.loads(item.read_text())
    content["assets"]["B02"] = content["assets"].pop("blue") | {
        "href": "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/B02.tif"
    }
    item.write_text(json.dumps(content))
    (signed_item,) = stac._find_items(str(item), None, None, 20, "")
    address = stac._read_item(signed_item).assets["B02"].address
    assert address.endswith("B02.tif?sig=sentinel2l2a01.sentinel2-l2")
