"""Fuzzers of everything that evomm reads from others: `python -m tests.fuzz.run READER --minutes 10 --seed 0`.

mutate     what is done to inputs: bytes, texts, and the nodes of JSON and YAML
formats    the same for whole inputs: JSON, YAML, safetensors, lines, SQLite
judge      runs one input; whatever is neither read nor refused by an EvommError is a finding
files, documents, stores    how each reader reads, its seeds, and what it must never accept
table      READERS, a literal dict
results    the log of `run` as a table
corpus/    the smallest input of every finding so far; `test_corpus` replays them in the normal suite
"""
