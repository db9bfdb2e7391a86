"""What was found once stays mended: each input of the corpus is read or refused as it should be. And some seconds of new ones."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.judge import judge
from tests.fuzz.table import READERS

CORPUS = Path(__file__).parent / "corpus"
INPUTS = sorted(CORPUS.glob("*/*"))
os.environ["TOKENIZERS_PARALLELISM"] = "false"
pytestmark = [
    # What libraries say of odd inputs, beside the error or result that is looked at.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per reader, whose parents are made once."""
    return tmp_path_factory.mktemp("fuzz")


def folder_of(name: str, worlds: Path) -> Path:
    """Where a reader works; what it imports late is imported, which takes time that no input is charged with."""
    folder = worlds / name
    if not folder.exists():
        folder.mkdir()
        for seed in READERS[name].seeds():
            READERS[name].read(seed, folder) if name in {"safetensors", "index", "lora", "data"} else judge(
                READERS[name], seed, folder, seconds=120
            )
    return folder


@pytest.mark.parametrize("path", INPUTS, ids=[f"{path.parent.name}/{path.stem}" for path in INPUTS])
def test_what_was_found_stays_mended(path: Path, worlds: Path) -> None:
    found = judge(READERS[path.parent.name], path.read_bytes(), folder_of(path.parent.name, worlds), seconds=30)
    assert found is None, f"{found.key}\n{found.told}"


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=12)
@given(seed=st.integers(0, 2**32))
def test_a_few_new_inputs(name: str, worlds: Path, seed: int) -> None:
    inputs = READERS[name].inputs(seed)
    for _ in READERS[name].seeds():
        next(inputs)
    for _ in range(3):
        data = next(inputs)
        found = judge(READERS[name], data, folder_of(name, worlds), seconds=30)
        assert found is None, f"{found.key}\n{data[:2000]!r}\n{found.told}"


def test_every_reader_has_a_corpus_that_stays_small() -> None:
    assert {path.parent.name for path in INPUTS} <= set(READERS)
    assert sum(path.stat().st_size for path in INPUTS) < 200_000
