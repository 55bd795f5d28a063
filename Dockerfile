# Builds two images from one tree:
#
#   docker build -t orchestratord .                              the orchestrator (the last stage)
#   docker build -t orchestratord-profiler --target profiler .   the same with bpftrace, for the DaemonSet
#
# BASE is any Debian-based image: a python:slim as it is, or a plain Debian, which gets its python3 from apt.
# buildah keeps HEALTHCHECK only with `--format docker`; Kubernetes has its own probes and does not need it.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

# The base with an interpreter: the one that the virtual environment of both later stages points to. And with the
# authorities that https upstreams are checked by, which a python:slim has.
FROM ${BASE} AS python
# A configuration of your own for apt, that a mount brings.
ARG APT_CONFIG
RUN command -v python3 >/dev/null || { \
        apt-get update \
        && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3 ca-certificates \
        && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log; \
    }

FROM python AS build
# A package index of your own: pip reads these names. They stay in this stage.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_CERT
ARG APT_CONFIG
# Debian keeps ensurepip in a package of its own.
RUN python3 -c 'import ensurepip' 2>/dev/null || { \
        apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3-venv; \
    }
# pip lives in one environment and installs into another, which therefore never contains it.
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/orchestratord
WORKDIR /src
COPY pyproject.toml setup.cfg README.md LICENSE ./
COPY plugins plugins
COPY orchestratord orchestratord
# orchestratord/rules.yml is a link to it.
COPY etc/prometheus/rules.yml etc/prometheus/rules.yml
RUN /opt/pip/bin/pip --python /opt/orchestratord/bin/python3 install --no-cache-dir --no-compile .
# What a read-only root cannot write later is written now: the bytecode (unchecked, so that no builder's idea of file
# times makes it stale) and twistd's plugin cache. The libraries' own tests stay behind.
WORKDIR /
RUN find /opt/orchestratord/lib -type d \( -name test -o -name tests \) -path '*/site-packages/*' -prune -exec rm -rf {} + \
    && /opt/orchestratord/bin/python3 -m compileall -q --invalidation-mode unchecked-hash /opt/orchestratord/lib \
    && /opt/orchestratord/bin/python3 -B -c 'from twisted import plugin; list(plugin.getPlugins(plugin.IPlugin))' \
    && test -s /opt/orchestratord/lib/python3*/site-packages/twisted/plugins/dropin.cache

FROM python AS runtime
ARG BASE
LABEL org.opencontainers.image.title="orchestratord" \
      org.opencontainers.image.description="Keeps the latest profile of every Kubernetes node in memory, for Prometheus to scrape and schedulers to ask." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE}"
# A python:slim brings pip along; nothing here installs anything. The data folder belongs to the numeric user below,
# so that Kubernetes can tell that it is not root, and to group 0, which any other user has where a platform chooses the user
# (OpenShift).
RUN if [ -x /usr/local/bin/pip3 ]; then /usr/local/bin/pip3 uninstall --yes --quiet pip setuptools wheel; fi \
    && rm -rf "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')/ensurepip" \
    && install --directory --owner=65532 --group=0 --mode=0770 /var/lib/orchestratord
COPY --from=build /opt/orchestratord /opt/orchestratord
ENV PATH=/opt/orchestratord/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORCHESTRATOR_DATA_DIR=/var/lib/orchestratord
# twistd puts its working directory on the module path: not a folder that the daemon can write.
WORKDIR /

FROM runtime AS profiler
LABEL org.opencontainers.image.title="orchestratord-profiler" \
      org.opencontainers.image.description="Measures its node with eBPF and reports it to an orchestrator every 10 seconds."
ARG APT_CONFIG
# util-linux for setpriv, which ties bpftrace's life to its parent's.
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends bpftrace util-linux \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log
# bpftrace refuses any other user. Everything else is taken away where it is run: k8s/profiler/.
USER 0:0
ENTRYPOINT ["twistd", "--nodaemon", "--pidfile=", "profiler"]
CMD []

FROM runtime AS orchestrator
USER 65532:65532
VOLUME ["/var/lib/orchestratord"]
EXPOSE 5000
# No curl in the image, and no proxy from the environment: this is about this very process. It asks the default port;
# with another --listen, override it or turn it off (--no-healthcheck).
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
    CMD ["python3", "-S", "-c", "import http.client as h, sys; c = h.HTTPConnection('127.0.0.1', 5000, timeout=4); c.request('GET', '/-/healthy'); sys.exit(c.getresponse().status != 200)"]
# Options follow: `docker run orchestratord --stale-after 30`, or `args:` in Kubernetes.
ENTRYPOINT ["twistd", "--nodaemon", "--pidfile=", "orchestrator"]
CMD []
