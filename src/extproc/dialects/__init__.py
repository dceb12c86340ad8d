"""Wire formats: where the model, the stream flag, the texts, the usage and the errors are, byte-exactly."""
