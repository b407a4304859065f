#!/bin/sh
# Starts the system in containers, waits until it is ready, and tells how to use it. Arguments go to docker compose, such
# as -f for files of your own over docker-compose.yml.
set -eu
cd "$(dirname "$0")/.."
deploy/secrets.sh
docker compose "$@" up --detach --build --wait

# One of the fictional company that `make demo` publishes for.
tenant=5eed0001-0000-4000-8000-000000000001
key_file=deploy/secrets/demo_key
if ! [ -s "$key_file" ]; then
  # Where NATS has users, only its operator makes keys.
  if docker compose "$@" --profile tools config --services | grep -qx operator; then
    made=$(docker compose "$@" run --rm --no-TTY operator keys create --tenant "$tenant" --name demo --json)
  else
    made=$(docker compose "$@" exec --no-TTY query query keys create --tenant "$tenant" --name demo --json)
  fi
  (umask 077 && printf '%s\n' "$made" | sed -n 's/.*"key":"\([^"]*\)".*/\1/p' >"$key_file")
fi
key=$(cat "$key_file")
[ -n "$key" ] || { echo "the demo key could not be made: $made" >&2; rm -f "$key_file"; exit 1; }

api=http://127.0.0.1:8080
cat <<EOF

Ready.
  API         $api/v1/audit-log (described by $api/v1/openapi.yaml)
  NATS        nats://nats:4222 within the network auditlog_default
  ClickHouse  docker compose exec clickhouse clickhouse-client --database audit (SQL for analysts: the view audit.events)

  demo tenant $tenant (Halden Freight)
  demo key    $key

Read the log:
  curl -s -H 'X-API-Key: $key' -H 'X-Tenant-ID: $tenant' '$api/v1/audit-log?limit=5'
Fill it, from a file of events, one a line:
  docker compose run --rm --no-TTY --entrypoint publish ingester < events.ndjson
Stop with make down.
EOF
