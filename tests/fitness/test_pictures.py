"""Pictures: which are blank, what a sheet looks like, and labels that are drawn right or not at all."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from evomm.errors import UsageError, WriteFailed
from evomm.fitness import fonts
from evomm.fitness.fonts import font_for
from evomm.fitness.pictures import blank, grid, rgb, save
from tests.fitness.clip_kit import flat, picture


def forget_fonts() -> None:
    """Look for them again."""
    fonts._font.cache_clear()
    fonts._fonts.cache_clear()


@pytest.mark.parametrize("colour", ["black", "white", "#7f7f7f", "red"])
def test_one_colour_is_blank(colour: str) -> None:
    assert blank(flat(colour))


def test_faint_noise_is_blank_and_a_small_thing_on_white_is_not() -> None:
    noise = np.random.default_rng(0).integers(126, 130, (32, 32, 3), dtype=np.uint8)
    assert blank(Image.fromarray(noise))
    dotted = Image.new("RGB", (32, 32), "white")
    dotted.paste("red", (12, 12, 18, 18))
    assert not blank(dotted)
    assert not blank(picture(0))


def test_only_pictures_are_pictures() -> None:
    assert [p.mode for p in rgb([flat("red"), flat("red").convert("L"), flat("red").convert("RGBA")])] == ["RGB"] * 3
    with pytest.raises(UsageError, match=r"expected pictures \(PIL images\) as answers, got str"):
        rgb(["7"])
    with pytest.raises(UsageError, match="got ndarray"):
        rgb([np.full((4, 4, 3), np.nan)])


def test_a_sheet_holds_every_picture_where_it_belongs() -> None:
    sheet = grid([[flat("red"), flat("lime")], [flat("blue"), None]], cell=10)
    assert sheet.size == (2 * 14 + 4, 2 * 14 + 4)
    assert [sheet.getpixel(at) for at in ((5, 5), (20, 5), (5, 20), (20, 20), (0, 0))] == [
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (255, 255, 255),
        (255, 255, 255),
    ]


def test_pictures_keep_their_proportions() -> None:
    wide = grid([[picture(0, (8, 16))]], cell=32)
    assert wide.getpixel((30, 10)) != (255, 255, 255)
    assert wide.getpixel((10, 30)) == (255, 255, 255)


def test_titles_labels_and_captions_take_room_and_ink() -> None:
    bare = grid([[flat("white")] * 2])
    dressed = grid([[flat("white")] * 2], columns=["parent", "child"], labels=["apple"], captions=[["a", "b"]])
    assert dressed.width > bare.width and dressed.height > bare.height
    assert np.asarray(dressed).min() < 100 and np.asarray(bare).min() == 255


def test_letters_that_no_font_has_are_left_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """No boxes: the sheet is as if there were no labels; titles in ASCII stay."""
    monkeypatch.setattr(fonts, "_NAMES", ())
    forget_fonts()
    try:
        assert font_for(["りんご"], 12) is None
        assert grid([[flat("white")]], labels=["りんご"]).tobytes() == grid([[flat("white")]]).tobytes()
        assert np.asarray(grid([[flat("white")]], columns=["child"], labels=["りんご"])).min() < 100
    finally:
        forget_fonts()


def test_a_font_is_taken_for_what_it_can_draw() -> None:
    assert font_for(["apple 12"], 12) is not None
    assert font_for([], 12) is not None
    found = font_for(["りんごは何個？"], 12)
    assert found is None or (isinstance(found, ImageFont.FreeTypeFont) and found.getlength("りんご") > 20)


def test_a_picture_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteFailed, match="cannot be written"):
        save(flat("red"), tmp_path / "file" / "0.png")


def test_a_sheet_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        grid([[None]])
