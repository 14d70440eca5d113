# Two images of one source, each with no more than it needs:
#   docker build --target gateway -t potluck .          docker run -p 127.0.0.1:7171:7171 -v potluck:/data potluck
#   docker build --target node -t potluck-node .        see docs/how-to/enrol-a-node.md
# Neither runs as root, holds a build tool or pip, or installs a package whose hash is not in requirements/.

FROM debian:bookworm-slim AS base
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --system --gid 10001 potluck \
 && useradd --system --uid 10001 --gid potluck --home-dir /data --shell /usr/sbin/nologin potluck \
 && install --directory --owner potluck --group potluck --mode 0700 /data

FROM base AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /source
RUN python3 -m venv /tools \
 && python3 -m venv --without-pip /opt/gateway \
 && python3 -m venv --without-pip /opt/node
COPY requirements requirements
RUN /tools/bin/pip --python /opt/node/bin/python install --no-cache-dir --require-hashes --only-binary :all: \
      --requirement requirements/node.txt
RUN /tools/bin/pip --python /opt/gateway/bin/python install --no-cache-dir --require-hashes --only-binary :all: \
      --requirement requirements/serve.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/gateway/bin/python -m hatchling build --target wheel --directory /dist \
 && /tools/bin/pip --python /opt/node/bin/python install --no-index --no-deps /dist/*.whl \
 && /tools/bin/pip --python /opt/gateway/bin/python install --no-index --no-deps /dist/*.whl \
 && /tools/bin/pip --python /opt/gateway/bin/python uninstall --yes hatchling editables

FROM base AS gateway
COPY --from=build /opt/gateway /opt/gateway
ENV PATH=/opt/gateway/bin:/usr/bin:/bin POTLUCK_HOME=/data POTLUCK_HOST=0.0.0.0 POTLUCK_PORT=7171
USER potluck
WORKDIR /data
VOLUME /data
EXPOSE 7171
HEALTHCHECK --start-period=30s CMD ["python3", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"POTLUCK_PORT\"]}/readyz')"]
ENTRYPOINT ["potluck"]
CMD ["serve"]

FROM base AS node
COPY --from=build /opt/node /opt/node
COPY scripts/container-node /usr/local/bin/container-node
ENV PATH=/opt/node/bin:/usr/local/bin:/usr/bin:/bin POTLUCK_NODE_HOME=/data
USER potluck
WORKDIR /data
VOLUME /data
ENTRYPOINT ["container-node"]
