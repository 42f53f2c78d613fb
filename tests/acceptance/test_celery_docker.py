"""pytest-celery's own container clusters; only where a Docker engine runs (`-m docker`)."""

import pytest


@pytest.mark.docker
def test_a_message_is_delivered_over_containers(celery_setup):
    assert celery_setup.ready(ping=True, docker=True)
