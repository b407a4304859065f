// Package deploy holds the configuration files of the engines, embedded, so that the local stack,
// the tests and docker compose run NATS and ClickHouse with the same bytes.
//
// The engines themselves are started by package stack.
package deploy

import "embed"

// Files holds nats/server.conf, the ClickHouse settings and users, and the npm package of the
// ClickHouse engine under engine/, by their paths below this folder.
//
//go:embed nats/server.conf clickhouse/config.d/*.xml clickhouse/users.d/*.xml clickhouse/*.xml.example
//go:embed engine/package.json engine/package-lock.json engine/.npmrc
var Files embed.FS

// Paths within Files.
const (
	// NATSConfig is the configuration of the NATS server.
	NATSConfig = "nats/server.conf"
	// ClickHouseConfig holds the settings of the ClickHouse server, for its folder config.d.
	ClickHouseConfig = "clickhouse/config.d/audit.xml"
	// ClickHouseUsers holds profiles, roles and the default user, for the folder users.d.
	ClickHouseUsers = "clickhouse/users.d/audit.xml"
	// ClickHouseServices holds the users of the services, for users.d where they are not local.
	ClickHouseServices = "clickhouse/users.d/services.xml"
	// ClickHouseAnalysts holds what analysts may do and take, for users.d.
	ClickHouseAnalysts = "clickhouse/users.d/analysts.xml"
	// AnalystAllExample is the form of a file for users.d that lets an analyst read every tenant.
	AnalystAllExample = "clickhouse/analyst_all.xml.example"
	// AnalystExample is the form of a file for users.d that binds an analyst to a tenant.
	AnalystExample = "clickhouse/analyst.xml.example"
	// BackupExample is the form of a file for users.d with a user for backups.
	BackupExample = "clickhouse/backup.xml.example"
	// EngineDir is the folder of the npm package that fetches the ClickHouse engine.
	EngineDir = "engine"
)
