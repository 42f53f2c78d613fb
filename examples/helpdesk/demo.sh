#!/usr/bin/env bash
# An agent without any code: it reads tickets, asks before it replies to a customer, and runs on a
# schedule. Needs curl, python3 and a model behind an OpenAI-compatible API, for instance a local one:
#   MODEL_URL   its base URL (default http://localhost:11434/v1, where Ollama listens)
#   MODEL_NAME  which model (default qwen3)
#   TRELLIS_URL base URL of Trellis (default http://localhost:9100)
set -euo pipefail

BASE="${TRELLIS_URL:-http://localhost:9100}"
API="$BASE/api/v1"
HERE="$(cd "$(dirname "$0")" && pwd)"
EMAIL="${DEMO_EMAIL:-ana@example.com}"
PASSWORD="${DEMO_PASSWORD:-Str0ngPass!x}"
MODEL_URL="${MODEL_URL:-http://localhost:11434/v1}"
MODEL_NAME="${MODEL_NAME:-qwen3}"
WORK="$(mktemp -d)"
trap 'rm -rf "$WORK"' EXIT

step() { printf '\n== %s\n' "$*"; }
field() { python3 -c 'import json,sys; v=json.load(sys.stdin)
for k in sys.argv[1:]: v=v[int(k)] if isinstance(v,list) else v[k]
print(v if isinstance(v,str) else json.dumps(v))' "$@"; }
call() { # METHOD PATH [JSON]
  local args=(-sS --fail-with-body -X "$1" "$API$2" -H "Authorization: Bearer ${TOKEN:-}")
  [ $# -lt 3 ] || args+=(-H 'Content-Type: application/json' -d "$3")
  curl "${args[@]}"
}
wait_for() { # SECONDS DESCRIPTION COMMAND...
  local end=$((SECONDS + $1)) what=$2; shift 2
  until "$@"; do
    [ $SECONDS -lt $end ] || { echo "timed out waiting for $what" >&2; exit 1; }
    sleep 0.3
  done
}
ask() { # MESSAGE [SESSION]: talk to the agent; prints its events
  MESSAGE="$1" SESSION="${2:-}" python3 -c 'import json,os
body={"message":os.environ["MESSAGE"]}
if os.environ["SESSION"]: body["session_id"]=os.environ["SESSION"]
print(json.dumps(body))' >"$WORK/body.json"
  curl -sSN --fail-with-body -X POST "$API/apps/helpdesk/agent/invoke" \
    -H "Authorization: Bearer $TOKEN" -d "@$WORK/body.json"
}
waiting() { [ "$(call GET /apps/helpdesk/agent/approvals)" != "[]" ]; }
replied() { call GET /apps/helpdesk/collections/replies | grep -q '"text"'; }
triaged() { call GET /apps/helpdesk/agent/sessions | grep -q 'Look through the open tickets'; }

step "log in (registering first, if this platform is new)"
curl -sS -X POST "$API/auth/register" -d "{\"email\":\"$EMAIL\",\"password\":\"$PASSWORD\"}" >/dev/null
TOKEN="$(curl -sS --fail-with-body -X POST "$API/auth/login" -d "{\"email\":\"$EMAIL\",\"password\":\"$PASSWORD\"}" | field accessToken)"

step "register the model $MODEL_NAME at $MODEL_URL"
call GET /llm-models | grep -q '"id": *"helpdesk"' || call POST /llm-models \
  "{\"id\":\"helpdesk\",\"name\":\"$MODEL_NAME\",\"provider\":\"openai\",\"model\":\"$MODEL_NAME\",\"config\":{\"base_url\":\"$MODEL_URL\"},\"is_default\":true}"
echo

step "install the app and deploy its agent: no code, only agent.json and a prompt"
call POST /apps "@$HERE/manifest.json"; echo
tar -czf "$WORK/backend.tgz" -C "$HERE/backend" .
curl -sS --fail-with-body -X POST "$API/apps/helpdesk/deploy" -H "Authorization: Bearer $TOKEN" -F "archive=@$WORK/backend.tgz"; echo

step "two tickets come in"
call POST /apps/helpdesk/collections/tickets '{"subject":"Printer on fire","body":"It really burns!"}' >/dev/null
call POST /apps/helpdesk/collections/tickets '{"subject":"New mouse","body":"Mine squeaks."}' >/dev/null

step "ask about them"
ask "Which tickets are open?" | tee "$WORK/first"
grep -q '^event: done' "$WORK/first"

step "have one answered: the agent must ask a person first"
ask "Answer the ticket about the printer." >"$WORK/second" &
TALK=$!
trap 'kill $TALK 2>/dev/null || true; rm -rf "$WORK"' EXIT
wait_for 120 "a question" waiting
call GET /apps/helpdesk/agent/approvals; echo
APPROVAL="$(call GET /apps/helpdesk/agent/approvals | field 0 approvalId)"

step "approve it; the run goes on where it stopped"
call POST "/apps/helpdesk/agent/approvals/$APPROVAL" '{"action":"approve"}'; echo
wait $TALK
cat "$WORK/second"
replied || { echo "no reply was written" >&2; exit 1; }

step "do not wait for the schedule: trigger the triage cron"
CRON="$(call GET /apps/helpdesk/crons | field 0 id)"
call POST "/apps/helpdesk/crons/$CRON/trigger"; echo
wait_for 120 "the scheduled run" triaged
call GET /apps/helpdesk/agent/sessions; echo

printf '\nAll steps passed.\n'
