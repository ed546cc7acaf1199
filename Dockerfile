# The image that cells run in; `python -m jobs.launch --cluster docker` builds it by itself.
#
#   docker build -t calgrid .                                       CUDA, from the package index
#   docker build --build-arg TORCH=cpu -t calgrid .                 no CUDA: a tenth of the size
#   docker build --build-context wheels=FOLDER --build-arg PIP_FIND_LINKS=/wheels ...
#                                                                   wheels of this machine first
#
# Layers go from what changes least to what changes most; code comes last.
ARG BASE_IMAGE=python:3.12-slim

# Stands for the folder of wheels where none is given.
FROM scratch AS wheels

FROM ${BASE_IMAGE}

RUN --mount=type=bind,source=cluster/image.sh,target=/src/image.sh sh /src/image.sh compiler

# cuda = the build that the package index has; cpu, cu126, cu128, ... = that build of the same version
ARG TORCH=cuda
# an address or a folder that pip looks into besides the index
ARG PIP_FIND_LINKS=
ARG PIP_INDEX_URL=
ARG PIP_EXTRA_INDEX_URL=
RUN --mount=type=bind,source=cluster/image.sh,target=/src/image.sh \
    --mount=type=bind,source=constraints.txt,target=/src/constraints.txt \
    --mount=type=bind,source=pyproject.toml,target=/src/pyproject.toml \
    --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=cache,target=/root/.cache/pip \
    sh /src/image.sh dependencies

RUN --mount=type=bind,target=/src,rw sh /src/cluster/image.sh code

# The root is read-only where cells run, so everything that is written goes to /tmp.
ENV HOME=/tmp/home USER=calgrid PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
WORKDIR /tmp

ARG GIT_COMMIT=
ARG CONSTRAINTS_SHA256=
ARG CODE_SHA256=
ENV CALGRID_COMMIT=${GIT_COMMIT}
LABEL org.opencontainers.image.title=calgrid \
    org.opencontainers.image.revision=${GIT_COMMIT} \
    calgrid.constraints=${CONSTRAINTS_SHA256} \
    calgrid.code=${CODE_SHA256}

# Process 1 passes signals on, waits for orphans, and ends when its launcher is gone.
ENTRYPOINT ["python", "-P", "-m", "cluster.pid1"]
CMD ["python", "-P", "-m", "jobs.launch", "--help"]
