package verify_test

import (
	"os"
	"testing"

	"example.com/auditlog/deploy/stack"
	"example.com/auditlog/deploy/stack/stacktest"
	"example.com/auditlog/services/ingester/internal/verify/verifytest"
)

var shared *stack.Stack

func TestMain(m *testing.M) { os.Exit(stacktest.Main(m, &shared)) }

const partitions = verifytest.Partitions

var tenants = verifytest.Tenants

func event(n int) []byte { return verifytest.Event(n) }

// fixture is a system of its own on the shared engines.
type fixture struct{ *verifytest.Fixture }

func setup(t *testing.T) *fixture { return &fixture{verifytest.Setup(t, shared)} }
