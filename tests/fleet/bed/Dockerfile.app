FROM bed-base
COPY wheels /tmp/wheels
RUN python3 -m venv --without-pip /opt/dsctl && python3 -m venv /tmp/pip \
 && /tmp/pip/bin/pip --python /opt/dsctl/bin/python install -q --no-index --find-links /tmp/wheels -r /tmp/wheels/requirements.txt \
 && rm -rf /tmp/pip /tmp/wheels && useradd -u 10001 -M -s /usr/sbin/nologin dsctl
ENV PATH=/opt/dsctl/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONUNBUFFERED=1
COPY code /tmp/code
RUN python3 -m zipfile -e /tmp/code/*.whl /opt/dsctl/lib/python3.*/site-packages
USER 10001
