"""Programs that only pretend to be MCP servers, by what is wrong with them."""

PRETENDERS = {
    "silent": "import time\ntime.sleep(60)\n",
    "quits": "import os, sys\nsys.stderr.write('no token ' + os.environ['T'])\nsys.exit(3)\n",
    "babbles": "print('hello')\nprint('{')\nimport time\ntime.sleep(60)\n",
    "endless": """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked:
        continue
    if asked["method"] == "initialize":
        result = {"protocolVersion": asked["params"]["protocolVersion"],
                  "capabilities": {"tools": {}}, "serverInfo": {"name": "x", "version": "1"}}
    elif asked["method"] == "tools/list":
        result = {"tools": [], "nextCursor": "again"}
    else:
        error = {"code": -32601, "message": "no such method"}
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "error": error}), flush=True)
        continue
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}), flush=True)
""",
    "rude": """
import json, sys
TOOLS = [
    {"name": "dies", "inputSchema": {"type": "object"}},
    {"name": "odd/name", "description": "x\\u0000y", "inputSchema": {"type": "object", "minProperties": "x"}},
    {"name": "odd name", "inputSchema": {"type": "object", "properties": {"a": {"type": 5}}}},
    {"name": "far", "inputSchema": {"type": "object", "$ref": "http://127.0.0.1:9/x"}},
]
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked:
        continue
    if asked["method"] == "initialize":
        result = {"protocolVersion": asked["params"]["protocolVersion"],
                  "capabilities": {"tools": {}}, "serverInfo": {"name": "x", "version": "1"}}
    elif asked["method"] == "tools/list":
        first = not (asked.get("params") or {}).get("cursor")
        result = {"tools": TOOLS[:2], "nextCursor": "2"} if first else {"tools": TOOLS[2:]}
    elif asked["method"] == "tools/call":
        if asked["params"]["name"] == "dies":
            sys.exit(1)
        result = {"content": [{"type": "text", "text": json.dumps(asked["params"]["arguments"])}]}
    else:
        error = {"code": -32601, "message": "no such method"}
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "error": error}), flush=True)
        continue
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}), flush=True)
""",
}
