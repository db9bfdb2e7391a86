"""Japanese text as evaluations count it: written in one way, and cut into words by MeCab (fugashi with unidic-lite).

    normalise("ﾘﾝｺﾞ🍎 　と   １２〜")    -> "リンゴと 12"
    words("これはメロンです")             -> ["これ", "は", "メロン", "です"]

The published evaluation takes emoji out, then neologdn's rules, then squeezes spaces. These are the same kinds of rules, on top
of Unicode's NFKC: one width for letters, digits and kana, one hyphen, one long-vowel mark and no rows of them, no tildes, no
spaces beside Japanese letters.
"""

import re
import unicodedata
from functools import cache

from fugashi import Tagger

_EMOJI = re.compile("[\U0001f000-\U0001faff\U00002702-\U000027b0\U0001f1e0-\U0001f1ff\U00002600-\U000026ff\ufe0f\u200d\u20e3]+")
_HYPHENS = re.compile("[˗֊‐‑‒–⁃⁻₋−]+")
_LONG = re.compile("[﹣－ｰ—―─━ー]+")
_TILDES = re.compile("[~∼∾〜〰～]+")
_JAPANESE = r"[\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uff00-\uffef]"
_SPACED = re.compile(rf"(?<={_JAPANESE}) +| +(?={_JAPANESE})")


def normalise(text: str) -> str:
    """The text in one way of writing; see the top of this file."""
    text = _TILDES.sub("", _HYPHENS.sub("-", _LONG.sub("ー", _EMOJI.sub("", text))))
    text = " ".join(unicodedata.normalize("NFKC", text).split())
    return _SPACED.sub("", text)


def words(text: str) -> list[str]:
    """The words of a text, normalised first."""
    found: list[str] = _tagger().parse(normalise(text)).split()
    return found


@cache
def _tagger() -> Tagger:
    return Tagger("-Owakati")
