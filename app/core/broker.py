"""Kombu's Redis transport, made to survive the loss of its server.

When a connection is lost while a message is unacknowledged, kombu gives the message back, or
acknowledges it later, through a channel that has no connection any more. That is an
AttributeError, which nobody expects, and the end of the whole worker. Here both are left out:
every message points at a row, and what became of the row is found by its sweep.

Source: kombu's ``transport/redis.py``; ADR 0003.
"""

from __future__ import annotations

from typing import Any

from kombu.transport import redis

TRANSPORT = "app.core.broker:Transport"


class QoS(redis.QoS):
    """Messages of a channel that are not acknowledged yet."""

    def restore_unacked(self, client: Any = None) -> None:  # Any: a Redis client
        """Give all of them back, if there is somebody to give them to."""
        if not self._is_cut_off():
            super().restore_unacked(client)  # type: ignore[no-untyped-call]  # kombu's own

    def ack(self, delivery_tag: str) -> None:
        """Forget a message for good."""
        if not self._is_cut_off():
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]  # as above

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Forget a message, or give it back."""
        if not self._is_cut_off():
            super().reject(delivery_tag, requeue=requeue)  # type: ignore[no-untyped-call]  # as above

    def _is_cut_off(self) -> bool:
        return self.channel.connection is None or self.channel.connection.client is None


class Channel(redis.Channel):
    """A channel with our way of acknowledging."""

    QoS = QoS


class Transport(redis.Transport):
    """What kombu uses for our broker; see ``make_celery``."""

    Channel = Channel
