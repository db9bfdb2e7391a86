"""How well an answer agrees with what is right: ROUGE-L, VQA accuracy, exact match; each in [0, 1]."""

from collections.abc import Sequence


def rouge_l(answer: Sequence[str], reference: Sequence[str]) -> float:
    """ROUGE-L's F-measure of two lists of words (Lin 2004), with precision and recall weighted alike.

    L the length of their longest common subsequence:  P = L / |answer|,  R = L / |reference|,  F = 2PR / (P + R).

        >>> rouge_l(["いいえ", "、", "果物", "です"], ["果物", "です"])
        0.6666666666666666
    """
    if not answer or not reference:
        return 0.0
    return 2 * _common(answer, reference) / (len(answer) + len(reference))  # = 2PR / (P + R)


def _common(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """Length of the longest common subsequence: row by row of the table of prefixes."""
    row = [0] * (len(theirs) + 1)
    for word in ours:
        before = row
        row = [0]
        for place, other in enumerate(theirs):
            row.append(before[place] + 1 if word == other else max(before[place + 1], row[place]))
    return row[-1]


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """VQA accuracy (arXiv 1505.00468): full marks when three people said the same, averaged over leaving each person out.

    min(1, how many of the others said it / 3), mean over the people left out. With fewer than four answers as many as there are
    others must agree; with one answer it is an exact match.
    """
    if len(references) == 1:
        return float(answer == references[0])
    needed = min(3, len(references) - 1)
    said = [reference == answer for reference in references]
    return sum(min(1.0, (sum(said) - own) / needed) for own in said) / len(said)
