"""Scorers: cosines that repeat to the bit, in the eyes of torchmetrics too; and one message for each way to name them wrong."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.functional.multimodal import clip_score
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizerFast

from evomm.errors import EvaluationError, EvommError
from evomm.fitness.clip import ClipScorer
from evomm.fitness.towers import Towers
from evomm.resources import resource
from tests.fitness.clip_kit import make_scorer, picture

PICTURES = [picture(seed) for seed in range(6)]
TEXTS = ["りんご", "りんごのイラスト", "an apple", "a fox", "富士山", "お寿司"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """So small a model only waits for more of them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scorer(tmp_path_factory.mktemp("scorers") / "clip")


@pytest.fixture(scope="module")
def scorer(folder: Path) -> ClipScorer:
    return ClipScorer(str(folder), device="cpu")


def test_scores_are_cosines_and_differ(scorer: ClipScorer) -> None:
    scores = scorer.score(PICTURES, TEXTS)
    assert scores.shape == (6,)
    assert scores.abs().max() <= 1 + 1e-12
    assert len(set(scores.tolist())) == 6
    assert (scores < 0).any(), "the clamped mean of others would hide the sign"


def test_torchmetrics_agrees(scorer: ClipScorer) -> None:
    """100 times our cosine, where it is positive; its mean is clamped at 0, ours is not."""
    towers = scorer._towers()

    class Model(torch.nn.Module):
        """What torchmetrics takes for a model: tensors in, features out."""

        config = None

        def get_image_features(self, pictures: Tensor) -> Tensor:
            return towers.pictures([to_pil_image(p) for p in pictures])

        def get_text_features(self, ids: Tensor, mask: Tensor) -> Tensor:
            return towers.texts([TEXTS[i] for i in ids])

    def processor(text: Sequence[str] = (), images: Sequence[Tensor] = (), **_: Any) -> dict[str, Tensor]:
        ids = torch.tensor([TEXTS.index(t) for t in text])
        return {"input_ids": ids, "attention_mask": ids, "pixel_values": torch.stack(list(images)) if images else ids}

    ours = scorer.score(PICTURES, TEXTS)
    for i, (shown, text) in enumerate(zip(PICTURES, TEXTS, strict=True)):
        theirs = clip_score([pil_to_tensor(shown)], [text], lambda: (Model(), processor))
        assert float(theirs) == pytest.approx(max(0.0, 100 * float(ours[i])), abs=1e-4)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12), st.integers(1, 7))
@settings(max_examples=12)
def test_the_batch_does_not_matter(scorer: ClipScorer, pairs: list[tuple[int, int]], batch: int) -> None:
    pictures, texts = [PICTURES[i] for i, _ in pairs], [TEXTS[j] for _, j in pairs]
    small, large = ClipScorer("x", batch=batch), ClipScorer("x", batch=100)
    small._loaded = large._loaded = scorer._towers()
    assert small.score(pictures, texts).tolist() == pytest.approx(large.score(pictures, texts).tolist(), abs=1e-5)


def test_scores_repeat_to_the_bit(folder: Path, scorer: ClipScorer) -> None:
    """In another process too, whatever was scored before."""
    other = ClipScorer(str(folder), device="cpu")
    other.texts(["something else", TEXTS[3]])
    assert torch.equal(other.score(PICTURES, TEXTS), scorer.score(PICTURES, TEXTS))
    assert torch.equal(scorer.score(PICTURES, TEXTS), scorer.score(PICTURES, TEXTS))


def test_a_text_is_read_once(scorer: ClipScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer.texts(TEXTS)
    towers = scorer._towers()

    def refuse(texts: Sequence[str]) -> Tensor:
        raise AssertionError(f"{texts} read again")

    monkeypatch.setattr(scorer, "_loaded", Towers(towers.pictures, refuse))
    assert scorer.texts([*TEXTS, *TEXTS]).shape == (12, 8)


def test_pictures_of_any_size_and_mode_are_taken(scorer: ClipScorer) -> None:
    assert scorer.pictures([picture(1, (40, 20)), picture(2).convert("L").convert("RGB")]).shape == (2, 8)


def test_features_that_are_not_finite_are_no_score(scorer: ClipScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Towers(lambda pictures: torch.full((len(pictures), 8), float("nan")), scorer._towers().texts)
    monkeypatch.setattr(scorer, "_loaded", broken)
    with pytest.raises(EvaluationError, match="gave NaN"):
        scorer.score(PICTURES, TEXTS)


def first_error(source: str, beside: Path | None = None) -> str:
    """What loading a scorer says, and with which class."""
    with pytest.raises(EvommError) as caught:
        ClipScorer(source, beside, "cpu").score(PICTURES[:1], ["x"])
    return f"{type(caught.value).__name__}: {caught.value}"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("ViT-B-23/laion2b_s34b_b79k", "UsageError: .*open_clip has no model 'ViT-B-23'; did you mean 'ViT-B-32'"),
        ("ViT-B-32/laion2b_s34b_b79", "UsageError: .*got 'laion2b_s34b_b79'; did you mean 'laion2b_s34b_b79k'"),
        ("ViT-B-32/openai", "UsageError: .*another activation; write ViT-B-32-quickgelu/openai"),
        ("ViT-B-32", "UsageError: .*expected weights as in ViT-B-32/WEIGHTS"),
        ("ViT-B-32/laion2b_s34b_b79k", "MissingFile: .*could not be fetched"),
        ("./nowhere", "MissingFile: model './nowhere': no such folder"),
        ("zoo:tiny/nothing", "MissingFile: .*tiny/nothing"),
        ("hf-hub:nobody/nothing", "MissingFile: .*hf download nobody/nothing"),
        ("transformers:./nowhere", "MissingFile: .*no such folder"),
        ("llm-jp/llm-jp-clip", "UsageError: .*a model on the hub is written hf-hub:owner/name"),
    ],
)
def test_a_wrong_name_is_told(source: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert re.search(said, first_error(source)), first_error(source)


def damaged(folder: Path, **changes: Any) -> Path:
    """A scorer with other things in its config."""
    config = json.loads((make_scorer(folder) / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] |= changes
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


def test_pickles_are_not_loaded(tmp_path: Path) -> None:
    folder = make_scorer(tmp_path / "clip")
    (folder / "open_clip_model.safetensors").unlink()
    assert "MissingFile" in first_error(str(folder))
    torch.save({"x": torch.ones(1)}, folder / "open_clip_pytorch_model.bin")
    assert "UnsafeFile" in first_error(str(folder)) and "pickles can run code" in first_error(str(folder))


def test_a_pickle_beside_safetensors_is_not_preferred(tmp_path: Path) -> None:
    """open_clip takes open_clip_pytorch_model.bin before model.safetensors."""
    folder = make_scorer(tmp_path / "clip")
    (folder / "open_clip_model.safetensors").rename(folder / "model.safetensors")
    ClipScorer(str(folder), device="cpu").texts(["x"])
    (folder / "open_clip_pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    assert "UnsafeFile" in first_error(str(folder))


def test_code_of_a_tokenizer_is_not_run(tmp_path: Path) -> None:
    folder = damaged(tmp_path / "clip", hf_tokenizer_name="x", tokenizer_kwargs={"trust_remote_code": True})
    assert "UnsafeFile" in first_error(str(folder))


def test_a_damaged_scorer_is_told(tmp_path: Path) -> None:
    assert "DamagedFile" in first_error(str(damaged(tmp_path / "wide", width=32)))
    weights = damaged(tmp_path / "cut") / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "DamagedFile" in first_error(str(tmp_path / "cut"))
    (tmp_path / "cut" / "open_clip_config.json").write_text("{")
    assert "DamagedFile" in first_error(str(tmp_path / "cut"))
    (tmp_path / "cut" / "open_clip_config.json").write_text('{"model_cfg": {}}')
    assert "DamagedFile" in first_error(str(tmp_path / "cut"))
    (tmp_path / "cut" / "open_clip_config.json").unlink()
    assert "MissingFile" in first_error(str(tmp_path / "cut"))
    assert "DamagedFile" in first_error(str(damaged(tmp_path / "deaf", hf_tokenizer_name="x/y")))


def test_a_folder_that_is_not_there_is_known_before_it_is_needed(folder: Path) -> None:
    sources = ("./clip", "clip", "./no", "zoo:no", "ViT-B-32/openai")
    assert [ClipScorer(source, folder.parent).missing() for source in sources] == [False, False, True, True, False]


def test_a_relative_path_starts_at_the_task(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert ClipScorer(folder.name, folder.parent, "cpu").score(PICTURES, TEXTS).shape == (6,)


@pytest.fixture(scope="module")
def transformers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scorers") / "transformers"
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    letters = {letter: i for i, letter in enumerate(["<|startoftext|>", "<|endoftext|>", *"aeflnopx", *"aeflnopx</w>"])}
    tokenizer = CLIPTokenizerFast(vocab=letters, merges=[], model_max_length=12)
    config = CLIPConfig(
        text_config={**small, "vocab_size": 40, "max_position_embeddings": 12, "eos_token_id": 1, "bos_token_id": 0},
        vision_config={**small, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    size = {"height": 16, "width": 16}
    images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=size)
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def test_clip_classes_of_transformers_score_too(transformers_folder: Path, tmp_path: Path) -> None:
    source = f"transformers:{transformers_folder}"
    scores = ClipScorer(source, device="cpu").score(PICTURES, list("aeflno"))
    assert scores.abs().max() <= 1 and len(set(scores.tolist())) == 6
    again = ClipScorer(f"{source},{transformers_folder}", device="cpu").score(PICTURES, list("aeflno"))
    assert torch.equal(scores, again)


def test_pickles_of_transformers_are_not_loaded(transformers_folder: Path, tmp_path: Path) -> None:
    for file in transformers_folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    assert "UnsafeFile" in first_error(f"transformers:{tmp_path}")


def test_a_model_without_pictures_is_no_scorer(zoo_llm: Path) -> None:
    assert "DamagedFile" in first_error(f"transformers:{zoo_llm}") or "UsageError" in first_error(f"transformers:{zoo_llm}")


@pytest.fixture
def zoo_llm() -> Path:
    return resource("model_zoo", "tiny", "llm", "ja")
