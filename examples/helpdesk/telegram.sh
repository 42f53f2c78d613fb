#!/usr/bin/env bash
# Puts the help desk's agent into Telegram. Run demo.sh first. Needs curl and python3, and:
#   TELEGRAM_BOT_TOKEN  from @BotFather
#   PUBLIC_URL          https address at which Telegram can reach Trellis
#   TRELLIS_URL         base URL of Trellis from here (default http://localhost:9100)
set -euo pipefail

API="${TRELLIS_URL:-http://localhost:9100}/api/v1"
EMAIL="${DEMO_EMAIL:-ana@example.com}"
PASSWORD="${DEMO_PASSWORD:-Str0ngPass!x}"
: "${TELEGRAM_BOT_TOKEN:?get one from @BotFather}" "${PUBLIC_URL:?the https address of Trellis}"

step() { printf '\n== %s\n' "$*"; }
field() { python3 -c 'import json,sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }
call() { # METHOD PATH [JSON]
  local args=(-sS --fail-with-body -X "$1" "$API$2" -H "Authorization: Bearer ${TOKEN:-}")
  [ $# -lt 3 ] || args+=(-H 'Content-Type: application/json' -d "$3")
  curl "${args[@]}"
}
wait_for() { # SECONDS DESCRIPTION COMMAND...
  local end=$((SECONDS + $1)) what=$2; shift 2
  until "$@"; do
    [ $SECONDS -lt $end ] || { echo "timed out waiting for $what" >&2; exit 1; }
    sleep 0.5
  done
}
linked() { call GET "/channels/$CHANNEL/identity" | grep -q true; }
answered() { call GET "/apps/helpdesk/agent/sessions?limit=1" >"$WORK/now"; ! cmp -s "$WORK/now" "$WORK/before" \
  && grep -Eq '"status": *"active"' "$WORK/now"; }

WORK="$(mktemp -d)"
trap 'rm -rf "$WORK"' EXIT
TOKEN="$(call POST /auth/login "{\"email\":\"$EMAIL\",\"password\":\"$PASSWORD\"}" | field accessToken)"

step "make the channel and point the bot at it"
CHANNEL="$(call POST /channels '{"provider":"telegram","name":"Help desk","config":{"default_agent":"helpdesk"}}' | field id)"
call POST "/channels/$CHANNEL/activate" "{\"public_url\":\"$PUBLIC_URL\",\"config\":{\"bot_token\":\"$TELEGRAM_BOT_TOKEN\"}}"; echo

step "link your account: open this within five minutes and press Start"
call POST "/channels/$CHANNEL/link" | field linkUrl
wait_for 300 "your link" linked

step "now ask the bot: Which tickets are open?"
call GET "/apps/helpdesk/agent/sessions?limit=1" >"$WORK/before"
wait_for 300 "your question" answered
cat "$WORK/now"; echo

printf '\nAll steps passed. The channel is %s.\n' "$CHANNEL"
