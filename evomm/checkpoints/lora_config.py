"""What peft's adapter_config.json says of the weights; a variant of LoRA that evomm cannot apply is refused by its key.

Keys and their meaning: https://huggingface.co/docs/peft/package_reference/lora (LoraConfig).
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, PositiveInt, field_validator

from evomm.checkpoints.reader import inside, read_json
from evomm.errors import DamagedFile, MissingFile, UsageError
from evomm.plain import Plain, parse

CONFIG = "adapter_config.json"
_ALPHAS = 1e6  # to which alphas are believed; those in use have three digits
# A pattern whose repeats stand side by side a few times at most, and never around each other, is tried in no time on any name.
_REPEATS = 4
_NESTED = re.compile(r"\)[*+?{]")
WEIGHTS = "adapter_model.safetensors"
WAY_OUT = "merge it into its base with peft's merge_and_unload, and use the result as a model"

# Of training, or of which modules were chosen, which the stored tensors tell too: none changes what the tensors mean.
_HARMLESS = frozenset(
    [
        "auto_mapping",
        "bias",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "runtime_config",
        "target_modules",
        "task_type",
    ]
)
# The other ways to start training (pissa, olora, corda, loftq, ...) change the base's own weights first.
_STARTS = (True, False, "gaussian", "eva", "orthogonal")


class LoraConfig(Plain):
    """The keys that W + ΔW depends on; defaults are peft's."""

    model_config = ConfigDict(extra="ignore")  # what is ignored was looked at by `read_config`

    r: PositiveInt = 8
    lora_alpha: float = Field(default=8, ge=-_ALPHAS, le=_ALPHAS)
    use_rslora: bool = False
    fan_in_fan_out: bool = False
    rank_pattern: Mapping[str, PositiveInt] = Field(default_factory=dict)
    alpha_pattern: Mapping[str, Annotated[float, Field(ge=-_ALPHAS, le=_ALPHAS)]] = Field(default_factory=dict)
    base_model_name_or_path: str | None = None
    revision: str | None = None

    @field_validator("rank_pattern", "alpha_pattern", mode="before")
    @classmethod
    def _compiles(cls, patterns: Any) -> Any:
        for pattern in patterns if isinstance(patterns, dict) else ():
            try:
                re.compile(rf"(.*\.)?({pattern})$")  # as it is used
            except (re.error, TypeError, RecursionError, OverflowError) as error:
                raise ValueError(f"'{pattern}' is no regular expression ({error})") from error
            if _NESTED.search(pattern) or len(re.findall(r"[*+{]", pattern)) > _REPEATS:
                raise ValueError(f"'{pattern}' repeats groups, or too often: matching it could take for ever; name the modules")
        return {} if patterns is None else patterns

    @property
    def base(self) -> str | None:
        """The model that it was trained on, ``name`` or ``name@revision``; None when the adapter does not say."""
        name = self.base_model_name_or_path or None
        return f"{name}@{self.revision}" if name and self.revision else name

    def rank(self, module: str) -> int:
        """Rank of a module, by its name in the adapter."""
        return int(_first(self.rank_pattern, module, self.r))

    def scaling(self, module: str) -> float:
        """What B @ A is multiplied by: alpha / r, or alpha / sqrt(r) of rank-stabilised LoRA (arXiv 2312.03732)."""
        rank = self.rank(module)
        return _first(self.alpha_pattern, module, self.lora_alpha) / (math.sqrt(rank) if self.use_rslora else rank)


def read_config(folder: Path) -> LoraConfig:
    """The adapter's config.

    Raises:
        MissingFile: the folder or its adapter_config.json is not there.
        DamagedFile: it is no JSON object, or a value is not what it should be.
        UsageError: another kind of adapter, or a variant of LoRA that evomm cannot apply.
    """
    if not folder.is_dir():
        raise MissingFile(f"{folder}: expected an adapter folder, found {'a file' if folder.exists() else 'nothing'}")
    if not (folder / CONFIG).exists():
        raise MissingFile(f"{folder}: expected {CONFIG}, as peft's save_pretrained writes it; is this a LoRA adapter?")
    path = inside(folder, CONFIG)
    return parse_config(read_json(path), path)


def parse_config(raw: Mapping[str, Any], path: Path) -> LoraConfig:
    """The config in a file; raises DamagedFile and UsageError as `read_config`."""
    _refuse_unsupported(raw, path)
    try:
        return parse(LoraConfig, raw, str(path))
    except UsageError as error:  # it is peft's file, not the user's
        raise DamagedFile(f"{error}; download or save the adapter again") from error


def _refuse_unsupported(raw: Mapping[str, Any], path: Path) -> None:
    if raw.get("peft_type") != "LORA":
        raise UsageError(f"{path}: expected peft_type 'LORA', found {raw.get('peft_type')!r}; {WAY_OUT}")
    start = raw.get("init_lora_weights", True)
    if start not in _STARTS:
        raise UsageError(
            f"{path}: init_lora_weights is {start!r}, which changes the base's weights too; convert the adapter with "
            "save_pretrained(..., path_initial_model_for_weight_conversion=...), or " + WAY_OUT
        )
    for key, value in raw.items():
        if value and key not in _HARMLESS and key not in LoraConfig.model_fields:
            raise UsageError(f"{path}: {key} is {value!r}, a variant of LoRA that evomm cannot apply; {WAY_OUT}")


def _first(patterns: Mapping[str, float], module: str, default: float) -> float:
    """The value of the first pattern that matches the module's name or a tail of it, as in peft."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)
