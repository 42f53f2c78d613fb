"""Backend of the customer desk: RPC methods, a webhook, and jobs of users, crons and hooks."""

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


@app.rpc
def lead(params, _caller, ctx):
    """Take a contact from the website: the webhook ``lead`` of the manifest calls this."""
    given = params["body"]
    contacts = ctx.collection("contacts")
    known = contacts.find_one({"email": given["email"]})
    if known is not None:
        return {"contact": known["id"], "new": False}
    company = ctx.collection("companies").find_one({"name": given.get("company")})
    made = contacts.insert(
        {"name": given["name"], "email": given["email"], "company": company and company["id"]}
    )
    ctx.log.info("lead %s", made["id"])
    return {"contact": made["id"], "new": True}


@app.on_job
def work(payload, _caller, ctx):
    """Handle jobs and cron ticks, told apart by ``task``, and changes that a hook reports."""
    task = payload.get("task")
    if payload.get("_hook"):
        deal, before = payload["record"], payload["old_record"]
        if deal["stage"] == "won" != before["stage"]:
            ctx.collection("companies").update(
                {"id": deal["company"], "customer_since": deal["updated_at"][:10]}
            )
            ctx.log.info("won deal %s", deal["title"])
    elif task == "welcome":
        ctx.collection("contacts").update(
            {"id": payload["contactId"], "welcomed_at": datetime.now(UTC)}
        )
        ctx.log.info("welcomed contact %s", payload["contactId"])
    elif task == "digest":
        ctx.log.info("digest: %d contacts", len(ctx.collection("contacts").find()))
    else:
        raise WorkerError(f"unknown task {task!r}")


app.serve()
