# The operator's image. The base needs python3 (3.11 or later) with venv; both stages use it, so that the interpreter's
# path is the same. Releases pin it: --build-arg BASE=NAME@sha256:DIGEST
#
# pip's settings (index, certificates) come as optional secrets and leave no trace in any layer:
#   --secret id=pip.conf,src=FILE
#   --secret id=ca.crt,src=FILE     (which pip.conf names as cert = /run/secrets/ca.crt)
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1 PIP_QUIET=1
# The installer has a place of its own: the shipped environment gets neither pip nor a build backend.
RUN python3 -m venv /installer && python3 -m venv --without-pip /opt/plimsoll
WORKDIR /src
COPY requirements.lock requirements-build.lock ./
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.crt,target=/run/secrets/ca.crt \
    /installer/bin/pip install --require-hashes --only-binary :all: -r requirements-build.lock \
    && /installer/bin/pip --python /opt/plimsoll/bin/python install --require-hashes --only-binary :all: -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY operator operator
# No index from here on. Bytecode is compiled now (the root file system is read-only later) and never checked against its source.
RUN /installer/bin/pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /installer/bin/pip --python /opt/plimsoll/bin/python install --no-index --no-deps /wheels/*.whl \
    && /opt/plimsoll/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/plimsoll/lib

FROM ${BASE}
LABEL org.opencontainers.image.title="plimsoll" org.opencontainers.image.licenses="Apache-2.0"
# A user name, since a number without an entry in /etc/passwd has none (kopf asks for it).
ENV PATH=/opt/plimsoll/bin:$PATH HOME=/tmp USER=plimsoll PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
COPY --from=build /opt/plimsoll /opt/plimsoll
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["plimsoll"]
CMD ["run"]
