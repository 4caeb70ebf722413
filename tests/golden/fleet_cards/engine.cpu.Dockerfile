# Written by dsctl. One replica: the API process and its core. Weights are mounted, never copied.
FROM python:3.12-slim-bookworm
RUN if ! command -v g++ >/dev/null; then \
      apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*; fi
COPY wheels/ /wheels/
RUN python3 -m venv /opt/dsctl \
 && /opt/dsctl/bin/pip install --no-cache-dir --no-index --find-links /wheels \
      "$(ls /wheels/dsctl-*.whl)[engine,gateway]"
ENV PATH=/opt/dsctl/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 HOME=/tmp
USER 10001:10001
WORKDIR /tmp
STOPSIGNAL SIGTERM
CMD ["python", "-m", "engine.server", "--help"]
