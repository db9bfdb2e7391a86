"""What is fuzzed: every way into evomm by its name."""

from collections.abc import Mapping

from tests.fuzz import documents, files, formats, stores
from tests.fuzz.judge import Reader

READERS: Mapping[str, Reader] = {
    "safetensors": Reader(files.tensor_files, formats.safetensors, files.read_tensor_file, ".safetensors"),
    "index": Reader(files.indexes, formats.as_json, files.read_index, ".json"),
    "lora": Reader(files.adapter_configs, formats.as_json, files.read_adapter_config, ".json"),
    "model": Reader(files.models, formats.as_json, files.read_model, ".json"),
    "recipe": Reader(documents.recipes, formats.as_yaml, documents.read_merge, ".yaml"),
    "mergekit": Reader(documents.mergekit_files, formats.as_yaml, documents.read_merge, ".yaml"),
    "evolve": Reader(documents.configs, formats.as_yaml, documents.read_config, ".yaml"),
    "task": Reader(documents.task_files, formats.as_yaml, documents.read_task, ".yaml"),
    "store": Reader(stores.stores, stores.mutate_store, stores.read_store, ".bin"),
    "data": Reader(stores.data_files, stores.mutate_data, stores.read_data, ".bin"),
    "tokenizer": Reader(stores.tokenizer_files, formats.as_json, stores.read_tokenizer, ".json"),
}
