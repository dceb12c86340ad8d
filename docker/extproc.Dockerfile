# syntax=docker/dockerfile:1
# The policy sidecar. From the project's root: docker build -f docker/extproc.Dockerfile -t extproc .
#
# BASE in a real build names the digest, which fixes the bytes: docker/README.md says how to find it.
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
WORKDIR /build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
RUN python -m venv /opt/extproc
# Locked by hash: a package whose bytes are others is refused. dev.txt has the build backend, locked as well.
COPY requirements/runtime.txt requirements/dev.txt requirements/
RUN /opt/extproc/bin/pip install --require-hashes -r requirements/runtime.txt
RUN python -m venv /opt/build \
 && /opt/build/bin/pip install --require-hashes --no-deps -r requirements/dev.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir wheels . \
 && /opt/extproc/bin/pip install --no-deps --no-index --find-links wheels extproc \
 && /opt/extproc/bin/python -m compileall -q /opt/extproc/lib

FROM ${BASE}
# 1338: see components/redirect-init of the manifests. The folders are mount points.
RUN groupadd --gid 1338 extproc \
 && useradd --uid 1338 --gid 1338 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin extproc \
 && mkdir -p /srv/gateway/config /srv/gateway/secrets /srv/gateway/state/envoy/run \
 && chown -R 1338:1338 /srv/gateway/state
COPY --from=build /opt/extproc /opt/extproc
ENV PATH=/opt/extproc/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    EXTPROC_CONFIG=/srv/gateway/config/gateway.yaml \
    EXTPROC_STATE=/srv/gateway/state
WORKDIR /srv/gateway
USER 1338:1338
EXPOSE 9464
# umask: Envoy has another user and the same group (the pod's fsGroup). To connect to a socket it needs the right to write.
ENTRYPOINT ["/bin/sh", "-c", "umask 0007 && exec extproc \"$@\"", "extproc"]
CMD ["serve"]
