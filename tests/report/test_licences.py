"""What follows for a child from its parents' licences: a case for each rule."""

import pytest

from evomm.report.licences import Licence, for_child


def child(*licences: str | Licence) -> tuple[str, str]:
    """The child's licence and what is said of it."""
    parents = {f"p{i}": one if isinstance(one, Licence) else Licence(one) for i, one in enumerate(licences)}
    found = for_child(parents)
    return found.licence.called, " ".join(found.sentences)


@pytest.mark.parametrize(
    ("licences", "called", "said"),
    [
        (["apache-2.0", "apache-2.0"], "apache-2.0", "keep their notices"),
        (["mit", "apache-2.0", "cc0-1.0"], "apache-2.0", "apache-2.0 asks for the most"),
        (["apache-2.0", "cc-by-4.0"], "apache-2.0 and cc-by-4.0", "all of them hold"),
        (["apache-2.0", "cc-by-nc-4.0"], "cc-by-nc-4.0", "Commercial use is not allowed of p1 (cc-by-nc-4.0)"),
        (["apache-2.0", "cc-by-sa-4.0"], "cc-by-sa-4.0", "must be shared under the same licence"),
        (["cc-by-nc-4.0", "cc-by-nc-sa-4.0"], "cc-by-nc-sa-4.0", "must be shared under the same licence"),
        (["gpl-3.0", "cc-by-sa-4.0"], "gpl-3.0 and cc-by-sa-4.0", "both cannot be kept"),
        (["cc-by-sa-4.0", "cc-by-nc-4.0"], "cc-by-sa-4.0 and cc-by-nc-4.0", "both may not be possible"),
        (["mit", "creativeml-openrail-m"], "creativeml-openrail-m", "Restrictions on use"),
        (["openrail++", "creativeml-openrail-m"], "openrail++ and creativeml-openrail-m", "Several licences hold"),
        (["cc-by-nc-nd-4.0", "mit"], "no-derivatives", "keep the child to yourself"),
        (["apache-2.0", "llama3.1"], "llama3.1", "Terms of their own hold for p1"),
        (["apache-2.0", "a-licence-of-next-year"], "a-licence-of-next-year", "read them"),
        (["apache-2.0", "unknown"], "unknown", "Nothing says under which licence p1"),
        (["cc-by-nc-4.0", "unknown"], "unknown", "Commercial use is not allowed of p0"),
        ([], "unknown", ""),
    ],
)
def test_rules(licences: list[str], called: str, said: str) -> None:
    found = child(*licences)
    assert found[0] == called
    assert said in found[1]


def test_a_licence_of_its_own_keeps_name_and_link() -> None:
    own = Licence("other", name="acme-1.0", link="https://acme.example/licence")
    found = for_child({"a": own, "b": Licence("mit")}).licence
    assert (found.id, found.name, found.link) == ("other", "acme-1.0", "https://acme.example/licence")


def test_two_licences_of_their_own_are_two() -> None:
    first, second = (Licence("other", name=name) for name in ("acme-1.0", "globex-2.0"))
    assert child(first, second)[0] == "acme-1.0 and globex-2.0"
