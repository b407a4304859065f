// Package clickhouse reads events from the table of the ingester. It is the only package of this service that knows ClickHouse.
//
// What makes a page cheap at any depth: the tenant's partition, a scalar bound on created_at beside the tuple of the cursor (the tuple alone
// prunes nothing), an order that the primary key already has, and no FINAL, LIMIT BY or count. Copies of an event that no merge has removed yet
// lie next to each other in that order and are folded here, while reading.
package clickhouse
