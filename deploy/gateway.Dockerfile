# The gateway alone: no Triton, no torch. Build from the root of the repository:
#   docker build -f deploy/gateway.Dockerfile -t atoll:gateway .
FROM python:3.11-slim

WORKDIR /opt/atoll
COPY client client
RUN python -m pip install --no-cache-dir './client[gateway,otel]' \
    && useradd --system --no-create-home gateway
USER gateway

ENV ATOLL_GATEWAY_HOSTNAME=0.0.0.0 ATOLL_GATEWAY_PORT=8080 ATOLL_GATEWAY_GRPC_PORT=8081
EXPOSE 8080 8081
ENTRYPOINT ["atoll-gateway"]
