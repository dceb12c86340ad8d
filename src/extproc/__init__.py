"""extproc: an LLM egress gateway. Envoy does the network, this sidecar the policy."""
