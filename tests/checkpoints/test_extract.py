"""A child as an adapter of its base: peft loads it and says what the child says; what no adapter can hold is refused."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from evomm.checkpoints.extract import Extracted, Running, extract_lora
from evomm.checkpoints.lora import LoraReader, is_lora, read_adapter, recorded_base
from evomm.checkpoints.lora_config import CONFIG, WEIGHTS
from evomm.checkpoints.low_rank import EXACT, factors
from evomm.checkpoints.reader import MemoryReader
from evomm.errors import DamagedFile, EvommError, MisfitError, UsageError, WriteFailed
from tests.checkpoints.peft_kit import QUIET, gpt2, llama, logits, state

pytestmark = QUIET


def changed(model: Any, rank: int, *more: str, seed: int = 5) -> Any:
    """The model with a change of exactly that rank in each linear layer, and any change where the name holds a word."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        m, n = parameter.shape if parameter.ndim == 2 else (1, 1)
        if any(word in name for word in more):
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.1
        elif parameter.ndim == 2 and not any(word in name for word in ("embed", "wte", "wpe", "lm_head")):
            parameter.data += torch.randn(m, rank, generator=generator) @ torch.randn(rank, n, generator=generator) * 0.05
    return model


def files(model: Any) -> MemoryReader:
    """What a checkpoint of the model holds: no tensor twice."""
    tied = set(getattr(model, "_tied_weights_keys", None) or {}) if model.config.tie_word_embeddings else set()
    return MemoryReader({name: tensor for name, tensor in state(model).items() if name not in tied})


CASES: Mapping[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "linear layers": (llama, ()),
    "norms and the head": (llama, ("norm", "lm_head")),
    "tied embeddings": (lambda: llama(tied=True), ("embed_tokens",)),
    "biases": (lambda: llama(bias=True), (".bias",)),
    "transposed": (gpt2, ()),
    "transposed, and all the rest": (gpt2, ("ln_", ".bias", "wte", "wpe")),
}


@pytest.mark.parametrize("case", CASES)
def test_a_child_of_low_rank_is_recovered_and_peft_loads_it(tmp_path: Path, case: str) -> None:
    make, more = CASES[case]
    child, base = changed(make(), 4, *more), make()
    done = extract_lora(files(child), files(base), 4, tmp_path / "lora", base_name="owner/base")
    assert done.error < 1e-5
    assert is_lora(tmp_path / "lora")

    reader = LoraReader(files(base), read_adapter(tmp_path / "lora"))
    for name, tensor in files(child)._tensors.items():
        torch.testing.assert_close(reader.read(name), tensor, rtol=0, atol=1e-5, msg=name)
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "lora").eval()
    torch.testing.assert_close(logits(loaded), logits(child), rtol=0, atol=1e-4)


def test_only_what_differs_is_adapted(tmp_path: Path) -> None:
    child = llama()
    child.model.layers[1].self_attn.q_proj.weight.data += 0.1
    child.model.norm.weight.data += 0.1
    done = extract_lora(files(child), files(llama()), 2, tmp_path / "lora", base_name="b")
    assert (done.adapted, done.whole, done.biases) == (("model.layers.1.self_attn.q_proj",), ("model.norm",), ())
    stored = load_file(tmp_path / "lora" / WEIGHTS)
    assert {name: tuple(tensor.shape) for name, tensor in stored.items()} == {
        "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight": (2, 32),
        "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight": (32, 2),
        "base_model.model.model.norm.weight": (32,),
    }
    assert done.bytes == sum(tensor.nbytes for tensor in stored.values())
    config = json.loads((tmp_path / "lora" / CONFIG).read_text())
    assert (config["target_modules"], config["modules_to_save"]) == (["model.layers.1.self_attn.q_proj"], ["model.norm"])


def test_a_child_whose_layers_are_its_bases_needs_no_products(tmp_path: Path) -> None:
    child = llama()
    child.model.norm.weight.data += 0.1
    done = extract_lora(files(child), files(llama()), 4, tmp_path / "lora", base_name="b")
    assert (done.adapted, done.whole, done.error) == ((), ("model.norm",), 0.0)
    loaded = peft.PeftModel.from_pretrained(llama(), tmp_path / "lora").eval()
    torch.testing.assert_close(logits(loaded), logits(child), rtol=0, atol=1e-6)


class Tails(nn.Module):
    """One module's name is the tail of another's, which peft takes for the same."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.inner = nn.ModuleDict({"norm": nn.LayerNorm(4), "q": nn.Linear(4, 3)})

    def forward(self, x: Tensor) -> Tensor:
        """(..., 4) -> (..., 3)."""
        out: Tensor = self.norm(self.inner["q"](self.inner["norm"](x)) @ torch.ones(3, 4))
        return out


def test_modules_that_peft_would_match_too_are_stored_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    child, base = Tails(), Tails()
    base.load_state_dict(child.state_dict())
    with torch.no_grad():
        child.get_parameter("norm.bias").add_(1)
        child.get_parameter("inner.q.weight").add_(1)
    ours, theirs = MemoryReader(child.state_dict()), MemoryReader(base.state_dict())
    done = extract_lora(ours, theirs, 4, tmp_path / "lora", base_name="b")  # a rank above the matrix's own is filled up
    assert done.whole == ("inner.norm", "norm")
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "lora")
    x = torch.randn(2, 4)
    torch.testing.assert_close(loaded(x), child(x), rtol=0, atol=1e-5)


def test_names_can_be_those_of_the_running_model(tmp_path: Path) -> None:
    """GPT-2's hub checkpoint leaves ``transformer.`` out; peft wants it."""
    child = changed(gpt2(), 2, "ln_f")

    def hub(model: Any) -> MemoryReader:
        return MemoryReader({name.removeprefix("transformer."): t for name, t in files(model)._tensors.items()})

    names = {name: f"transformer.{name}" for name in hub(child).infos}
    running = Running(names, "GPT2LMHeadModel", "transformers")
    extract_lora(hub(child), hub(gpt2()), 2, tmp_path / "lora", base_name="b", running=running)
    loaded = peft.PeftModel.from_pretrained(gpt2(), tmp_path / "lora").eval()
    torch.testing.assert_close(logits(loaded), logits(child), rtol=0, atol=1e-4)
    del names["ln_f.weight"]
    with pytest.raises(MisfitError, match=r"'ln_f.weight' differs, but the running model has no such tensor"):
        extract_lora(hub(child), hub(gpt2()), 2, tmp_path / "no", base_name="b", running=running)


def test_the_error_is_that_of_the_best_product(tmp_path: Path) -> None:
    child, base = changed(llama(), 8), llama()
    done = extract_lora(files(child), files(base), 3, tmp_path / "lora", base_name="b")
    missed = total = 0.0
    reader = LoraReader(files(base), read_adapter(tmp_path / "lora"))
    for name in reader.changed:
        delta = child.state_dict()[name] - base.state_dict()[name]
        values = torch.linalg.svdvals(delta.double()).square()
        missed, total = missed + float(values[3:].sum()), total + float(values.sum())
        left = (child.state_dict()[name] - reader.read(name)).double().square().sum()
        assert float(left) == pytest.approx(float(values[3:].sum()), rel=1e-3)
    assert done.error == pytest.approx((missed / total) ** 0.5, rel=1e-4)


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [(torch.float16, "F16"), (torch.bfloat16, "BF16"), (torch.float32, "F32"), (torch.float64, "F32")],
)
def test_factors_have_the_models_dtype_and_the_error_counts_their_rounding(
    tmp_path: Path, dtype: torch.dtype, stored: str
) -> None:
    child, base = changed(llama(), 2).to(dtype), llama().to(dtype)
    done = extract_lora(files(child), files(base), 32, tmp_path / "lora", base_name="b")
    header = (tmp_path / "lora" / WEIGHTS).read_bytes()[8:].partition(b"}}")[0]
    assert header.count(f'"{stored}"'.encode()) == 2 * len(done.adapted)
    assert (1e-4 < done.error < 1e-2) == (dtype.itemsize == 2)


def test_a_child_is_compared_with_its_base_in_its_own_dtype(tmp_path: Path) -> None:
    """A base in float32 differs everywhere from its child in bfloat16, but by rounding only."""
    child = llama()
    child.model.layers[0].self_attn.q_proj.weight.data += 0.1
    done = extract_lora(files(child.to(torch.bfloat16)), files(llama()), 2, tmp_path / "lora", base_name="b")
    assert (done.adapted, done.whole) == (("model.layers.0.self_attn.q_proj",), ())


def extracted(out: Path, seed: int) -> Extracted:
    """An extraction that needs random vectors."""
    generator = torch.Generator().manual_seed(0)
    size = EXACT + 76
    weight = torch.randn(size, size, generator=generator) / torch.arange(1, size + 1)
    reader = MemoryReader({"q.weight": weight})
    return extract_lora(reader, MemoryReader({"q.weight": torch.zeros(size, size)}), 8, out, base_name="b", seed=seed)


def test_large_matrices_are_approximated_almost_as_well_and_reproducibly(tmp_path: Path) -> None:
    first, again, other = (extracted(tmp_path / name, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert first == again
    a, b, c = ((tmp_path / name / WEIGHTS).read_bytes() for name in "abc")
    assert a == b
    assert a != c
    size = EXACT + 76
    matrix = torch.randn(size, size, generator=torch.Generator().manual_seed(0)) / torch.arange(1, size + 1)
    values = torch.linalg.svdvals(matrix.double())
    best = float(values[8:].square().sum().sqrt() / values.square().sum().sqrt())
    assert best * 0.99999 < first.error < best * 1.001
    assert other.error == pytest.approx(first.error, rel=1e-3)


def test_factors_share_the_singular_values() -> None:
    matrix = torch.randn(20, 7, generator=torch.Generator().manual_seed(0))
    b, a = factors(matrix, 3, 0, "")
    torch.testing.assert_close(b.T @ b, a @ a.T, rtol=0, atol=1e-4)  # both are diag(s)
    b, a = factors(matrix, 12, 0, "")
    assert (b.shape, a.shape) == ((20, 12), (12, 7))
    torch.testing.assert_close(b @ a, matrix, rtol=0, atol=1e-5)


def test_what_is_written_names_its_base(tmp_path: Path) -> None:
    ours, theirs = MemoryReader({"q.weight": torch.ones(3, 3)}), MemoryReader({"q.weight": torch.zeros(3, 3)})
    for number, name in enumerate(("owner/base", "owner/base@v2", "models/my base")):
        extract_lora(ours, theirs, 1, tmp_path / str(number), base_name=name)
        assert recorded_base(tmp_path / str(number)) == name
    assert json.loads((tmp_path / "1" / CONFIG).read_text())["revision"] == "v2"


def test_progress_counts_the_models_bytes(tmp_path: Path) -> None:
    child = changed(llama(), 1)
    seen: list[int] = []
    extract_lora(files(child), files(llama()), 1, tmp_path / "lora", base_name="b", advance=seen.append)
    assert sum(seen) == sum(info.nbytes for info in files(child).infos.values())


ONE = {"q.weight": torch.ones(4, 3), "norm.weight": torch.ones(3)}
OTHER = {"q.weight": torch.zeros(4, 3), "norm.weight": torch.ones(3)}


@pytest.mark.parametrize(
    ("model", "base", "rank", "kind", "said"),
    [
        (ONE, OTHER, 0, UsageError, "rank 0: expected at least 1"),
        (ONE, ONE, 2, UsageError, "the model is its base, tensor by tensor"),
        (ONE, {**OTHER, "k.weight": torch.ones(2)}, 2, MisfitError, "the base has 'k.weight', the model has not"),
        ({**ONE, "qq.weight": torch.ones(2)}, OTHER, 2, MisfitError, "has 'qq.weight', the base has not; did you mean 'q.wei"),
        (ONE, {**OTHER, "q.weight": torch.ones(3, 4)}, 2, MisfitError, r"'q.weight' has shape \[4, 3\], expected .* \[3, 4\]"),
        ({**ONE, "q.weight": torch.full((4, 3), float("nan"))}, OTHER, 2, DamagedFile, "'q.weight' holds NaN or infinity"),
        ({**ONE, "norm.weight": torch.full((3,), float("inf"))}, OTHER, 2, DamagedFile, "'norm.weight' holds NaN"),
        ({**ONE, "token": torch.ones(3)}, {**OTHER, "token": torch.zeros(3)}, 2, MisfitError, "'token' differs, and is nei"),
        (
            {"mixer.A_log": torch.ones(3), "mixer.in.weight": torch.ones(3, 3)},
            {"mixer.A_log": torch.zeros(3), "mixer.in.weight": torch.ones(3, 3)},
            2,
            MisfitError,
            "'mixer.A_log' differs, and is neither a weight nor a bias",
        ),
    ],
)
def test_what_no_adapter_can_hold_is_refused(
    tmp_path: Path, model: Mapping[str, Tensor], base: Mapping[str, Tensor], rank: int, kind: type[EvommError], said: str
) -> None:
    with pytest.raises(kind, match=said):
        extract_lora(MemoryReader(model), MemoryReader(base), rank, tmp_path / "lora", base_name="b")
    assert list(tmp_path.iterdir()) == []


def test_a_taken_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(WriteFailed, match="exists already"):
        extract_lora(MemoryReader(ONE), MemoryReader(OTHER), 1, tmp_path, base_name="b")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
