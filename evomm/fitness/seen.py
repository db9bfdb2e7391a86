"""Pictures that questions are about: where they are, and reading them safely."""

import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from evomm.errors import DamagedFile, MissingFile


@dataclass(frozen=True)
class Picture:
    """A picture in a file, or in a row of one.

    where: how messages name it. path: its file; None when the bytes are given.
    """

    where: str
    path: Path | None = None
    content: bytes | None = None

    @property
    def identity(self) -> str:
        """What tells it from other pictures: its bytes."""
        return hashlib.sha256(self._bytes()).hexdigest()

    def open(self) -> Image.Image:
        """The picture in RGB, on white where it is transparent.

        Raises MissingFile when its file is not there, DamagedFile when it cannot be read.
        """
        content = self._bytes()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)  # a few kilobytes that unfold to gigabytes
                with Image.open(io.BytesIO(content)) as picture:
                    if picture.has_transparency_data:
                        seen = picture.convert("RGBA")
                        return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
                    return picture.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise DamagedFile(f"{self.where}: the picture cannot be read ({error}); replace it") from error

    def _bytes(self) -> bytes:
        if self.content is not None:
            return self.content
        if self.path is None or not self.path.is_file():
            raise MissingFile(f"{self.where}: there is no picture; expected a path from the data file's folder, or the bytes")
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise MissingFile(f"{self.where}: the picture cannot be opened ({error})") from error
