"""Parents with different vocabularies (added tokens, other ids), aligned by token so that a merge of them means something.

tokenizer reads tokenizer.json and edit makes new ones; alignment finds the child's tokens and who has them, checks says what
speaks against it; rows and reader give each parent the child's vocabulary; files writes the child's tokenizer and ids.

spec = Vocabulary(source="union")                              # evomm/merge/vocabulary.py; what recipes hold
alignment = align(spec, folders, vocab_sizes, base="a")
readers["b"] = AlignedReader("b", readers, alignment, spec, {"model.embed_tokens.weight": 0})
texts = child_files(alignment, folders[alignment.carrier])
config = renumber(config, alignment, folders["a"])             # the folder whose config it is
"""

from evomm.adapters.vocabulary.alignment import Alignment, align
from evomm.adapters.vocabulary.files import VOCABULARY_FILES, child_files, renumber
from evomm.adapters.vocabulary.reader import AlignedReader

__all__ = ["VOCABULARY_FILES", "AlignedReader", "Alignment", "align", "child_files", "renumber"]
