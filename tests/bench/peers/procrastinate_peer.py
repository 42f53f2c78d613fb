"""Procrastinate: jobs in Postgres, woken by LISTEN; its worker with 16 tasks at a time."""

import asyncio

import protocol
from procrastinate import App, PsycopgConnector, SyncPsycopgConnector

app = App(connector=SyncPsycopgConnector(conninfo=protocol.URL, min_size=16, max_size=16))


@app.task(name="note")
async def note(number):
    protocol.note(number)


def setup():
    with app.open():
        app.schema_manager.apply_schema()


def work():
    async def forever():
        connector = PsycopgConnector(conninfo=protocol.URL, max_size=20)
        worker_app = app.with_connector(connector)
        async with worker_app.open_async():
            await worker_app.run_worker_async(concurrency=16)

    asyncio.run(forever())


if __name__ == "__main__":
    with app.open():
        protocol.main(setup=setup, work=work, send=lambda number: note.defer(number=number))
