# One image for every role: web (the default), worker and migrations. nginx is the stock image and is
# given what lies under /srv/service/front. `--target development` reloads and catches mail.
# checkov:skip=CKV_DOCKER_7: the ARG has the version
ARG PYTHON_IMAGE=python:3.13-slim-bookworm

# --- all packages, and what installs them ---------------------------------------------------------
FROM ${PYTHON_IMAGE} AS packages
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# strip, for libraries that wheels ship with their debug symbols: 43 MB of them.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends binutils && rm -rf /var/lib/apt/lists/*
WORKDIR /srv/service
COPY requirements-build.txt requirements.txt ./
# The environment has no pip: the base image's fills it, and stays behind.
RUN python -m venv --without-pip /opt/venv \
 && pip install --quiet --no-compile --require-hashes --only-binary :all: --target /opt/backend -r requirements-build.txt \
 && pip --python /opt/venv/bin/python install --quiet --no-compile --require-hashes --only-binary :all: -r requirements.txt \
 && find /opt/venv \( -name tests -o -name testing \) -type d -prune -exec rm -rf {} + \
 # Of what botocore knows of all of AWS: how to get a key. 28 MB speak of other services.
 && find /opt/venv/lib/python*/site-packages/botocore/data -mindepth 1 -maxdepth 1 -type d \
    ! -name sts ! -name 'sso*' ! -name signin -exec rm -rf {} + \
 # Of seven Luas the one that the stand-in for Redis runs, and of Google's protocols what OTLP speaks.
 && find /opt/venv/lib/python*/site-packages/lupa -name 'lua*.so' ! -name 'lua51.*' -delete \
 && find /opt/venv/lib/python*/site-packages/google -mindepth 1 -maxdepth 1 -type d \
    ! -name protobuf ! -name _upb ! -name rpc -exec rm -rf {} + \
 # And AVIF, the largest format that Pillow reads and the service does not.
 && find /opt/venv \( -path '*/PIL/_avif.*.so' -o -path '*/pillow.libs/libavif-*' \) -delete \
 && find /opt/venv \( -name '*.pyx' -o -name '*.pyi' -o -name '*.c' -o -name '*.h' \) -type f -delete \
 && find /opt/venv -name '*.so*' -type f -exec strip --strip-unneeded {} + \
 # Known by a hash of the source and not by its time, so that two builds of a commit have the same files.
 && PYTHONHASHSEED=0 python -m compileall -q --invalidation-mode unchecked-hash /opt/venv/lib

# --- the code: a change of it leaves the packages as they are -------------------------------------
FROM packages AS build
COPY pyproject.toml README.md ./
COPY src src
RUN PYTHONPATH=/opt/backend pip --python /opt/venv/bin/python install --quiet --no-compile --no-deps --no-build-isolation \
    --editable . \
 && PYTHONHASHSEED=0 python -m compileall -q --invalidation-mode checked-hash src \
 && /opt/venv/bin/service static front/static
COPY nginx.conf deploy/nginx front/
COPY migrations migrations
COPY gunicorn_async_config.py ./
# Whatever the umask of who cloned it: another user runs it.
RUN chmod -R u=rwX,go=rX /srv/service

# --- what reloads, and catches mail: the whole development lock on top ----------------------------
FROM packages AS development
COPY requirements-dev.txt ./
RUN pip --python /opt/venv/bin/python install --quiet --require-hashes --only-binary :all: -r requirements-dev.txt
COPY --from=build /srv/service ./
RUN PYTHONPATH=/opt/backend pip --python /opt/venv/bin/python install --quiet --no-deps --no-build-isolation \
    --editable . \
 && install -d -o 10001 -g 10001 /srv/media /srv/service/var
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 UPLOAD_FOLDER=/srv/media
USER 10001:10001
HEALTHCHECK --interval=5s --timeout=4s --start-period=30s CMD ["service", "health", "ready"]
CMD ["watchfiles", "gunicorn -c gunicorn_async_config.py", "src", "gunicorn_async_config.py"]

# --- what runs in production ----------------------------------------------------------------------
FROM ${PYTHON_IMAGE}
# Volumes take owner and mode from here. Numbers, as Kubernetes cannot tell whether a name is root.
RUN install -d -o 10001 -g 10001 /srv/media /srv/front /run/service
COPY --from=build /opt/venv /opt/venv
COPY --from=build /srv/service /srv/service
WORKDIR /srv/service
# A configuration that is not fit for production is refused, and not run as if it were development.
# A socket's folder is a volume that nginx shares, as another user, and nobody else.
ENV ENVIRONMENT=production \
    PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    BIND=0.0.0.0:8000 \
    BIND_MODE=0666 \
    UPLOAD_FOLDER=/srv/media
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=4s --start-period=120s CMD ["service", "health", "ready"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="service" \
      org.opencontainers.image.description="An async FastAPI service that is already in production" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV REVISION=${REVISION}
# SIGTERM drains. No init beside: Gunicorn's master and the worker reap what they are given.
STOPSIGNAL SIGTERM
CMD ["gunicorn", "-c", "gunicorn_async_config.py"]
