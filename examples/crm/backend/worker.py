"""Backend of the customer desk: two RPC methods, one job handler."""

from datetime import UTC, datetime

from trellis_worker import App, WorkerError

app = App()


@app.rpc
async def summary(_params, _caller, ctx):
    """Count what the caller may see."""
    companies = await ctx.collection("companies").find()
    contacts = await ctx.collection("contacts").find()
    return {"companies": len(companies), "contacts": len(contacts)}


@app.rpc
def greet(params, caller, ctx):
    """Greet a contact and put the welcome mail on the queue."""
    contact = ctx.collection("contacts").find_one({"id": params.get("contactId")})
    if contact is None:
        raise WorkerError("no such contact")
    job = ctx.enqueue({"task": "welcome", "contactId": contact["id"]})
    return {"greeting": f"Dear {contact['name']}", "from": caller.email, "job": job}


@app.on_job
def work(payload, _caller, ctx):
    """Handle jobs and cron ticks, told apart by ``task``."""
    task = payload.get("task")
    if task == "welcome":
        ctx.collection("contacts").update(
            {"id": payload["contactId"], "welcomed_at": datetime.now(UTC)}
        )
        ctx.log.info("welcomed contact %s", payload["contactId"])
    elif task == "digest":
        ctx.log.info("digest: %d contacts", len(ctx.collection("contacts").find()))
    else:
        raise WorkerError(f"unknown task {task!r}")


app.serve()
