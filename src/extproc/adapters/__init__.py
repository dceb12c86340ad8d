"""All I/O and all protobuf: transports, codec, stores, sinks, files, processes."""
