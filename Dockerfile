FROM python:3.13-slim-bookworm

ENV PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /srv/trellis

COPY requirements.lock ./
RUN pip install --only-binary :all: --require-hashes -r requirements.lock
COPY . .
RUN pip install --no-deps -e . \
    && useradd --system --home-dir /var/lib/trellis --create-home trellis

USER trellis
ENV HOST=0.0.0.0 PORT=9100 TRELLIS_DATA_DIR=/var/lib/trellis
VOLUME /var/lib/trellis
EXPOSE 9100
# The same image runs every line of the Procfile; the web process is the default.
CMD ["gunicorn", "-c", "config/gunicorn.py", "app.wsgi:app"]
