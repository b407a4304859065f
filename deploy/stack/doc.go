// Package stack runs what the audit log needs on one machine: the real NATS server with JetStream
// on disk, in this process, and a real ClickHouse as a child process. Both read the configuration
// files that docker compose mounts (package deploy).
//
// ClickHouse is the binary named by AUDIT_CLICKHOUSE_BIN or found on PATH, else the engine library
// of an npm package (see [EnsureEngine]). The library is never loaded into this process: the stack
// starts the running executable a second time as its host, so any program or test binary that
// imports this package can do it.
//
// Stopping is part of the contract: [Stack.Close] ends the child in order, and when this process
// is killed instead the child dies with it.
package stack
