# syntax=docker/dockerfile:1
# nftables, for the init container of the sidecar. From the project's root: docker build -f docker/redirect.Dockerfile -t redirect .
#
# BASE in a real build names the digest, which fixes the bytes: docker/README.md says how to find it.
ARG BASE=debian:bookworm-slim

FROM ${BASE}
RUN apt-get update \
 && apt-get install --yes --no-install-recommends nftables \
 && rm -rf /var/lib/apt/lists/*
# Root in a pod that gives it NET_ADMIN and nothing else; by itself the image runs as nobody and can do nothing.
USER 65534:65534
ENTRYPOINT []
CMD ["nft", "--version"]
