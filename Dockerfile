# The server with the bundled models. The base may be any image with Python 3.11 or newer and glibc.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY server server
COPY export export
RUN python -m venv /opt/elman && /opt/elman/bin/pip install --no-cache-dir '.[server,redis]'

FROM ${BASE}
COPY --from=build /opt/elman /opt/elman
# The loopback address of a container is unreachable from outside.
ENV PATH=/opt/elman/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ELMAN_HOST=0.0.0.0 \
    ORT_DISABLE_TELEMETRY=1
USER 10001:10001
WORKDIR /models
EXPOSE 50051 9464
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["elman", "health"]
ENTRYPOINT ["elman"]
CMD ["serve", "--demo"]
