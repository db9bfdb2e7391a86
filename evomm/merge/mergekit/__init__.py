"""Documents of mergekit 0.1.5 (https://github.com/arcee-ai/mergekit), read as they are and turned into recipes."""
