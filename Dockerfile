# Slipway's images: one target per service, and `cli`. docs/images.md tells how to build and run them.
#
#   docker build --target gateway -t slipway/gateway .      compiles, too: a quarter of an hour
#   ./dev images                                            all five, reproducible, also where nothing can be pulled
#
# Debian 13 without extras, no compiler, no setuid program; user 10001; the root file system may be read-only. Nothing in
# here needs a shell to run. Stages that several images share are layers that a machine stores once. `./dev images` adds
# the labels version, revision and created.

ARG BASE=docker.io/library/debian:trixie-slim
# Where the programs come from: `build` compiles them; `prebuilt` takes those of build/images/bin, made by `./dev build`.
ARG BINARIES=build
# Digest of ./packages and images/install, for builders that do not look at what is mounted when they reuse a layer.
ARG LISTS=""

FROM ${BASE} AS build
ARG LISTS
RUN --mount=type=bind,source=packages,target=/run/slipway/packages \
    --mount=type=bind,source=images/install,target=/run/slipway/install \
    /run/slipway/install /run/slipway/packages build
COPY . /src
# With the flags of ./dev.
RUN --mount=type=cache,target=/ccache \
    cd /src && LANG=C.UTF-8 CCACHE_DIR=/ccache CCACHE_BASEDIR=/src CCACHE_NOHASHDIR=1 \
      CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime \
      sh -c 'cmake --preset release -DSLIPWAY_WERROR=ON && cmake --build build/release --target slipway-suite' && \
    mv build/release/bin /bin-out

FROM scratch AS prebuilt
COPY build/images/bin /bin-out

FROM ${BINARIES} AS binaries

# --- run time ---------------------------------------------------------------------------------------

FROM ${BASE} AS shared
ARG LISTS
RUN --mount=type=bind,source=packages,target=/run/slipway/packages \
    --mount=type=bind,source=images/install,target=/run/slipway/install \
    /run/slipway/install /run/slipway/packages gateway registry trainer inferencer cli && \
    echo 'slipway:x:10001:10001:Slipway:/nonexistent:/usr/sbin/nologin' >>/etc/passwd && \
    echo 'slipway:x:10001:' >>/etc/group && \
    install -d -o 10001 -g 10001 -m 0750 /var/lib/slipway /var/cache/slipway

FROM shared AS service
ARG LISTS
RUN --mount=type=bind,source=packages,target=/run/slipway/packages \
    --mount=type=bind,source=images/install,target=/run/slipway/install \
    /run/slipway/install /run/slipway/packages gateway registry trainer inferencer
# A container has a network of its own; who reaches it is up to what starts it.
ENV SLIPWAY_LISTEN_ADDRESS=0.0.0.0

FROM service AS torch
ARG LISTS
RUN --mount=type=bind,source=packages,target=/run/slipway/packages \
    --mount=type=bind,source=images/install,target=/run/slipway/install \
    /run/slipway/install /run/slipway/packages trainer inferencer

# --- images -----------------------------------------------------------------------------------------

FROM service AS gateway
COPY --from=binaries /bin-out/slipway-gateway /usr/bin/
EXPOSE 8080 7070 9090
USER 10001:10001
ENTRYPOINT ["/usr/bin/slipway-gateway"]
LABEL org.opencontainers.image.title="slipway-gateway" \
      org.opencontainers.image.description="Slipway's HTTP API: dialects, admission, routing; keeps nothing"

FROM service AS registry
ARG LISTS
RUN --mount=type=bind,source=packages,target=/run/slipway/packages \
    --mount=type=bind,source=images/install,target=/run/slipway/install \
    /run/slipway/install /run/slipway/packages registry
COPY --from=binaries /bin-out/slipway-registry /usr/bin/
ENV SLIPWAY_DATA_DIR=/var/lib/slipway
VOLUME /var/lib/slipway
EXPOSE 7071 7072 9090
USER 10001:10001
ENTRYPOINT ["/usr/bin/slipway-registry"]
LABEL org.opencontainers.image.title="slipway-registry" \
      org.opencontainers.image.description="Slipway's memory: models, versions, aliases, data sets, jobs, leases"

FROM torch AS trainer
ARG LISTS
RUN --mount=type=bind,source=packages,target=/run/slipway/packages \
    --mount=type=bind,source=images/install,target=/run/slipway/install \
    /run/slipway/install /run/slipway/packages trainer
COPY --from=binaries /bin-out/slipway-trainer /usr/bin/
ENV SLIPWAY_WORK_DIR=/var/cache/slipway
VOLUME /var/cache/slipway
EXPOSE 9090
USER 10001:10001
ENTRYPOINT ["/usr/bin/slipway-trainer"]
LABEL org.opencontainers.image.title="slipway-trainer" \
      org.opencontainers.image.description="Slipway's trainer: compiles a job to TorchScript, trains and publishes it"

FROM torch AS inferencer
ARG LISTS
RUN --mount=type=bind,source=packages,target=/run/slipway/packages \
    --mount=type=bind,source=images/install,target=/run/slipway/install \
    /run/slipway/install /run/slipway/packages inferencer
COPY --from=binaries /bin-out/slipway-inferencer /usr/bin/
ENV SLIPWAY_CACHE_DIR=/var/cache/slipway
VOLUME /var/cache/slipway
EXPOSE 9090
USER 10001:10001
ENTRYPOINT ["/usr/bin/slipway-inferencer"]
LABEL org.opencontainers.image.title="slipway-inferencer" \
      org.opencontainers.image.description="Slipway's inferencer: keeps model versions in memory and answers predictions"

FROM shared AS cli
ARG LISTS
RUN --mount=type=bind,source=packages,target=/run/slipway/packages \
    --mount=type=bind,source=images/install,target=/run/slipway/install \
    /run/slipway/install /run/slipway/packages cli
COPY --from=binaries /bin-out/slipway /usr/bin/
USER 10001:10001
ENTRYPOINT ["/usr/bin/slipway"]
LABEL org.opencontainers.image.title="slipway-cli" \
      org.opencontainers.image.description="The slipway command: uploads data, submits jobs, predicts, asks the doctor"
