#!/bin/sh
# Makes the secrets of the cluster profile in deploy/cluster/secrets: those of deploy/secrets.sh, with the addresses of the
# cluster, and certificates for NATS by an authority of its own, which openssl makes. What is there is left alone.
set -eu
umask 077
here=$(cd "$(dirname "$0")" && pwd)
dir=${1:-$here/secrets}
"$here/../secrets.sh" "$dir"

save() { cat >"$dir/$1.new" && chmod 644 "$dir/$1.new" && mv "$dir/$1.new" "$dir/$1"; }
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
password() { sed -n "1s#^$2://[^:]*:\([^@]*\)@.*#\1#p" "$dir/$1"; }

for user in ingester query operator; do
  p=$(cat "$dir/nats_${user}_password")
  echo "tls://$user:$p@nats-1:4222,tls://$user:$p@nats-2:4222,tls://$user:$p@nats-3:4222" | save "${user}_nats_url"
done

# One replica of a shard takes the inserts; reads go to the other when it is away.
p=$(password ingester_clickhouse_url clickhouse)
for shard in 1 2; do
  echo "clickhouse://ingester:$p@clickhouse-$shard-1:9000/audit" | save "ingester_clickhouse_url_$shard"
done
p=$(password query_clickhouse_url clickhouse)
for shard in 1 2; do
  echo "clickhouse://query:$p@clickhouse-$shard-1:9000,clickhouse-$shard-2:9000/audit"
done | save query_clickhouse_url

[ -s "$dir/clickhouse_cluster.xml" ] || save clickhouse_cluster.xml <<EOF
<clickhouse>
    <cluster_secret>$(random)</cluster_secret>
    <replica_password>$(random)</replica_password>
</clickhouse>
EOF

if ! [ -s "$dir/nats_cert" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj "/CN=audit log NATS authority" \
    -keyout "$work/ca-key" -out "$work/ca" 2>/dev/null
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=nats" -keyout "$work/key" -out "$work/request" 2>/dev/null
  echo "subjectAltName=DNS:nats-1,DNS:nats-2,DNS:nats-3" >"$work/names"
  openssl x509 -req -in "$work/request" -CA "$work/ca" -CAkey "$work/ca-key" -CAcreateserial -days 825 -extfile "$work/names" -out "$work/cert" 2>/dev/null
  save nats_ca <"$work/ca"
  save nats_key <"$work/key"
  save nats_cert <"$work/cert"
  # The authority's key is thrown away: for new certificates, make all three anew.
fi
