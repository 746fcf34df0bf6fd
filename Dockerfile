# segfix on the CPU:       docker build -t segfix .
# segfix on NVIDIA's GPUs: docker build -t segfix:cuda --build-arg EXTRAS=cuda,report .
ARG PYTHON=3.13

FROM python:${PYTHON}-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY segfix segfix
COPY weights weights
RUN pip install --no-cache-dir build && python -m build --wheel --outdir /wheels

FROM python:${PYTHON}-slim-bookworm
# Of pyproject.toml; onnxruntime-gpu, which segfix asks for, runs on the CPU, too, and `cuda` brings
# the libraries that it needs for a GPU. onnxruntime itself is never installed beside it.
ARG EXTRAS=report
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir "$(echo /wheels/*.whl)[${EXTRAS}]" && rm -r /wheels \
    && useradd --create-home --uid 1000 segfix
USER segfix
WORKDIR /data
ENV PYTHONUNBUFFERED=1 SEGFIX_HOME=/home/segfix/weights
ENTRYPOINT ["segfix"]
CMD ["--help"]
