# Written by dsctl. What clients meet: nginx, and the gateway behind it; two containers of this one image.
FROM python:3.12-slim-bookworm
RUN if ! command -v nginx >/dev/null; then \
      apt-get update && apt-get install -y --no-install-recommends nginx-light && rm -rf /var/lib/apt/lists/*; fi
COPY wheels/ /wheels/
RUN python3 -m venv /opt/dsctl \
 && /opt/dsctl/bin/pip install --no-cache-dir \
      "$(ls /wheels/dsctl-*.whl)[gateway]"
ENV PATH=/opt/dsctl/bin:/usr/sbin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
USER 10001:10001
WORKDIR /tmp
STOPSIGNAL SIGTERM
CMD ["python", "-m", "dsctl.gateway", "--help"]
