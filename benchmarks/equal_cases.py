"""The mergekit configurations that benchmarks.merge_equal runs through both tools.

A case is a YAML text without dtypes, in which $base, $a, $b and $c stand for the folders of tiny models, and the runs it
is made in: which parents, which `dtype`, which `out_dtype`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Run:
    """Dtypes of one run: of the parents' files, and the file's `dtype` and `out_dtype`."""

    parents: str
    dtype: str | None
    out: str | None = None

    @property
    def arithmetic(self) -> str:
        """What mergekit computes in."""
        return self.dtype or self.parents

    @property
    def strict(self) -> bool:
        """Whether mergekit computes in float32, as evomm always does."""
        return self.arithmetic == "float32"


STRICT = Run("bfloat16", "float32", "bfloat16")
FULL = Run("float32", "float32")
ROUNDED = Run("bfloat16", "bfloat16")
HALF = Run("float16", "float32", "float16")


@dataclass(frozen=True)
class Case:
    """One configuration: its name, its YAML, its models' family, and the runs."""

    name: str
    text: str
    family: str = "llama"
    runs: tuple[Run, ...] = (STRICT, FULL, ROUNDED)
    sharded: bool = False


def listed(
    method: str,
    each: str | Mapping[str, str] = "",
    *,
    shared: str = "",
    of: str = "a b",
    base: str | None = "base",
    more: str = "",
) -> str:
    """The YAML of a `models:` configuration; each: flow parameters of every model, or of some by label."""
    lines = [f"merge_method: {method}"]
    if base:
        lines.append(f"base_model: ${base}")
    lines.append("models:")
    for label in of.split():
        own = each if isinstance(each, str) else each.get(label, "")
        lines.append(f"  - {{model: ${label}, parameters: {{{own}}}}}" if own else f"  - model: ${label}")
    if shared:
        lines.append(f"parameters: {{{shared}}}")
    return "\n".join([*lines, more]) + "\n"


def cases() -> tuple[Case, ...]:
    """All of them, names unique."""
    return (*_methods(), *_twins(), *_parameters(), *_slices(), *_tokenizers(), *_architectures(), *_dtypes())


RANDOM = ("dare_linear", "dare_ties", "della_linear", "della")


def _methods() -> Iterator[Case]:
    uneven = {"a": "weight: 0.3", "b": "weight: 0.9"}
    yield Case("linear/two", listed("linear", uneven, base=None), runs=(STRICT, FULL, ROUNDED, HALF))
    yield Case("linear/sum", listed("linear", uneven, base=None, shared="normalize: false"))
    yield Case("linear/three", listed("linear", {**uneven, "c": "weight: -0.2"}, base=None, of="a b c"))
    yield Case("linear/one", listed("linear", "weight: 1.0", base=None, of="a"))
    yield Case("linear/with-base", listed("linear", {"base": "weight: 0.2", **uneven}, of="base a b"))

    yield Case("slerp/t0.4", listed("slerp", shared="t: 0.4", base="a"), runs=(STRICT, FULL, ROUNDED, HALF))
    yield Case("slerp/base-second", listed("slerp", shared="t: 0.4", base="b"))
    yield Case("slerp/base-unlisted", listed("slerp", shared="t: 0.4", base="a", of="b"))
    yield Case("slerp/ends", listed("slerp", shared="t: [0, 1]", base="a"))

    weights = {"a": "weight: 0.4", "b": "weight: 0.6"}
    for base in (None, "base"):
        at = "base" if base else "plain"
        yield Case(f"nuslerp/{at}", listed("nuslerp", weights, base=base))
        yield Case(f"nuslerp/{at}-rows", listed("nuslerp", weights, base=base, shared="nuslerp_flatten: false"))
        columns = "nuslerp_flatten: false, nuslerp_row_wise: true"
        yield Case(f"nuslerp/{at}-row-wise", listed("nuslerp", weights, base=base, shared=columns))
        yield Case(f"multislerp/{at}", listed("multislerp", weights, base=base))
        three = {**weights, "c": "weight: 0.5"}
        yield Case(f"multislerp/{at}-three", listed("multislerp", three, base=base, of="a b c"))
        as_given = "normalize_weights: false, eps: 1e-6"
        yield Case(f"multislerp/{at}-as-given", listed("multislerp", weights, base=base, shared=as_given))
    yield Case("karcher/two", listed("karcher", base=None))
    yield Case("karcher/three", listed("karcher", base=None, of="a b c"))
    yield Case("karcher/settings", listed("karcher", base=None, of="a b c", shared="max_iter: 2, tol: 1e-7"))

    yield Case("task_arithmetic/two", listed("task_arithmetic", uneven), runs=(STRICT, FULL, ROUNDED, HALF))
    yield Case("task_arithmetic/three", listed("task_arithmetic", {**uneven, "c": "weight: -0.5"}, of="a b c"))
    yield Case("task_arithmetic/normalize", listed("task_arithmetic", uneven, shared="normalize: true"))
    yield Case("task_arithmetic/lambda", listed("task_arithmetic", uneven, shared="lambda: 0.7, normalize: true"))
    yield Case("task_arithmetic/base-listed", listed("task_arithmetic", uneven, of="a base b"))
    yield Case(
        "task_arithmetic/opposite", listed("task_arithmetic", {"a": "weight: 1", "b": "weight: -1"}, shared="normalize: true")
    )

    both = {"a": "weight: 0.4, density: 0.5", "b": "weight: 0.6, density: 0.3"}
    third = {**both, "c": "weight: 0.7, density: 0.6"}
    for method, extra in (("ties", ""), ("breadcrumbs", ", gamma: 0.02"), ("breadcrumbs_ties", ", gamma: 0.02")):
        own = {label: value + extra for label, value in both.items()}
        yield Case(f"{method}/two", listed(method, own), runs=(STRICT, FULL, ROUNDED, HALF))
        yield Case(f"{method}/three", listed(method, {label: value + extra for label, value in third.items()}, of="a b c"))
        yield Case(f"{method}/normalize-off", listed(method, own, shared="normalize: false"))
        yield Case(f"{method}/normalize-on", listed(method, own, shared="normalize: true"))
        yield Case(f"{method}/lambda", listed(method, own, shared="lambda: 1.3"))
        # The scale depends on which of equal magnitudes are kept, so only parents without equal ones can be compared.
        yield Case(f"{method}/rescale", listed(method, own, shared="rescale: true"), runs=(FULL,))
        yield Case(f"{method}/all", listed(method, "weight: 0.5, density: 1.0" + extra))
        yield Case(f"{method}/few", listed(method, "weight: 0.5, density: 0.01" + extra), runs=(FULL,))
        yield Case(f"{method}/defaults", listed(method, "weight: 0.5"))
    yield Case("ties/none", listed("ties", "weight: 0.5, density: 0.0"))
    yield Case("ties/int8-mask", listed("ties", both, shared="int8_mask: true"), runs=(FULL,))
    yield Case("breadcrumbs/gamma-high", listed("breadcrumbs", "weight: 0.5, density: 0.9, gamma: 0.2"), runs=(FULL,))

    yield Case("model_stock/two", listed("model_stock"), runs=(STRICT, FULL, ROUNDED, HALF))
    yield Case("model_stock/three", listed("model_stock", of="a b c"))
    yield Case("model_stock/filter-wise", listed("model_stock", shared="filter_wise: true"))

    yield Case("sce/all", listed("sce"))
    yield Case("sce/topk", listed("sce", of="a b c", shared="select_topk: 0.3"))
    yield Case("sce/topk-two", listed("sce", shared="select_topk: 0.5"), runs=(FULL, ROUNDED))
    yield Case("nearswap/small", listed("nearswap", of="a", shared="t: 0.0005"))
    yield Case("nearswap/large", listed("nearswap", of="a base", shared="t: 0.01"))
    yield Case("arcee_fusion/one", listed("arcee_fusion", of="a"))
    yield Case("ram/defaults", listed("ram"))
    yield Case("ram/three", listed("ram", of="a b c", shared="epsilon: 1e-3"))
    yield Case("ramplus_tl/defaults", listed("ramplus_tl"))
    yield Case("ramplus_tl/three", listed("ramplus_tl", of="a b c", shared="epsilon: 1e-3, r: 0.3, alpha: 0.5"))
    yield Case("passthrough/one", listed("passthrough", base=None, of="a"))
    yield Case("passthrough/scale", listed("passthrough", "scale: 0.5", base=None, of="a"))


def _twins() -> Iterator[Case]:
    """A parent that is the base itself: a task vector of zeros, an angle of zero."""
    for method in (
        "task_arithmetic",
        "ties",
        "breadcrumbs_ties",
        "model_stock",
        "sce",
        "ram",
        "ramplus_tl",
        "multislerp",
        "nuslerp",
    ):
        each = "" if method in {"model_stock", "sce", "ram", "ramplus_tl"} else "weight: 0.5"
        trim = ", density: 0.5" if "ties" in method else ""
        yield Case(f"twin/{method}", listed(method, each + trim, of="a twin"), runs=(STRICT, FULL))
    yield Case("twin/slerp", listed("slerp", shared="t: 0.4", of="twin"), runs=(STRICT, FULL))
    yield Case("twin/nearswap", listed("nearswap", shared="t: 0.001", of="twin"), runs=(STRICT, FULL))
    yield Case("twin/arcee_fusion", listed("arcee_fusion", of="twin"), runs=(STRICT, FULL))
    yield Case("twin/karcher", listed("karcher", of="base twin", base=None), runs=(STRICT, FULL))
    yield Case("twin/nuslerp-plain", listed("nuslerp", "weight: 0.5", of="base twin", base=None), runs=(STRICT, FULL))
    yield Case("twin/multislerp-plain", listed("multislerp", "weight: 0.5", of="base twin", base=None), runs=(STRICT, FULL))


def _parameters() -> Iterator[Case]:
    """Gradients, filters, levels, and ways to write a number."""
    middle = {"a": "weight: [0, 0.5, 1]", "b": "weight: [1, 0.5, 0.25]"}
    yield Case("parameters/gradient", listed("linear", middle, base=None))
    yield Case("parameters/gradient-long", listed("task_arithmetic", "weight: [0, 1, 0.5, 0.2, 0.9, 0.4]"))
    yield Case("parameters/gradient-one", listed("task_arithmetic", "weight: [0.7]"))
    yield Case("parameters/gradient-density", listed("ties", "weight: [0.2, 0.8], density: [1, 0.3]"), runs=(FULL, STRICT))
    yield Case(
        "parameters/gradient-lambda", listed("ties", "weight: 0.5, density: 0.5", shared="lambda: [0.5, 1.5]"), runs=(FULL,)
    )
    published = (
        "t: [{filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}, {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}, {value: 0.5}]"
    )
    yield Case("parameters/filters-published", listed("slerp", shared=published, base="a"))
    filtered = "weight: [{filter: self_attn, value: 0.2}, {filter: mlp.down_proj, value: [0.4, 0.9]}, {filter: '*', value: 0.5}]"
    yield Case("parameters/filters", listed("linear", {"a": filtered, "b": "weight: 0.5"}, base=None))
    yield Case(
        "parameters/filter-layer",
        listed("linear", {"a": filtered.replace("self_attn", "layers.2."), "b": "weight: 0.5"}, base=None),
    )
    alone = {"a": "weight: {filter: mlp, value: 0.8}", "b": "weight: 0.4"}
    yield Case("parameters/filter-then-global", listed("linear", alone, base=None, shared="weight: 0.3"))
    switched = "normalize: [{filter: self_attn, value: false}, {value: true}]"
    yield Case("parameters/filter-switch", listed("task_arithmetic", "weight: 0.7", shared=switched))
    yield Case("parameters/global-weight", listed("task_arithmetic", shared="weight: 0.4"))
    yield Case("parameters/global-and-own", listed("task_arithmetic", {"a": "weight: 0.9"}, shared="weight: 0.4"))
    yield Case("parameters/scientific", listed("linear", {"a": "weight: 3e-1", "b": "weight: 7.0e-1"}, base=None))
    yield Case("parameters/scientific-list", listed("task_arithmetic", "weight: [1e-1, 9e-1]"))
    yield Case("parameters/text", listed("linear", {"a": "weight: '0.25'", "b": "weight: 1"}, base=None))
    yield Case("parameters/unknown", listed("linear", "weight: 0.5", base=None, shared="wieght: 0.3"), runs=(FULL,))
    yield Case("parameters/missing", listed("task_arithmetic", {"a": "weight: 0.5"}), runs=(FULL,))
    modules = "merge_method: linear\nmodules:\n  default:\n    models:\n      - {model: $a, parameters: {weight: 0.3}}\n"
    yield Case("parameters/modules", modules + "      - {model: $b, parameters: {weight: 0.7}}\n")
    default = "merge_method: task_arithmetic\nbase_model: $base\nmodules:\n  default:\n    parameters: {weight: [0.2, 0.6]}\n"
    yield Case("parameters/modules-own", default + "    models: [{model: $a}, {model: $b}]\nparameters: {weight: 0.9}\n")


def _slices() -> Iterator[Case]:
    """Layer ranges: stacks, and merges whose parameters differ by slice."""

    def sliced(method: str, *slices: str, base: str | None = None, shared: str = "") -> str:
        head = f"merge_method: {method}\n" + (f"base_model: ${base}\n" if base else "")
        tail = f"parameters: {{{shared}}}\n" if shared else ""
        return head + "slices:\n" + "".join(f"  - {{{part}}}\n" for part in slices) + tail

    def source(label: str, low: int, high: int, own: str = "") -> str:
        return f"{{model: ${label}, layer_range: [{low}, {high}]" + (f", parameters: {{{own}}}}}" if own else "}")

    yield Case("slices/stack", sliced("passthrough", f"sources: [{source('a', 0, 3)}]", f"sources: [{source('b', 1, 4)}]"))
    repeated = sliced("passthrough", f"sources: [{source('a', 0, 3)}]", f"sources: [{source('a', 1, 4)}]")
    yield Case("slices/stack-repeated", repeated)
    zeroed = "scale: [{filter: o_proj, value: 0.0}, {filter: down_proj, value: 0.0}, {value: 1.0}]"
    expanded = (f"sources: [{source('a', 0, 2)}]", f"sources: [{source('a', 1, 2, zeroed)}]", f"sources: [{source('a', 2, 4)}]")
    yield Case("slices/stack-block-expansion", sliced("passthrough", *expanded))
    yield Case(
        "slices/stack-shorter", sliced("passthrough", f"sources: [{source('a', 0, 1)}]", f"sources: [{source('a', 3, 4)}]")
    )
    yield Case(
        "slices/stack-gpt2", sliced("passthrough", f"sources: [{source('a', 0, 3)}]", f"sources: [{source('b', 1, 4)}]"), "gpt2"
    )
    yield Case("slices/stack-tied", repeated, "llama-tied")
    yield Case("slices/stack-layer-types", repeated, "qwen2")
    for name, second in (("same", "weight: 0.3"), ("own", "weight: [0.9, 0.1]")):
        parts = (
            f"sources: [{source('a', 0, 2, 'weight: 0.3')}, {source('b', 0, 2, 'weight: 0.7')}]",
            f"sources: [{source('a', 2, 4, second)}, {source('b', 2, 4, 'weight: 0.7')}]",
        )
        yield Case(f"slices/linear-{name}", sliced("linear", *parts))
    shifted = (
        f"sources: [{source('a', 0, 2)}, {source('b', 2, 4)}], parameters: {{t: 0.3}}",
        f"sources: [{source('a', 1, 4)}, {source('b', 0, 3)}], parameters: {{t: [0.2, 0.8]}}",
    )
    yield Case("slices/slerp-shifted", sliced("slerp", *shifted, base="a"))
    yield Case(
        "slices/slerp-shared",
        sliced("slerp", f"sources: [{source('a', 0, 4)}, {source('b', 0, 4)}]", base="a", shared="t: [0, 1]"),
    )
    trio = f"sources: [{source('base', 0, 2)}, {source('a', 0, 2, 'weight: 0.5')}, {source('b', 0, 2, 'weight: 0.4')}]"
    other = (
        f"sources: [{source('base', 2, 4)}, {source('a', 2, 4)}, {source('b', 2, 4)}], parameters: {{weight: 0.8, density: 0.3}}"
    )
    ties = sliced("ties", f"{trio}, parameters: {{density: 0.6}}", other, base="base", shared="lambda: 0.9")
    yield Case("slices/ties", ties, runs=(FULL, ROUNDED))
    own = f"sources: [{source('a', 0, 4)}, {source('b', 0, 4)}], base_model: $b"
    yield Case("slices/own-base", sliced("slerp", own, base="a", shared="t: 0.25"))
    single = f"sources: [{source('a', 1, 2, 'weight: [0.2, 0.6]')}, {source('b', 1, 2, 'weight: [1, 0.5]')}]"
    yield Case("slices/one-layer-gradient", sliced("linear", single))


def _tokenizers() -> Iterator[Case]:
    """Parents whose tokens stand in another order or are more; added tokens differ between parents."""
    weights = {"a": "weight: 0.3", "b": "weight: 0.5", "c": "weight: 0.4", "base": "weight: 0.2"}
    for family in ("vocabulary", "vocabulary-tied"):
        for source in ("union", "base", "$b"):
            name = f"tokenizer/{source.strip('$')}" + ("-tied" if "tied" in family else "")
            linear = listed("linear", weights, of="base a b", more=f"tokenizer_source: {source}")
            yield Case(name, linear, family)
    more = "tokenizer_source: union"
    yield Case("tokenizer/union-three", listed("linear", weights, of="base a b c", more=more), "vocabulary")
    yield Case("tokenizer/union-task", listed("task_arithmetic", weights, of="a b", more=more), "vocabulary")
    yield Case("tokenizer/union-slerp", listed("slerp", shared="t: 0.4", base="a", more=more), "vocabulary")
    new = "tokenizer: {source: union, tokens: {<think>: {source: $c, force: true}, hello: {source: {kind: zero}}}}"
    yield Case("tokenizer/tokens", listed("linear", weights, of="base a b c", more=new), "vocabulary")
    token = "tokenizer: {source: union, tokens: {<new>: {source: {kind: model_token, model: $base, token: t}}}}"
    yield Case("tokenizer/tokens-model-token", listed("linear", weights, of="base a b", more=token), "vocabulary")
    padded = "tokenizer: {source: union, pad_to_multiple_of: 64}"
    yield Case("tokenizer/padded", listed("linear", weights, of="base a b", more=padded), "vocabulary")
    yield Case("tokenizer/same", listed("linear", weights, base=None, more=more), runs=(STRICT, FULL))
    yield Case("tokenizer/misfit", listed("linear", weights, of="base b"), "vocabulary", runs=(FULL,))
    for template in ("chatml", "alpaca", "llama3", "mistral", "exaone"):
        named = listed("linear", weights, base=None, more=f"chat_template: {template}")
        yield Case(f"tokenizer/chat-{template}", named, runs=(FULL,))
    own = """chat_template: "{% for message in messages %}{{ message['content'] }}{{ eos_token }}{% endfor %}\""""
    yield Case("tokenizer/chat-own", listed("linear", weights, base=None, more=own), runs=(FULL,))
    auto = listed("linear", weights, base=None, of="c a b", more="chat_template: auto")
    yield Case("tokenizer/chat-auto", auto, "llama-chat", runs=(FULL,))


def _architectures() -> Iterator[Case]:
    filters = "t: [{filter: attn, value: [0, 1]}, {filter: mlp, value: [1, 0]}, {value: 0.5}]"
    for family in ("mistral", "qwen2", "gemma2", "gpt2", "phi"):
        for sharded in (False, True):
            at = f"{family}{'-shards' if sharded else ''}"
            yield Case(f"architecture/{at}-slerp", listed("slerp", shared=filters, base="a"), family, sharded=sharded)
        yield Case(f"architecture/{family}-ties", listed("ties", "weight: [0.4, 0.6], density: 0.5"), family, (FULL, STRICT))
    yield Case("architecture/llama-shards-ties", listed("ties", "weight: 0.5, density: 0.5"), runs=(FULL, STRICT), sharded=True)


def _dtypes() -> Iterator[Case]:
    text = listed("task_arithmetic", {"a": "weight: 0.3", "b": "weight: 0.9"})
    settings = (
        ("bfloat16", None, None),
        ("float16", None, None),
        ("float32", None, None),
        ("float32", "float16", None),
        ("float32", "bfloat16", None),
        ("bfloat16", "float32", None),
        ("bfloat16", None, "float32"),
        ("bfloat16", "bfloat16", "float32"),
        ("float16", "float32", "float16"),
        ("float32", "float32", "bfloat16"),
        ("float32", "float16", "float32"),
        ("bfloat16", "float16", None),
    )
    for parents, dtype, out in settings:
        yield Case(f"dtype/{parents}-{dtype or 'none'}-{out or 'none'}", text, runs=(Run(parents, dtype, out),))
    mixed = text.replace("$a,", "$a_float32,")
    yield Case("dtype/mixed-none", mixed, runs=(Run("bfloat16", None),))
    yield Case("dtype/mixed-float32", mixed, runs=(Run("bfloat16", "float32", "bfloat16"),))
