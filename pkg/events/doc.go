// Package events defines an audit event, the rules it must obey, its form on the wire, where it is published, and a durable publisher.
package events
