package company

// kind is a sort of actor: how its ids begin, how many there are, and whether it gives reasons.
type kind struct {
	prefix  string
	count   int
	reasons bool
}

var kinds = map[string]kind{
	"user":                {prefix: "user", count: 400},
	"admin":               {prefix: "admin", count: 12},
	"auditor":             {prefix: "auditor", count: 4},
	"contractor":          {prefix: "ext", count: 60},
	"driver":              {prefix: "driver", count: 250},
	"customer":            {prefix: "cust", count: 900},
	"support_engineer":    {prefix: "support", count: 25},
	"service":             {prefix: "svc", count: 40},
	"api_key":             {prefix: "key", count: 80},
	"scheduler":           {prefix: "cron", count: 20},
	"webhook":             {prefix: "hook", count: 30},
	"ci_pipeline":         {prefix: "ci", count: 15},
	"iot_device":          {prefix: "sensor", count: 600},
	"gate_terminal":       {prefix: "gate", count: 24},
	"customs_broker":      {prefix: "broker", count: 18},
	"payment_gateway":     {prefix: "psp", count: 3},
	"identity_provider":   {prefix: "idp", count: 2},
	"dispatch_agent":      {prefix: "agent_dispatch", count: 8, reasons: true},
	"pricing_agent":       {prefix: "agent_pricing", count: 5, reasons: true},
	"claims_agent":        {prefix: "agent_claims", count: 4, reasons: true},
	"fraud_agent":         {prefix: "agent_fraud", count: 3, reasons: true},
	"procurement_agent":   {prefix: "agent_buy", count: 3, reasons: true},
	"break_glass_account": {prefix: "breakglass", count: 2},
}

// action is something that can be done, to what, by whom, and how often.
type action struct {
	name, resource, prefix string
	weight                 int
	by                     []string
}

var actions = []action{
	{"shipment.track", "shipment", "shp", 220, []string{"customer", "user", "api_key", "service"}},
	{"shipment.create", "shipment", "shp", 60, []string{"user", "customer", "api_key"}},
	{"shipment.update", "shipment", "shp", 90, []string{"user", "dispatch_agent", "service"}},
	{"shipment.reroute", "shipment", "shp", 30, []string{"dispatch_agent", "user"}},
	{"shipment.cancel", "shipment", "shp", 8, []string{"user", "customer"}},
	{"shipment.deliver", "shipment", "shp", 55, []string{"driver"}},
	{"container.temperature.read", "container", "cnt", 260, []string{"iot_device"}},
	{"container.temperature.alarm", "container", "cnt", 4, []string{"iot_device"}},
	{"container.seal.check", "container", "cnt", 25, []string{"gate_terminal", "driver"}},
	{"container.gate.enter", "container", "cnt", 35, []string{"gate_terminal"}},
	{"container.gate.leave", "container", "cnt", 35, []string{"gate_terminal"}},
	{"container.hold", "container", "cnt", 5, []string{"customs_broker", "dispatch_agent"}},
	{"customs.declare", "declaration", "dec", 28, []string{"customs_broker", "service"}},
	{"customs.release", "declaration", "dec", 22, []string{"customs_broker"}},
	{"customs.inspect", "declaration", "dec", 3, []string{"customs_broker"}},
	{"invoice.create", "invoice", "inv", 40, []string{"service", "user"}},
	{"invoice.approve", "invoice", "inv", 26, []string{"user", "procurement_agent"}},
	{"invoice.reject", "invoice", "inv", 4, []string{"user", "procurement_agent"}},
	{"invoice.export", "invoice", "inv", 6, []string{"auditor", "user"}},
	{"payment.authorize", "payment", "pay", 34, []string{"payment_gateway"}},
	{"payment.capture", "payment", "pay", 32, []string{"payment_gateway"}},
	{"payment.fail", "payment", "pay", 3, []string{"payment_gateway"}},
	{"refund.request", "refund", "ref", 6, []string{"customer", "support_engineer"}},
	{"refund.approve", "refund", "ref", 5, []string{"claims_agent", "support_engineer"}},
	{"refund.deny", "refund", "ref", 2, []string{"claims_agent"}},
	{"quote.price", "quote", "quo", 48, []string{"pricing_agent", "service"}},
	{"quote.discount", "quote", "quo", 9, []string{"pricing_agent", "user"}},
	{"quote.accept", "quote", "quo", 14, []string{"customer"}},
	{"claim.open", "claim", "clm", 5, []string{"customer", "support_engineer"}},
	{"claim.assess", "claim", "clm", 5, []string{"claims_agent"}},
	{"claim.settle", "claim", "clm", 3, []string{"claims_agent", "user"}},
	{"fraud.score", "payment", "pay", 30, []string{"fraud_agent"}},
	{"fraud.block", "customer", "cust", 1, []string{"fraud_agent"}},
	{"session.login", "session", "ses", 110, []string{"user", "customer", "contractor", "driver"}},
	{"session.login.fail", "session", "ses", 16, []string{"user", "customer", "contractor"}},
	{"session.logout", "session", "ses", 60, []string{"user", "customer", "contractor"}},
	{"session.refresh", "session", "ses", 85, []string{"identity_provider"}},
	{"user.create", "user", "user", 2, []string{"admin", "identity_provider"}},
	{"user.update", "user", "user", 6, []string{"admin", "user"}},
	{"user.suspend", "user", "user", 1, []string{"admin"}},
	{"user.password.reset", "user", "user", 3, []string{"user", "support_engineer"}},
	{"role.grant", "role", "role", 2, []string{"admin"}},
	{"role.revoke", "role", "role", 1, []string{"admin"}},
	{"api_key.create", "api_key", "key", 1, []string{"admin", "user"}},
	{"api_key.revoke", "api_key", "key", 1, []string{"admin"}},
	{"secret.read", "secret", "sec", 38, []string{"service", "ci_pipeline"}},
	{"secret.rotate", "secret", "sec", 2, []string{"scheduler"}},
	{"deploy.start", "release", "rel", 4, []string{"ci_pipeline"}},
	{"deploy.finish", "release", "rel", 4, []string{"ci_pipeline"}},
	{"deploy.rollback", "release", "rel", 1, []string{"ci_pipeline", "admin"}},
	{"config.change", "config", "cfg", 3, []string{"admin", "ci_pipeline"}},
	{"webhook.deliver", "webhook", "whk", 75, []string{"webhook"}},
	{"webhook.fail", "webhook", "whk", 5, []string{"webhook"}},
	{"report.generate", "report", "rpt", 10, []string{"scheduler", "user"}},
	{"report.download", "report", "rpt", 9, []string{"user", "auditor"}},
	{"backup.run", "backup", "bak", 2, []string{"scheduler"}},
	{"backup.verify", "backup", "bak", 2, []string{"scheduler"}},
	{"vehicle.assign", "vehicle", "veh", 24, []string{"dispatch_agent", "user"}},
	{"vehicle.maintenance.plan", "vehicle", "veh", 3, []string{"procurement_agent", "scheduler"}},
	{"order.purchase", "purchase_order", "po", 4, []string{"procurement_agent"}},
	{"support.impersonate", "customer", "cust", 1, []string{"support_engineer"}},
	{"breakglass.open", "database", "db", 1, []string{"break_glass_account"}},
	{"breakglass.close", "database", "db", 1, []string{"break_glass_account"}},
}

// reasons take one number: a percentage.
var reasons = []string{
	"Berth 4 is congested; the alternative keeps the delivery window with %d%% certainty.",
	"Within the delegated limit; %d%% of comparable cases were approved by a person.",
	"The carrier's offer is at %d%% of the reference price for this lane.",
	"Temperature trend leaves the permitted band within the hour (%d%% confidence), so the unit goes first.",
	"Documents complete, the photographs match the declaration; similarity %d%%.",
	"Pattern seen in earlier chargebacks from this network; score %d of 100.",
}

var sites = []string{"Halden", "Oslo", "Göteborg", "Aarhus", "Hamburg", "Rotterdam", "Gdańsk", "Tromsø"}

var agents = []string{"Mozilla/5.0 (X11; Linux x86_64)", "Mozilla/5.0 (Macintosh; Intel Mac OS X)", "HaldenDriver/5.2 (Android 15)", "curl/8.9"}
