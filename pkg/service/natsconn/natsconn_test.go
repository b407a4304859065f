package natsconn_test

import (
	"strings"
	"testing"

	"example.com/auditlog/pkg/service/natsconn"
	"example.com/auditlog/pkg/service/settings"
)

// Ensure what nats.go can connect to passes, anything else is a fault by name, and no password gets into its text.
func TestServerURLs(t *testing.T) {
	for text, ok := range map[string]bool{
		"": true, "nats://127.0.0.1:4222": true, "tls://a:1, tls://b:2": true, "127.0.0.1:4222": true, "wss://h": true,
		"http://u:hunter2@h": false, "nats://": false, "nats://a,": false, "nats://%zz": false,
	} {
		r := settings.New(func(name string) string {
			if name == "AUDIT_NATS_URL" {
				return text
			}
			return ""
		})
		natsconn.FromSettings(r)
		if err := r.Err(); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		} else if err != nil && (!strings.HasPrefix(err.Error(), "AUDIT_NATS_URL:") || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
