#!/usr/bin/env bash
# The README's walk-through: from an empty platform to an app with data, code, jobs and a cron.
# Needs curl and python3. TRELLIS_URL is the base URL (default http://localhost:9100).
set -euo pipefail

BASE="${TRELLIS_URL:-http://localhost:9100}"
API="$BASE/api/v1"
HERE="$(cd "$(dirname "$0")" && pwd)"
EMAIL="${DEMO_EMAIL:-ana@example.com}"
PASSWORD="${DEMO_PASSWORD:-Str0ngPass!x}"
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
customer_since() { call GET "/apps/crm/collections/companies/$COMPANY" | field customer_since; }
is_customer() { [ "$(customer_since)" != null ]; }
archived() { call GET '/apps/crm/jobs?archived=true'; }
job_done() { archived | MSG="$1" python3 -c 'import json,os,sys
sys.exit(0 if any(j["msg_id"]==int(os.environ["MSG"]) for j in json.load(sys.stdin)) else 1)'; }
cron_jobs() { archived | CRON="$1" python3 -c 'import json,os,sys
n=sum(1 for j in json.load(sys.stdin) if j["payload"].get("cron_id")==os.environ["CRON"]); sys.exit(0 if n>=2 else 1)'; }

step "register and log in"
curl -sS -X POST "$API/auth/register" -d "{\"email\":\"$EMAIL\",\"password\":\"$PASSWORD\",\"displayName\":\"Ana\"}"; echo
TOKEN="$(curl -sS --fail-with-body -X POST "$API/auth/login" -d "{\"email\":\"$EMAIL\",\"password\":\"$PASSWORD\"}" | field accessToken)"
call GET /auth/me; echo

step "install the app"
call POST /apps "@$HERE/manifest.json"; echo

step "create a company and a contact"
COMPANY="$(call POST /apps/crm/collections/companies '{"name":"Acme","segment":"enterprise","tags":["vip"]}' | field id)"
CONTACT="$(call POST /apps/crm/collections/contacts "{\"name\":\"Nora\",\"email\":\"nora@acme.test\",\"company\":\"$COMPANY\"}" | field id)"
call GET "/apps/crm/collections/contacts/$CONTACT"; echo

step "deploy the backend"
tar -czf "$WORK/backend.tgz" -C "$HERE/backend" .
curl -sS --fail-with-body -X POST "$API/apps/crm/deploy" -H "Authorization: Bearer $TOKEN" -F "archive=@$WORK/backend.tgz"; echo

step "follow the log in the background"
curl -sSN "$API/apps/crm/logs?tail=256" -H "Authorization: Bearer $TOKEN" >"$WORK/log" &
LOG=$!
trap 'kill $LOG 2>/dev/null || true; rm -rf "$WORK"' EXIT

step "call it"
call POST /apps/crm/rpc '{"method":"summary"}'; echo
GREETING="$(call POST /apps/crm/rpc "{\"method\":\"greet\",\"params\":{\"contactId\":\"$CONTACT\"}}")"
echo "$GREETING"

step "wait for the job that the call enqueued"
wait_for 20 "job" job_done "$(echo "$GREETING" | field job)"
call GET "/apps/crm/collections/contacts/$CONTACT" | field welcomed_at

step "enqueue a job over the API"
JOB="$(call POST /apps/crm/jobs '{"payload":{"task":"digest"}}' | field msg_id)"
wait_for 20 "job $JOB" job_done "$JOB"
echo "job $JOB is archived"

step "a hook: each change of a deal becomes a job"
call GET /apps/crm/hooks | python3 -c 'import json,sys
for h in json.load(sys.stdin): print(h["id"])' | while read -r id; do call DELETE "/apps/crm/hooks/$id"; done
call POST /apps/crm/hooks '{"entity":"deals","operation":"UPDATE","action_type":"job"}'; echo
DEAL="$(call POST /apps/crm/collections/deals "{\"title\":\"Licences\",\"amount\":1200,\"company\":\"$COMPANY\",\"contact\":\"$CONTACT\"}" | field id)"
call PATCH "/apps/crm/collections/deals/$DEAL" '{"stage":"won"}'; echo
wait_for 20 "the hook's job" is_customer
echo "customer since $(customer_since)"

step "a webhook: a signed call from outside"
HOOKS="$(call GET /apps/crm/webhooks)"
LEAD='{"name":"Otto","email":"otto@acme.test","company":"Acme"}'
STAMP="$(date +%s)"
SIGNATURE="$(printf '%s.%s' "$STAMP" "$LEAD" | SECRET="$(echo "$HOOKS" | field 0 signingSecret)" python3 -c 'import hashlib,hmac,os,sys
print(hmac.new(os.environ["SECRET"].encode(), sys.stdin.buffer.read(), hashlib.sha256).hexdigest())')"
curl -sS --fail-with-body -X POST "$BASE$(echo "$HOOKS" | field 0 url)" -d "$LEAD" \
  -H "X-Webhook-Timestamp: $STAMP" -H "X-Webhook-Signature: sha256=$SIGNATURE"; echo

step "a cron every 5 seconds"
call GET /apps/crm/crons | python3 -c 'import json,sys
for c in json.load(sys.stdin): print(c["id"])' | while read -r id; do call DELETE "/apps/crm/crons/$id"; done
CRON="$(call POST /apps/crm/crons '{"name":"digest","schedule":"5 seconds","payload":{"task":"digest"}}' | field id)"
wait_for 30 "two ticks" cron_jobs "$CRON"
call DELETE "/apps/crm/crons/$CRON"; echo

step "what the log stream said"
wait_for 10 "log lines" grep -q 'digest: ' "$WORK/log"
grep '^data: ' "$WORK/log"
grep -q 'welcomed contact' "$WORK/log"

printf '\nAll steps passed.\n'
