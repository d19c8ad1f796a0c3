"""Grey pictures in all the ways they are stored, and colour that is refused."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from PIL import Image

from monai_mamba_gen.data import load_volume
from monai_mamba_gen.transforms import CheckVolumed, ToGreyd
from monai_mamba_gen.utils import DataError

LOAD = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), ToGreyd("image"), CheckVolumed("image")])


def grey(rows=12, columns=10):
    return np.random.default_rng(0).integers(0, 256, (rows, columns), dtype=np.uint8)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_a_grey_picture_is_the_same_in_every_mode(tmp_path, mode, suffix):
    if (suffix == ".jpg" and mode.endswith("A")) or (suffix == ".tif" and mode == "LA"):
        pytest.skip("JPEG has no transparency, and ITK, which reads TIFF, mixes up two channels")
    for name, picture in (("grey", Image.fromarray(grey())), ("other", Image.fromarray(grey()).convert(mode))):
        picture.save(tmp_path / f"{name}{suffix}", quality=100)
    first, second = (LOAD({"image": str(tmp_path / f"{name}{suffix}")})["image"] for name in ("grey", "other"))
    assert first.shape == second.shape == (1, 10, 12), "the first array axis is X"
    assert isinstance(second, MetaTensor) and float((first - second).abs().max()) <= (2 if suffix == ".jpg" else 0)


def test_transparency_does_not_count(tmp_path):
    picture = Image.fromarray(grey()).convert("RGBA")
    picture.putalpha(Image.fromarray(255 - grey()))
    picture.save(tmp_path / "a.png")
    assert torch.equal(LOAD({"image": str(tmp_path / "a.png")})["image"][0], torch.from_numpy(grey().T).float())


def test_sixteen_bits(tmp_path):
    values = grey().astype(np.uint16) * 200
    Image.fromarray(values).save(tmp_path / "a.png")
    assert torch.equal(
        LOAD({"image": str(tmp_path / "a.png")})["image"][0], torch.from_numpy(values.T.astype(np.float32))
    )


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("RGB", "a colour picture, its channels differ by up to 60"),
        ("RGBA", "a colour picture, its channels differ by up to 60"),
        ("P", "a picture of Pillow's mode 'P'"),
    ],
)
def test_colour_is_refused_in_one_line(tmp_path, mode, message):
    colour = np.stack([grey(), grey(), grey()], axis=-1)
    colour[3, 4] = (90, 90, 150)
    Image.fromarray(colour).convert(mode).save(tmp_path / "colour.png")
    with pytest.raises(DataError) as caught:
        load_volume({"image": str(tmp_path / "colour.png")}, LOAD)
    expected = f"file {tmp_path / 'colour.png'} (key 'image'): {message}; a greyscale picture is expected"
    assert str(caught.value) == expected


def test_cmyk_is_refused(tmp_path):
    Image.fromarray(grey()).convert("CMYK").save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="mode 'CMYK'"):
        load_volume({"image": str(tmp_path / "a.jpg")}, LOAD)


def test_tolerance():
    picture = torch.zeros(3, 4, 4)
    picture[2, 1, 1] = 2
    assert ToGreyd("image")({"image": picture})["image"].shape == (1, 4, 4)
    with pytest.raises(DataError, match="file in memory .key 'image'.: a colour picture"):
        ToGreyd("image", tolerance=1.0)({"image": picture})


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8, 4), (20, 8, 8)])
def test_other_images_pass_unchanged(shape):
    image = torch.rand(shape) * 255
    assert ToGreyd("image")({"image": image})["image"] is image
