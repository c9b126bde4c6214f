# Two images of the program `focus`:
#   docker build --target cpu -t focus:cpu .      # also without --target, as it is the last stage
#   docker build --target cuda -t focus:cuda .
#   docker run --rm -v "$PWD:/work" focus:cpu demo --out answer.png
#   docker run --rm --gpus all --shm-size 8g -v "$PWD:/work" focus:cuda grpo --num-gpus-per-learner 1
# The CUDA image takes torch from PyPI, whose wheels bring the CUDA libraries; the host needs a driver for them and the
# NVIDIA Container Toolkit. Ray keeps objects in /dev/shm, of which Docker gives 64 MB unless --shm-size says otherwise.

FROM python:3.12-slim AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY focus_env focus_env
COPY focus_agents focus_agents
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /dist .

FROM python:3.12-slim AS base
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
RUN useradd --create-home focus && mkdir /work && chown focus /work
WORKDIR /work
COPY --from=wheel /dist /dist
ENTRYPOINT ["focus"]
CMD ["--help"]

FROM base AS cuda
RUN pip install "$(echo /dist/*.whl)[train,baselines,video,api,quantized]"
USER focus

FROM base AS cpu
RUN pip install --extra-index-url https://download.pytorch.org/whl/cpu "$(echo /dist/*.whl)[train,baselines,video,api]"
USER focus
