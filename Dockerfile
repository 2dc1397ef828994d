# Trains and evaluates: docker build -t twotower . && docker run --rm -v "$PWD/runs:/data" twotower train /data/run.toml --to /data/bundle
# Serves: docker build --build-arg EXTRAS='[serve]' -t twotower . ; see docs/how-to/deploy.md
# For a GPU: docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126 …, and docker run --gpus all …
FROM python:3.11-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=
WORKDIR /package
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" ".$EXTRAS" \
    && useradd --create-home twotower
USER twotower
WORKDIR /data
ENTRYPOINT ["twotower"]
