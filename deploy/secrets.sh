#!/bin/sh
# Makes the secrets of the containers in deploy/secrets, random and each only when it is missing: to change a password,
# remove its files (those of one NAME together) and run this again. Containers run as users of their own, so the files
# can be read by all who can enter the folder, which only its owner can.
set -eu
umask 077
dir=${1:-$(dirname "$0")/secrets}
mkdir -p "$dir"
chmod 700 "$dir"

sha256() { if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi | cut -d ' ' -f 1; }
# A letter first: NATS would read digits alone as a number.
random() { printf 'p%s' "$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')"; }
save() { cat >"$dir/$1.new" && chmod 644 "$dir/$1.new" && mv "$dir/$1.new" "$dir/$1"; }
missing() { for f; do [ -s "$dir/$f" ] || return 0; done; return 1; }

if missing clickhouse_users.xml ingester_clickhouse_url query_clickhouse_url; then
  ingester=$(random) query=$(random)
  save clickhouse_users.xml <<EOF
<clickhouse>
    <ingester_password_sha256_hex>$(printf %s "$ingester" | sha256)</ingester_password_sha256_hex>
    <query_password_sha256_hex>$(printf %s "$query" | sha256)</query_password_sha256_hex>
</clickhouse>
EOF
  echo "clickhouse://ingester:$ingester@clickhouse:9000/audit" | save ingester_clickhouse_url
  echo "clickhouse://query:$query@clickhouse:9000/audit" | save query_clickhouse_url
fi

for user in ingester query operator; do
  if missing "nats_${user}_password" "${user}_nats_url"; then
    password=$(random)
    echo "$password" | save "nats_${user}_password"
    echo "nats://$user:$password@nats:4222" | save "${user}_nats_url"
  fi
done
