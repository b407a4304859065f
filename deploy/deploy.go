// Package deploy holds the configuration files of the engines, embedded, so that the local stack,
// the tests and docker compose run NATS and ClickHouse with the same bytes.
//
// The engines themselves are started by package stack.
package deploy

import "embed"

// Files holds nats/server.conf, the ClickHouse settings and users, and the npm package of the
// ClickHouse engine under engine/, by their paths below this folder.
//
//go:embed nats/server.conf clickhouse/config.d/*.xml clickhouse/users.d/*.xml clickhouse/analyst.xml.example
//go:embed engine/package.json engine/package-lock.json engine/.npmrc
var Files embed.FS

// Paths within Files.
const (
	NATSConfig         = "nats/server.conf"
	ClickHouseConfig   = "clickhouse/config.d/audit.xml"
	ClickHouseUsers    = "clickhouse/users.d/audit.xml"
	ClickHouseServices = "clickhouse/users.d/services.xml"
	AnalystExample     = "clickhouse/analyst.xml.example"
	EngineDir          = "engine"
)
