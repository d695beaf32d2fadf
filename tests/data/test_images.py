"""Images from files, folders, IDX files and tables."""

import gzip
import io
import struct
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from data.reading import read, told
from PIL import Image, ImageOps
from support import image_files

from launcher.config.errors import UserError
from launcher.data import BadRow, _files, _images, arrow, hub, image_folder, jsonl, mnist, parquet

COLUMNS = ("image", "label")


def encoded(image, format_="PNG", **options):
    out = io.BytesIO()
    image.save(out, format_, **options)
    return out.getvalue()


@pytest.mark.parametrize(
    ("mode", "pixel", "expected"),
    [
        ("1", 1, [255]),
        ("L", 7, [7]),
        ("LA", (7, 255), [7]),
        ("LA", (7, 0), [255]),  # what is transparent lies on white
        ("RGB", (1, 2, 3), [1, 2, 3]),
        ("RGBA", (1, 2, 3, 255), [1, 2, 3]),
        ("RGBA", (1, 2, 3, 0), [255, 255, 255]),
        ("I;16", 515, [2]),
        ("I;16", 200, [0]),
        ("I;16", 65535, [255]),
    ],
)
def test_an_image_is_8_bits_of_grey_or_of_three_colours(mode, pixel, expected):
    found = _images.decode(encoded(Image.new(mode, (3, 2), pixel)))
    assert found.dtype == np.uint8
    assert found.tolist() == [[expected] * 3] * 2


def test_a_palette_becomes_its_colours_and_cmyk_is_colour():
    palette = Image.new("RGB", (3, 2), (10, 20, 30)).quantize(4)
    assert palette.mode == "P"
    assert _images.decode(encoded(palette))[0, 0].tolist() == [10, 20, 30]
    assert _images.decode(encoded(Image.new("CMYK", (3, 2)), "TIFF"))[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_the_way_its_camera_was_held(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    given = encoded(Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3)), exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(given))))
    assert np.array_equal(_images.decode(given)[..., 0], expected)


def test_broken_exif_is_passed_over():
    """EXIF with a rotation beside an entry that cannot be rewritten, and EXIF that cannot be read."""
    width, turn = struct.pack("<HHIi", 0x0100, 9, 1, -1), struct.pack("<HHII", 0x0112, 3, 1, 6)
    broken = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + width + turn + bytes(4)
    assert _images.decode(encoded(Image.new("L", (3, 2)), "JPEG", exif=broken)).shape == (3, 2, 1)
    with mock.patch.object(Image.Image, "getexif", side_effect=struct.error):
        assert _images.decode(encoded(Image.new("L", (3, 2)), "JPEG", exif=broken)).shape == (2, 3, 1)


def test_whatever_a_decoder_raises_makes_a_broken_image_but_a_want_of_memory():
    content = encoded(Image.new("L", (3, 2)))
    for error, becomes in ((KeyError, ValueError), (MemoryError, MemoryError)):
        with mock.patch.object(Image.Image, "convert", side_effect=error), pytest.raises(becomes):
            _images.decode(content)


@pytest.mark.parametrize(("pixel", "expected"), [(200, 200), (515, 2), (65535, 255), (2**20, 255)])
def test_whole_numbers_of_32_bits_may_be_bytes(pixel, expected):
    assert _images.decode(encoded(Image.new("I", (3, 2), pixel), "TIFF")).tolist() == [[[expected]] * 3] * 2


def test_grey_of_which_one_shade_is_transparent_stays_grey():
    found = _images.decode(encoded(Image.new("L", (3, 2), 7), transparency=7))
    assert found.tolist() == [[[255]] * 3] * 2


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty"),
        (b"no image at all", "is no image of a known format"),
        (encoded(Image.effect_noise((60, 60), 50))[:500], "is a broken image: "),
        (encoded(Image.effect_noise((60, 60), 50), "JPEG")[:500], "is a broken image: "),
        (encoded(Image.new("F", (2, 2)), "TIFF"), "its pixels are fractions"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(content, what):
    with pytest.raises(ValueError, match=what):
        _images.decode(content)


# Folders


def test_a_folder_that_ends_like_an_image_is_none_and_a_file_that_cannot_be_read_is_a_bad_row(tmp_path):
    image_files.folder(tmp_path, 2)
    (tmp_path / "dark/odd.png").mkdir()
    assert len(read(image_folder, of_folder(tmp_path), *COLUMNS)) == 2
    with mock.patch.object(image_folder, "decode", side_effect=PermissionError(13, "Permission denied")):
        first = told(read(image_folder, of_folder(tmp_path), *COLUMNS))[0]
    assert first == f"{tmp_path}/dark/000.png: cannot be read: Permission denied"
    with pytest.raises(UserError, match=r"gone\.png: cannot be read: No such file or directory"):
        _files.file_hash(tmp_path / "gone.png")


def of_folder(path):
    return image_folder.Config(path=path if isinstance(path, list) else str(path))


def test_a_folder_is_the_label_of_its_images_however_deep_they_lie(tmp_path):
    image_files.folder(tmp_path / "set", 4)
    image_files.save(image_files.pixels(9, channels=3), tmp_path / "set/light/more/deep.PNG")
    (tmp_path / "set/light/notes.txt").write_text("no image")
    rows = read(image_folder, of_folder(tmp_path / "set"), *COLUMNS)
    assert [row["label"] for row in rows] == ["dark"] * 2 + ["light"] * 3
    assert [row["image"].shape[2] for row in rows] == [1, 1, 1, 1, 3]
    assert all(np.array_equal(row["image"], image_files.pixels(n)) for row, n in zip(rows, (0, 2, 1, 3), strict=False))


def test_several_folders_are_read_one_after_the_other(tmp_path):
    for name, count in (("b", 2), ("a", 4)):
        image_files.folder(tmp_path / name, count)
    assert [row["label"] for row in read(image_folder, of_folder(f"{tmp_path}/*"), *COLUMNS)] == [
        *["dark", "dark", "light", "light"],
        *["dark", "light"],
    ]


def test_the_fingerprint_knows_labels_and_content_and_not_the_place(tmp_path):
    image_files.folder(tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "two")
    image_files.folder(tmp_path / "one")
    found = [image_folder.Source(of_folder(tmp_path / name)).fingerprint("data.train") for name in ("one", "two")]
    assert found[0] == found[1]
    (tmp_path / "two/light").rename(tmp_path / "two/bright")
    image_files.save(image_files.pixels(99), tmp_path / "one/dark/000.png")
    changed = {image_folder.Source(of_folder(tmp_path / name)).fingerprint("data.train") for name in ("one", "two")}
    assert len({*changed, found[0]}) == 3


def test_an_image_that_is_broken_or_has_no_label_stands_in_its_place_and_is_named(tmp_path):
    image_files.folder(tmp_path, 4)
    file = tmp_path / "dark/000.png"
    file.write_bytes(file.read_bytes()[:60])
    image_files.save(image_files.pixels(1), tmp_path / "stray.png")
    rows = read(image_folder, of_folder(tmp_path), *COLUMNS)
    assert [isinstance(row, BadRow) for row in rows] == [True, False, False, False, True]
    assert told(rows)[0].startswith(f"{file}: is a broken image: ")
    assert told(rows)[1] == f"{tmp_path}/stray.png: lies in no folder that could be its label"


def test_a_folder_that_is_not_there_or_holds_no_image_is_told(tmp_path):
    with pytest.raises(UserError, match=r"^data\.train\.path: .*/none: no such folder$"):
        image_folder.Source(of_folder(tmp_path / "none")).fingerprint("data.train")
    with pytest.raises(UserError, match=r"no image is in it \(looked for LABEL/\*\.png, \*\.jpg, .*\)$"):
        image_folder.Source(of_folder(tmp_path)).fingerprint("data.train")


# IDX files


@pytest.mark.parametrize("names", ["{}-{}-idx{}-ubyte", "{}-{}.idx{}-ubyte", "{}-{}-idx{}-ubyte.gz"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_idx_files_are_found_by_their_usual_names(tmp_path, names, split):
    image_files.idx(tmp_path, names=names.replace("{}", {"train": "train", "test": "t10k"}[split], 1))
    rows = read(mnist, mnist.Config(path=str(tmp_path), split=split), *COLUMNS)
    assert [row["label"] for row in rows] == [n % 10 for n in range(12)]
    assert all(np.array_equal(row["image"], image_files.pixels(n, (4, 4))) for n, row in enumerate(rows))


def test_files_that_are_missing_are_told_by_every_name_that_is_looked_for(tmp_path):
    told = (
        r"^data\.train\.path: .*: none of these files is there: train-images-idx3-ubyte, train-images-idx3-ubyte\.gz, "
        r"train-images\.idx3-ubyte, train-images\.idx3-ubyte\.gz$"
    )
    with pytest.raises(UserError, match=told):
        mnist.Source(mnist.Config(path=str(tmp_path))).fingerprint("data.train")


def changed(folder, what, change):
    file = next(folder.glob(f"train-{what}-*"))
    content = file.read_bytes()
    packed = file.suffix == ".gz"
    content = change(gzip.decompress(content) if packed else content)
    file.write_bytes(gzip.compress(content) if packed else content)
    return file


@pytest.mark.parametrize("names", ["train-{}-idx{}-ubyte", "train-{}-idx{}-ubyte.gz"])
@pytest.mark.parametrize(
    ("what", "change", "told"),
    [
        ("images", lambda content: content[:-5], r": is cut off: 203 bytes of 208 or more: get it again$"),
        ("labels", lambda content: content[:-5], r": is cut off: 15 bytes of 20 or more: get it again$"),
        ("images", lambda content: b"", r": is cut off: 0 bytes of 16 or more: get it again$"),
        (
            "images",
            lambda content: b"\0\0\x08\x01" + content[4:],
            r"holds no images: its magic number is 2049, not 2051$",
        ),
        (
            "labels",
            lambda content: content[:7] + b"\x0b" + content[8:],
            r"has 12 images, .* 11 labels: get both again$",
        ),
    ],
)
def test_idx_files_that_are_damaged_are_told(tmp_path, names, what, change, told):
    changed(image_files.idx(tmp_path, names=names), what, change)
    with pytest.raises(UserError, match=told):
        read(mnist, mnist.Config(path=str(tmp_path)), *COLUMNS)


def test_a_compressed_one_that_ends_early_is_told(tmp_path):
    image_files.idx(tmp_path, names="train-{}-idx{}-ubyte.gz")
    file = next(tmp_path.glob("train-images*"))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz: cut off or damaged \(.*\): get it again$"):
        read(mnist, mnist.Config(path=str(tmp_path)), *COLUMNS)


# Tables


@pytest.fixture
def rows():
    return [{"photo": image_files.pixels(n, (5, 4), 3), "label": n % 2} for n in range(6)]


@pytest.fixture
def dataset(rows):
    import datasets

    made = datasets.Dataset.from_list([{"photo": Image.fromarray(row["photo"]), "label": row["label"]} for row in rows])
    made = made.cast_column("photo", datasets.Image())
    return made.cast_column("label", datasets.ClassLabel(names=["dark", "light"]))


def same(found, rows, names=("dark", "light")):
    assert [row["label"] for row in found] == [names[row["label"]] for row in rows]
    assert all(np.array_equal(one["image"], other["photo"]) for one, other in zip(found, rows, strict=True))


def test_the_image_column_of_a_data_set_is_decoded(dataset, rows, tmp_path):
    dataset.save_to_disk(tmp_path / "saved")
    same(read(arrow, arrow.Config(path=str(tmp_path / "saved"), image="photo"), *COLUMNS), rows)
    (tmp_path / "files").mkdir()
    dataset.to_parquet(tmp_path / "files/train.parquet")
    config = hub.Config(name=str(tmp_path / "files"), image="photo")
    same(read(hub, config, *COLUMNS), rows)
    config = parquet.Config(path=str(tmp_path / "files/train.parquet"), image="photo")
    same(read(parquet, config, *COLUMNS), rows, (0, 1))


def test_images_may_be_plain_bytes_and_a_broken_one_is_named_by_its_row(rows, tmp_path):
    content = [encoded(Image.fromarray(row["photo"])) for row in rows]
    content[2] = content[2][:50]
    content[4] = None
    file = tmp_path / "photos.parquet"
    pa.parquet.write_table(pa.table({"photo": content, "label": [row["label"] for row in rows]}), file)
    found = read(parquet, parquet.Config(path=str(file), image="photo"), *COLUMNS)
    assert told(found)[0].startswith(f"{file} row 3: data.train.image: column 'photo' is a broken image: ")
    assert told(found)[1] == f"{file} row 5: data.train.image: column 'photo' is empty"
    same([row for row in found if not isinstance(row, BadRow)], [rows[n] for n in (0, 1, 3, 5)], (0, 1))


def test_a_text_is_no_image(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"image": "photo.png", "label": 1}\n')
    found = read(jsonl, jsonl.Config(path=str(tmp_path / "rows.jsonl")), *COLUMNS)
    assert told(found) == [f"{tmp_path}/rows.jsonl:1: data.train.image: column 'image' is no image but str"]
