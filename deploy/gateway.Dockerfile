# The gateway alone: no Triton, no torch. Build from the root of the repository:
#   docker build -f deploy/gateway.Dockerfile -t atoll:gateway .
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS environment
WORKDIR /source
COPY client client
# A wheel first: what is installed holds none of the sources' folders.
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels ./client \
    && python -m venv /opt/gateway \
    && /opt/gateway/bin/python -m pip install --no-cache-dir "$(ls /wheels/*.whl)[gateway,otel]"

FROM python:${PYTHON}-slim
COPY --from=environment /opt/gateway /opt/gateway
# A number, so that Kubernetes can tell that it is not root. Nothing has to be writable.
USER 65532:65532
ENV PATH=/opt/gateway/bin:${PATH} PYTHONDONTWRITEBYTECODE=1
ENV ATOLL_GATEWAY_HOSTNAME=0.0.0.0 ATOLL_GATEWAY_PORT=8080 ATOLL_GATEWAY_GRPC_PORT=8081
EXPOSE 8080 8081
HEALTHCHECK --interval=10s --timeout=5s --retries=3 --start-period=20s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://localhost:8080/v1/health/live', timeout=4)"]
ENTRYPOINT ["atoll-gateway"]
