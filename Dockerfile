# The agent's image for several platforms at once, where there is a registry:
#   docker buildx build --platform linux/amd64,linux/arm64,linux/arm/v7 --tag REGISTRY/meshlb-agent:VERSION --push .
# Without one: scripts/image, which makes the same files.
FROM debian:bookworm-slim AS build
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev python3-dev python3-venv
COPY . /source
RUN /source/scripts/image --root /image

FROM scratch
COPY --from=build /image /
ENV PATH=/opt/meshlb/bin:/usr/bin:/usr/sbin
# Whether this container's agent is the node's: a Swarm service's new task is, before the one before it is let go of.
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s CMD ["python3", "-I", "-S", "/opt/meshlb/probe.py"]
ENTRYPOINT ["/opt/meshlb/bin/meshlb-agent", "--keeper", "--replace"]
