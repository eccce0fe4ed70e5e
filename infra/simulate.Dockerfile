# syntax=docker/dockerfile:1
# Rehearsals where there is no Python, on top of the gateway's own image. From the repository's root:
#   docker build -f infra/Dockerfile -t offhook .
#   docker build -f infra/simulate.Dockerfile -t offhook-simulate .
# and in the folder of the scenarios, which gets the results:
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" offhook-simulate table.call.yaml
# Packages by hash: `make pins` writes infra/rehearsal.txt.

ARG OFFHOOK=offhook
FROM ${OFFHOOK}
USER root
COPY infra/rehearsal.txt /opt/offhook/
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends espeak-ng \
 && rm -rf /var/lib/apt/lists/* \
 && /opt/offhook/bin/pip install --no-cache-dir --require-hashes --requirement /opt/offhook/rehearsal.txt
# Whoever runs it: lines that were synthesised, and fonts, are kept in /tmp.
ENV XDG_CACHE_HOME=/tmp/cache MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /work
USER 10001:10001
HEALTHCHECK NONE
ENTRYPOINT ["offhook", "simulate"]
CMD []
