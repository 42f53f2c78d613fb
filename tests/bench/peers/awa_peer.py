"""awa: jobs in Postgres, a Rust engine, Python handlers; its queue with 16 at a time."""

import asyncio
from dataclasses import dataclass

import protocol
from awa import AsyncClient, Client


@dataclass
class Note:
    number: int


def work():
    async def forever():
        client = AsyncClient(protocol.URL)

        @client.task(Note, queue="default")
        async def note(job):
            protocol.note(job.args.number)

        await client.start([("default", 16)])
        await asyncio.Event().wait()

    asyncio.run(forever())


def setup():
    asyncio.run(AsyncClient(protocol.URL).migrate())


if __name__ == "__main__":
    sender = Client(protocol.URL)
    protocol.main(setup=setup, work=work, send=lambda number: sender.insert(Note(number)))
