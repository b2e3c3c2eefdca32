# mgie in a container.
#   docker build -t mgie .                                   for CPUs
#   docker build -t mgie --build-arg TORCH_BUILD=cuda .      for NVIDIA GPUs; run it with --gpus all
#   docker run --rm -v "$PWD:/work" mgie edit photo.jpg "make it dark" --model _ckpt/tiny --out out.png
FROM python:3.11-slim

ARG TORCH_BUILD=cpu
ARG EXTRAS=toy,train,eval,heic
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

# Whoever runs it is nobody in particular; what it writes belongs into /work.
RUN useradd --create-home --uid 1000 mgie && mkdir /work && chown mgie /work

WORKDIR /opt/mgie
COPY constraints.txt ./
RUN torch="$(grep '^torch==' constraints.txt)" \
    && case "$TORCH_BUILD" in \
       cpu) pip install --index-url https://download.pytorch.org/whl/cpu --extra-index-url https://pypi.org/simple "$torch+cpu" ;; \
       cuda) pip install "$torch" ;; \
       *) echo "TORCH_BUILD is $TORCH_BUILD: expected cpu or cuda." >&2; exit 2 ;; \
       esac

COPY pyproject.toml setup.py README.md LICENSE ./
COPY llava_patch llava_patch
COPY mgie mgie
RUN pip install -c constraints.txt ".[$EXTRAS]"

USER mgie
WORKDIR /work
ENTRYPOINT ["mgie"]
CMD ["--help"]
